"""The training loss against cross-entropy of all logits, which it avoids."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmlib.functional import cross_entropy, soft_cap
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM, linear_cross_entropy, loss
from lmlib.model.loss import weighted_cross_entropy

TOKENS, D_MODEL, VOCAB = 37, 16, 50
CAPS = [0.0, 3.0]  # the logits have a standard deviation of 4


@pytest.fixture(params=[1, 7 * VOCAB, 1 << 20], ids=["a row", "parts", "all"])
def at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split the work into parts of one row, of some rows, and of all."""
    monkeypatch.setitem(loss.LOGITS, "cpu", request.param)
    monkeypatch.setattr(loss, "LEAST_ROWS", 1)


def random_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states, weights and targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, D_MODEL, generator=generator, dtype=dtype)
    weight = torch.randn(VOCAB, D_MODEL, generator=generator, dtype=dtype)
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("softcap", CAPS)
def test_value_and_gradients_are_those_of_cross_entropy(softcap: float) -> None:
    hidden, weight, targets = random_inputs(torch.float32)
    expected = cross_entropy(soft_cap(hidden @ weight.T, softcap), targets)
    expected_gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    found = linear_cross_entropy(hidden, weight, targets, softcap)
    gradients = torch.autograd.grad(3 * found, (hidden, weight))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("softcap", CAPS)
@pytest.mark.parametrize(
    "along_random_directions", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_gradients_in_float64_are_those_of_differences(
    softcap: float, along_random_directions: bool
) -> None:
    hidden, weight, targets = random_inputs(torch.float64)
    assert linear_cross_entropy(hidden, weight, targets, softcap).dtype == torch.float64
    torch.autograd.gradcheck(
        lambda x, w: linear_cross_entropy(x, w, targets, softcap),
        (hidden, weight),
        fast_mode=along_random_directions,
    )


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("softcap", CAPS)
def test_weights_of_the_tokens(softcap: float) -> None:
    """The mean of weight times loss, and its gradients; weights need not have a mean of 1.

    The loss without them has none.
    """
    hidden, weight, targets = random_inputs(torch.float64)
    token_weights = torch.rand(TOKENS, generator=torch.Generator().manual_seed(1)).double() * 3
    log_p = torch.log_softmax(soft_cap(hidden @ weight.T, softcap), dim=-1)
    log_p = log_p[torch.arange(TOKENS), targets]
    expected = -(log_p * token_weights).mean()
    found, unweighted = weighted_cross_entropy(hidden, weight, targets, softcap, token_weights)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(unweighted, -log_p.mean().detach())
    assert not unweighted.requires_grad
    gradients = torch.autograd.grad(found, (hidden, weight))
    for gradient, by_hand in zip(
        gradients, torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(gradient, by_hand)


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("softcap", CAPS)
def test_bfloat16_under_autocast(softcap: float) -> None:
    """Products in bfloat16 and sums in float32; gradients in the dtypes of their tensors."""
    hidden, weight, targets = random_inputs(torch.float32)
    expected = cross_entropy(soft_cap(hidden @ weight.T, softcap), targets)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, targets, softcap)
    gradients = torch.autograd.grad(found, (hidden, weight))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == torch.float32
        scale = expected_gradient.abs().max().item()
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0.02 * scale)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = random_inputs(torch.float32)
    found = linear_cross_entropy(1e4 * hidden, weight, targets)
    torch.testing.assert_close(found, cross_entropy(1e4 * hidden @ weight.T, targets))
    assert found.isfinite()


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_the_logits_are_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.LOGITS, "cpu", 5 * VOCAB)
    monkeypatch.setattr(loss, "LEAST_ROWS", 1)
    hidden, weight, targets = random_inputs(torch.float32)
    with LargestTensor() as largest:
        linear_cross_entropy(hidden, weight, targets).backward()
    assert largest.elements == VOCAB * D_MODEL  # the gradient of the weight
    assert largest.elements < TOKENS * VOCAB


@pytest.mark.parametrize("softcap", [0.0, 0.5])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_next_token_loss_trains_the_model_as_its_logits_would(
    tie_embeddings: bool, softcap: float
) -> None:
    params = ModelParams(8, 16, 1, 2, 32, tie_embeddings=tie_embeddings, logit_softcap=softcap)
    model = TransformerLM(params, VOCAB, seed=1)
    ids = torch.randint(0, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    cross_entropy(model(inputs), targets).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    NextTokenLoss(model)(inputs, targets)[0].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("softcap", CAPS)
def test_without_gradients_only_the_value_is_made(softcap: float) -> None:
    hidden, weight, targets = random_inputs(torch.float32)
    with torch.no_grad():
        found = linear_cross_entropy(hidden, weight, targets, softcap)
        both = weighted_cross_entropy(hidden, weight, targets, softcap, torch.full((TOKENS,), 2.0))
        expected = cross_entropy(soft_cap(hidden @ weight.T, softcap), targets)
    torch.testing.assert_close(both, (2 * expected, expected))
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "device", "rows"),
    [
        (32_768, 10_000, "cpu", 256),
        (32_768, 10_000, "cuda", 16_384),  # two parts, where 26,843 tokens would fit
        (32_768, 32_000, "cuda", 8192),
        (1000, 10_000, "cuda", 1024),  # one part
        (32_768, 10_000, "mps", 3328),  # ten parts of a memory that all programs share
    ],
)
def test_parts_on_a_gpu_are_of_one_size(
    tokens: int, vocab_size: int, device: str, rows: int
) -> None:
    """Multiples of 128, so that no product has an odd size; the last part is the shorter one."""
    assert loss.rows_at_a_time(tokens, vocab_size, torch.device(device)) == rows


def test_small_gradients_do_not_vanish_in_float16() -> None:
    """A probability of 1/8192, over 4096 tokens, is half of the least float16: not to be rounded.

    The weights have the mean 1, so that the sum of such probabilities times weights matters.
    """
    generator = torch.Generator().manual_seed(1)
    hidden = 0.01 * torch.randn(4096, 8, generator=generator)
    weight = 1 + 0.1 * torch.randn(8192, 8, generator=generator)
    targets = torch.randint(8192, (4096,), generator=generator)
    expected = torch.autograd.grad(
        cross_entropy(hidden.requires_grad_() @ weight.T, targets), hidden
    )
    with torch.autocast("cpu", torch.float16):
        loss = linear_cross_entropy(hidden, weight, targets)
    (actual,) = torch.autograd.grad(loss, hidden)
    assert actual.dtype == torch.float32
    largest = expected[0].abs().max().item()
    torch.testing.assert_close(actual, expected[0], rtol=0, atol=2e-3 * largest)
