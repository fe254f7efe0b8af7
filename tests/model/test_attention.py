"""lmlib/model/attention.py: scaled dot-product attention and its multi-head, causal form."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from lmlib.model import (
    MultiHeadSelfAttention,
    RMSNorm,
    RotaryEmbedding,
    documents_of,
    scaled_dot_product_attention,
)
from lmlib.model.attention import AttentionKernel

KERNELS = get_args(AttentionKernel)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def make(
    kernel: AttentionKernel, rope: bool = True, num_heads: int = 2, **options: Any
) -> MultiHeadSelfAttention:
    table = RotaryEmbedding(8 // num_heads, 16, theta=100.0) if rope else None
    layer = MultiHeadSelfAttention(
        8, num_heads, rope=table, kernel=kernel, generator=seeded(), **options
    )
    for number, norm in enumerate((layer.q_norm, layer.k_norm)):
        if isinstance(norm, RMSNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=seeded(number))
    return layer


def test_attention_by_hand() -> None:
    """d_k = 4: scores 2 ln 3 / sqrt(4) = ln 3 and 0, weights 3/4 and 1/4 of the values 8 and 4."""
    Q = torch.tensor([[2 * math.log(3), 0.0, 0.0, 0.0]])
    K = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    V = torch.tensor([[8.0], [4.0]])
    torch.testing.assert_close(scaled_dot_product_attention(Q, K, V), torch.tensor([[7.0]]))


def test_mask_true_means_attend() -> None:
    """Equal scores: the first query averages 1 and 2, the second takes 4 alone."""
    mask = torch.tensor([[True, True, False], [False, False, True]])
    V = torch.tensor([[1.0], [2.0], [4.0]])
    attended = scaled_dot_product_attention(torch.zeros(2, 3), torch.zeros(3, 3), V, mask)
    assert attended.tolist() == [[1.5], [4.0]]


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torch(leading: tuple[int, ...], masked: bool) -> None:
    """Different numbers of queries and keys, different sizes of keys and values."""
    Q, K, V = random(*leading, 5, 4), random(*leading, 7, 4, seed=1), random(*leading, 7, 3, seed=2)
    mask = None
    if masked:
        mask = torch.rand(*leading, 5, 7, generator=seeded(3)) < 0.5
        mask[..., 0] = True
    expected = nn.functional.scaled_dot_product_attention(Q, K, V, mask)
    torch.testing.assert_close(scaled_dot_product_attention(Q, K, V, mask), expected)


def test_a_mask_is_shared_by_leading_axes() -> None:
    Q, K, V = random(2, 3, 5, 4), random(2, 3, 5, 4, seed=1), random(2, 3, 5, 4, seed=2)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    shared = scaled_dot_product_attention(Q, K, V, mask)
    assert torch.equal(shared, scaled_dot_product_attention(Q, K, V, mask.expand(2, 3, 5, 5)))


def test_attention_of_large_scores_does_not_overflow() -> None:
    """The scores are 1e8; all weight goes to the first key."""
    K = torch.tensor([[1e4], [-1e4]])
    V = torch.tensor([[1.0], [2.0]])
    assert scaled_dot_product_attention(torch.tensor([[1e4]]), K, V).tolist() == [[1.0]]


def test_a_query_that_may_attend_to_nothing() -> None:
    """Its softmax is 0/0; the other query is not affected."""
    mask = torch.tensor([[False, False], [True, False]])
    attended = scaled_dot_product_attention(
        torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]), mask
    )
    assert attended[0].isnan().all()
    assert attended[1].tolist() == [1.0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_multi_head_equals_torch(kernel: AttentionKernel, num_heads: int) -> None:
    layer = make(kernel, rope=False, num_heads=num_heads)
    reference = nn.MultiheadAttention(8, num_heads, bias=False, batch_first=True)
    projections = (layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight)
    reference.load_state_dict(
        {"in_proj_weight": torch.cat(projections), "out_proj.weight": layer.output_proj.weight}
    )
    x = random(3, 6, 8)
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)  # there, True means hidden
    expected, _ = reference(x, x, x, attn_mask=future, need_weights=False)
    torch.testing.assert_close(layer(x), expected)


def written_out(
    Q: Tensor, K: Tensor, V: Tensor, window: int, documents: list[int]
) -> Tensor:  # (heads, seq, d) and (kv_heads, seq, d)
    """Attention one query at a time; consecutive heads share keys and values."""
    heads, seq, d_head = Q.shape
    shared = heads // len(K)
    attended = torch.empty_like(Q)
    for head in range(heads):
        for i in range(seq):
            seen = slice(max(documents[i], i - window + 1), i + 1)
            keys, values = K[head // shared, seen], V[head // shared, seen]
            weights = (keys @ Q[head, i] / math.sqrt(d_head)).exp()
            attended[head, i] = weights @ values / weights.sum()
    return attended


def normed(x: Tensor, norm: nn.Module, eps: float) -> Tensor:
    root_mean_square = ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps) ** 0.5
    return x / root_mean_square * norm.get_parameter("weight")


GROUPS_AND_WINDOWS = [(4, 100), (1, 100), (2, 100), (4, 3), (2, 3), (1, 1), (2, 5), (2, 6)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("qk_norm_eps", [None, 0.1])
@pytest.mark.parametrize(("num_kv_heads", "window"), GROUPS_AND_WINDOWS)
@pytest.mark.parametrize("documents", [None, [0, 0, 2, 2, 2, 2], [0, 1, 1, 1, 4, 4]], ids=str)
def test_attention_written_out(
    kernel: AttentionKernel,
    rope: bool,
    qk_norm_eps: float | None,
    num_kv_heads: int,
    window: int,
    documents: list[int] | None,
) -> None:
    """Four heads of queries of size 2, and a window that is open, one token, or all six."""
    options = {"num_kv_heads": num_kv_heads, "window": window, "qk_norm_eps": qk_norm_eps}
    layer = make(kernel, rope, num_heads=4, **options)
    x = random(6, 8)
    Q, K, V = (
        (x @ projection.weight.T).double().view(6, -1, 2).transpose(0, 1)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    if qk_norm_eps is not None:
        Q, K = normed(Q, layer.q_norm, qk_norm_eps), normed(K, layer.k_norm, qk_norm_eps)
    if layer.rope is not None:
        Q, K = layer.rope(Q, None), layer.rope(K, None)
    attended = written_out(Q, K, V, window, documents or [0] * 6).float()
    expected = attended.transpose(0, 1).reshape(6, 8) @ layer.output_proj.weight.T
    found = layer(x, documents=None if documents is None else torch.tensor(documents))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_a_shared_head_is_one_that_is_repeated(kernel: AttentionKernel, num_kv_heads: int) -> None:
    """The same values from PyTorch's attention; the gradients of the copies add up."""
    grouped = make(kernel, num_heads=4, num_kv_heads=num_kv_heads)
    full = make("sdpa", num_heads=4)
    weights = {name: weight.clone() for name, weight in grouped.state_dict().items()}
    for name in ("k_proj.weight", "v_proj.weight"):
        of_heads = weights[name].unflatten(0, (num_kv_heads, 2))
        weights[name] = of_heads.repeat_interleave(4 // num_kv_heads, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    x = random(3, 6, 8)
    outputs = grouped(x), full(x)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output * random(3, 6, 8, seed=1)).sum().backward()
    for name, parameter in grouped.named_parameters():
        expected = full.get_parameter(name).grad
        assert expected is not None
        if parameter.shape != expected.shape:
            copies = expected.unflatten(0, (num_kv_heads, 4 // num_kv_heads, 2))
            expected = copies.sum(dim=1).flatten(0, 1)
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_window_of_the_whole_sequence_has_the_bits_of_none(kernel: AttentionKernel) -> None:
    x = random(3, 6, 8)
    assert torch.equal(make(kernel, window=6)(x), make(kernel)(x))
    assert not torch.allclose(make(kernel, window=5)(x), make(kernel)(x), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kv_heads": 1},
        {"window": 3},
        {"qk_norm_eps": 0.1},
        {"num_kv_heads": 1, "window": 3, "qk_norm_eps": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 3, 6, 8), (1, 1, 8)])
def test_kernels_agree_in_values_and_gradients(
    shape: tuple[int, ...], rope: bool, isolated: bool, options: dict[str, Any]
) -> None:
    results = []
    documents = None
    if isolated:
        ids = torch.randint(3, shape[:-1], generator=seeded(2))
        documents = documents_of(ids, separator_id=0)
    for kernel in KERNELS:
        layer, x = make(kernel, rope, **options), random(*shape).requires_grad_()
        y = layer(x, documents=documents)
        (y * random(*shape, seed=1)).sum().backward()
        results.append((y, x.grad, *(p.grad for p in layer.parameters())))
    for tensors in zip(*results, strict=True):
        for tensor in tensors[1:]:
            torch.testing.assert_close(tensor, tensors[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_positions_of_every_shape(kernel: AttentionKernel) -> None:
    """(seq,), (1, seq) and (batch, seq) of equal rows agree, as do 0, 1, 2, ... and none given."""
    layer, x = make(kernel), random(3, 5, 8)
    positions = torch.tensor([0, 4, 5, 9, 15])
    expected = layer(x, positions)
    torch.testing.assert_close(layer(x, positions[None]), expected)
    torch.testing.assert_close(layer(x, positions.expand(3, 5)), expected)
    torch.testing.assert_close(layer(x, torch.arange(5)), layer(x))
    assert not torch.allclose(layer(x), expected, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_row_has_positions_of_its_own(kernel: AttentionKernel) -> None:
    """As many rows as heads: positions taken for the heads' would pass unseen otherwise."""
    layer, x = make(kernel), random(2, 5, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 3, 5, 9, 15]])
    alone = torch.stack([layer(row, at) for row, at in zip(x, positions, strict=True)])
    torch.testing.assert_close(layer(x, positions), alone)


@pytest.mark.parametrize("kernel", KERNELS)
def test_shifted_positions_change_nothing(kernel: AttentionKernel) -> None:
    """RoPE depends on distances only, and values are not rotated."""
    layer, x = make(kernel), random(2, 5, 8)
    torch.testing.assert_close(layer(x, torch.arange(5) + 11), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_token_attends_to_itself(kernel: AttentionKernel) -> None:
    """Its weight is 1 at any position, so the result is output_proj(v_proj(x))."""
    layer, x = make(kernel), random(2, 1, 8)
    torch.testing.assert_close(
        layer(x, torch.tensor([7])), x @ layer.v_proj.weight.T @ layer.output_proj.weight.T
    )


def test_a_width_that_the_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="d_model=8 is not divisible by num_heads=3"):
        MultiHeadSelfAttention(8, 3)


def test_heads_that_the_kv_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="num_heads=4 is not divisible by num_kv_heads=3"):
        MultiHeadSelfAttention(8, 4, num_kv_heads=3)
