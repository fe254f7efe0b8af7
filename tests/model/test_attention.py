"""lmlib/model/attention.py: scaled dot-product attention and its multi-head, causal form."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from lmlib.model import MultiHeadSelfAttention, RotaryEmbedding, scaled_dot_product_attention
from lmlib.model.attention import AttentionKernel

KERNELS = get_args(AttentionKernel)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def make(kernel: AttentionKernel, rope: bool = True, num_heads: int = 2) -> MultiHeadSelfAttention:
    table = RotaryEmbedding(8 // num_heads, 16, theta=100.0) if rope else None
    return MultiHeadSelfAttention(8, num_heads, rope=table, kernel=kernel, generator=seeded())


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


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 3, 6, 8), (1, 1, 8)])
def test_kernels_agree_in_values_and_gradients(shape: tuple[int, ...], rope: bool) -> None:
    results = []
    for kernel in KERNELS:
        layer, x = make(kernel, rope), random(*shape).requires_grad_()
        y = layer(x)
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
