"""Attention in parts against plain attention."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from lmlib.model import cpu_attention, scaled_dot_product_attention
from lmlib.model.cpu_attention import causal_attention
from lmlib.model.mask import causal_mask, documents_of


def heads(seq: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return Q, K and V of two sequences and three heads, in the layout of the projections."""
    generator = torch.Generator().manual_seed(seq)
    return [
        torch.randn(2, seq, 3, 8, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]


def written_out(
    q: Tensor, k: Tensor, v: Tensor, window: int = 0, documents: Tensor | None = None
) -> Tensor:
    seq = q.shape[-2]
    mask = causal_mask(torch.arange(seq), seq, window, documents)
    if documents is not None:
        mask = mask.unsqueeze(1)
    return scaled_dot_product_attention(q, k, v, mask)


def documents(seq: int) -> Tensor:
    """Return the documents of two sequences; these are of different lengths, some of one token."""
    ids = torch.ones(2, seq, dtype=torch.int64)
    ids[0, [i for i in (2, 3, 9, 14) if i < seq]] = 0
    ids[1, ::5] = 0
    return documents_of(ids, 0)


def with_gradients(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Return the result, and the gradients of a weighted sum of it."""
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)]


@pytest.mark.parametrize("kept_context", [0, 1 << 20], ids=["computed again", "kept"])
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("window", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("seq", [1, 3, 4, 5, 8, 21])
def test_result_and_gradients_are_those_of_the_written_out_one(
    monkeypatch: pytest.MonkeyPatch, seq: int, window: int, isolated: bool, kept_context: int
) -> None:
    """Sequences of less than one part, of exactly one and two, and with a shorter last part.

    Windows within a part, of one part, and from a part into those before it; documents as well.
    """
    monkeypatch.setattr(cpu_attention, "QUERIES", 4)
    monkeypatch.setattr(cpu_attention, "KEPT_CONTEXT", kept_context)
    options = {"window": window, "documents": documents(seq) if isolated else None}
    # plain attention computes the softmax of float64 scores in float32
    for found, expected in zip(
        with_gradients(partial(causal_attention, **options), heads(seq)),
        with_gradients(partial(written_out, **options), heads(seq)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize(
    "along_random_directions", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_gradients_by_finite_differences(
    monkeypatch: pytest.MonkeyPatch, window: int, isolated: bool, along_random_directions: bool
) -> None:
    monkeypatch.setattr(cpu_attention, "QUERIES", 4)
    options = {"window": window, "documents": documents(9) if isolated else None}
    attention = partial(causal_attention, **options)
    assert torch.autograd.gradcheck(attention, heads(9), fast_mode=along_random_directions)


def test_bfloat16_is_as_exact_as_its_dtype() -> None:
    rounded = [x.bfloat16().detach().requires_grad_() for x in heads(300)]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    for found, expected in zip(
        with_gradients(causal_attention, rounded), with_gradients(written_out, exact), strict=True
    ):
        assert found.dtype == torch.bfloat16
        scale = expected.abs().max().item()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.02 * scale)


def test_one_sequence_without_a_batch() -> None:
    q, k, v = (x[0] for x in heads(5))
    assert causal_attention(q, k, v).shape == (3, 5, 8)
    torch.testing.assert_close(causal_attention(q, k, v), causal_attention(*heads(5))[0])


def test_the_same_bits_at_every_run() -> None:
    tensors = heads(70, torch.float32)
    first = with_gradients(causal_attention, tensors)
    for found, expected in zip(with_gradients(causal_attention, tensors), first, strict=True):
        assert torch.equal(found, expected)


def test_the_compiler_knows_its_shapes() -> None:
    """What torch.compile is told about shapes and gradients matches the operation."""
    with torch.no_grad():
        tensors = tuple(x.contiguous() for x in heads(6, torch.float32))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for of, window, keep in product((None, documents(6)), (0, 2), (False, True)):
        arguments = (*tensors, of, window, keep)
        torch.library.opcheck(cpu_attention._forward, arguments, test_utils=checks)
