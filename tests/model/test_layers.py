"""lmlib/model/layers.py: Linear, Embedding, RMSNorm and the feed-forward networks."""

import math

import pytest
import torch
from torch import Tensor, nn

from lmlib.model import Embedding, Linear, ReLU2FeedForward, RMSNorm, SiLUFeedForward, SwiGLU

LEADING = [(), (3,), (2, 3), (2, 1, 3)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def set_weight(layer: nn.Module, rows: list[list[float]] | list[float]) -> None:
    layer.load_state_dict({"weight": torch.tensor(rows)})


def test_linear_by_hand() -> None:
    """W = ((1, 2), (3, 4), (5, 6)) is (out, in): x = (1, 10) gives (21, 43, 65)."""
    layer = Linear(2, 3)
    set_weight(layer, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert layer(torch.tensor([1.0, 10.0])).tolist() == [21.0, 43.0, 65.0]


@pytest.mark.parametrize("leading", LEADING)
def test_linear_equals_torch(leading: tuple[int, ...]) -> None:
    layer, reference = Linear(5, 7).double(), nn.Linear(5, 7, bias=False).double()
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(*leading, 5, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(x), rtol=1e-12, atol=1e-14)


def check_truncated_normal(weight: Tensor, std: float) -> None:
    """Truncation at three deviations leaves 0.9866 of the deviation, and nothing beyond."""
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * std)
    assert weight.std().item() == pytest.approx(0.9866 * std, rel=0.01)
    assert 2.9 * std < weight.abs().max().item() <= 3 * std


def test_linear_is_drawn_from_a_truncated_normal() -> None:
    """d_in + d_out = 800, so the standard deviation is sqrt(2 / 800) = 0.05."""
    check_truncated_normal(Linear(300, 500, generator=seeded()).weight, 0.05)


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_embedding_is_drawn_from_a_truncated_normal(std: float) -> None:
    check_truncated_normal(Embedding(500, 300, std=std, generator=seeded()).weight, std)


def test_layers_of_one_seed_are_equal_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first = SwiGLU(4, 6, generator=seeded(1)).state_dict()
    second = SwiGLU(4, 6, generator=seeded(1)).state_dict()
    other = SwiGLU(4, 6, generator=seeded(2)).state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
        assert not torch.equal(weight, other[name])
    assert torch.equal(state, torch.get_rng_state())


def test_linear_of_a_wrong_last_axis() -> None:
    match = r"Linear: x has shape \(5, 2\), its last axis should be d_in=5; move"
    with pytest.raises(ValueError, match=match):
        Linear(5, 2)(torch.zeros(5, 2))


@pytest.mark.parametrize("leading", [*LEADING, (0,)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_embedding_returns_the_row_of_each_id(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = Embedding(11, 4, generator=seeded())
    token_ids = torch.randint(11, leading, generator=seeded(), dtype=dtype)
    assert torch.equal(layer(token_ids), layer.weight[token_ids])


def test_embedding_gradient_adds_up_over_repeated_ids() -> None:
    """Id 1 occurs three times, id 2 once, id 0 never."""
    layer = Embedding(3, 2)
    layer(torch.tensor([[1, 2], [1, 1]])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0.0, 0.0], [3.0, 3.0], [1.0, 1.0]]


@pytest.mark.parametrize("token_id", [-1, 3])
def test_embedding_of_an_id_out_of_range(token_id: int) -> None:
    """A negative id must not count from the end of the vocabulary."""
    with pytest.raises(IndexError, match="out of range"):
        Embedding(3, 2)(torch.tensor([token_id]))


def test_rmsnorm_by_hand() -> None:
    """x = (3, 4) has mean square 12.5, so y = x / sqrt(12.5), times the gains 1 and 2."""
    layer = RMSNorm(2, eps=0.0)
    set_weight(layer, [1.0, 2.0])
    expected = torch.tensor([[3.0, 8.0]]) / 12.5**0.5
    torch.testing.assert_close(layer(torch.tensor([[3.0, 4.0]])), expected)


def test_rmsnorm_adds_eps_inside_the_root() -> None:
    """x = (1, 1), eps = 3: 1 / sqrt(1 + 3) = 1/2, outside the root it would be 1 / (1 + 3)."""
    assert RMSNorm(2, eps=3.0)(torch.ones(2)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("leading", LEADING)
def test_rmsnorm_equals_torch(leading: tuple[int, ...]) -> None:
    layer, reference = RMSNorm(6, eps=0.1), nn.RMSNorm(6, eps=0.1)
    set_weight(layer, [0.5, -1.0, 2.0, 0.0, 1.0, 3.0])
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(*leading, 6, generator=seeded())
    torch.testing.assert_close(layer(x), reference(x))


def test_rmsnorm_of_zeros_is_zero() -> None:
    assert RMSNorm(3)(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rmsnorm_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """300**2 exceeds the float16 maximum of 65504; the answer is 1 everywhere, in x's dtype."""
    x = torch.full((1, 8), 300.0, dtype=dtype)
    torch.testing.assert_close(RMSNorm(8)(x), torch.ones_like(x))


def test_rmsnorm_keeps_float64() -> None:
    x = torch.randn(4, 8, generator=seeded(), dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(RMSNorm(8)(x), expected, rtol=1e-14, atol=0)


def test_rmsnorm_of_a_wrong_last_axis() -> None:
    match = r"RMSNorm: x has shape \(4, 1\), its last axis should be d_model=4"
    with pytest.raises(ValueError, match=match):
        RMSNorm(4)(torch.zeros(4, 1))


def test_swiglu_by_hand() -> None:
    """w1 x = ln 3, w3 x = 4, w2 = 5: 5 * (ln 3 * 3/4) * 4 = 15 ln 3; swapped gates give another."""
    layer = SwiGLU(1, 1)
    for linear, weight in ((layer.w1, math.log(3)), (layer.w3, 4.0), (layer.w2, 5.0)):
        set_weight(linear, [[weight]])
    torch.testing.assert_close(layer(torch.ones(1)), torch.tensor([15 * math.log(3)]))


@pytest.mark.parametrize("leading", LEADING)
def test_swiglu_equals_torch(leading: tuple[int, ...]) -> None:
    layer = SwiGLU(4, 6, generator=seeded())
    x = torch.randn(*leading, 4, generator=seeded())
    gate = nn.functional.silu(nn.functional.linear(x, layer.w1.weight))
    hidden = gate * nn.functional.linear(x, layer.w3.weight)
    torch.testing.assert_close(layer(x), nn.functional.linear(hidden, layer.w2.weight))


def test_relu2_feed_forward_by_hand() -> None:
    """d_ff = 2, so 3 hidden: w1 x = (2, -2, 1), squared (4, 0, 1), times 1, 10 and 100."""
    layer = ReLU2FeedForward(1, 2)
    set_weight(layer.w1, [[2.0], [-2.0], [1.0]])
    set_weight(layer.w2, [[1.0, 10.0, 100.0]])
    assert layer(torch.ones(1)).tolist() == [104.0]


@pytest.mark.parametrize("leading", LEADING)
def test_relu2_feed_forward_equals_torch(leading: tuple[int, ...]) -> None:
    layer = ReLU2FeedForward(4, 6, generator=seeded())
    x = torch.randn(*leading, 4, generator=seeded())
    hidden = nn.functional.relu(nn.functional.linear(x, layer.w1.weight)) ** 2
    torch.testing.assert_close(layer(x), nn.functional.linear(hidden, layer.w2.weight))


@pytest.mark.parametrize("leading", LEADING)
def test_silu_feed_forward_equals_torch(leading: tuple[int, ...]) -> None:
    layer = SiLUFeedForward(4, 6, generator=seeded())
    x = torch.randn(*leading, 4, generator=seeded())
    hidden = nn.functional.silu(nn.functional.linear(x, layer.w1.weight))
    torch.testing.assert_close(layer(x), nn.functional.linear(hidden, layer.w2.weight))


def test_all_feed_forward_networks_have_as_many_weights() -> None:
    """3 * 10 * 16 = 480 = 2 * 10 * 24."""
    for layer in (SwiGLU(10, 16), SiLUFeedForward(10, 16), ReLU2FeedForward(10, 16)):
        assert sum(p.numel() for p in layer.parameters()) == 480
