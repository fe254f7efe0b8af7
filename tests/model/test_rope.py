"""lmlib/model/rope.py: rotary position embedding."""

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lmlib.model import RotaryEmbedding


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotate_in_complex_plane(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """The same rotation as multiplication by exp(i angle), in float64."""
    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    angles = positions[..., None] * frequencies
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def test_rope_by_hand() -> None:
    """Position 2, theta 100: the pairs (0, 1) and (2, 3) turn by 2 and 2 * 100**(-1/2) = 0.2."""
    rope = RotaryEmbedding(4, 8, theta=100.0)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    expected = torch.tensor([[math.cos(2), math.sin(2), -math.sin(0.2), math.cos(0.2)]])
    torch.testing.assert_close(rope(x, torch.tensor([2])), expected)


def test_position_zero_does_not_turn() -> None:
    x = random(1, 6)
    assert torch.equal(RotaryEmbedding(6, 1, theta=1e4)(x, None), x)


@pytest.mark.parametrize("theta", [10_000.0, 37.0])
@pytest.mark.parametrize("shape", [(7, 6), (2, 7, 6), (2, 3, 7, 6)])
def test_rope_equals_complex_multiplication(shape: tuple[int, ...], theta: float) -> None:
    x = random(*shape)
    expected = rotate_in_complex_plane(x, torch.arange(7), theta).float()
    torch.testing.assert_close(RotaryEmbedding(6, 16, theta)(x, None), expected)


def test_positions_broadcast_over_leading_axes() -> None:
    """(seq,), (1, seq) and (batch, seq) of equal rows agree; rows of their own differ."""
    rope, x = RotaryEmbedding(6, 50, theta=1e4), random(2, 5, 6)
    positions = torch.tensor([3, 0, 49, 7, 7])
    shared = rope(x, positions)
    torch.testing.assert_close(shared, rotate_in_complex_plane(x, positions, 1e4).float())
    assert torch.equal(rope(x, positions[None]), shared)
    assert torch.equal(rope(x, positions.expand(2, 5)), shared)
    rows = torch.stack((positions, positions.flip(0)))
    torch.testing.assert_close(rope(x, rows), rotate_in_complex_plane(x, rows, 1e4).float())


def test_positions_default_to_counting_from_zero() -> None:
    rope, x = RotaryEmbedding(6, 8, theta=1e4), random(2, 5, 6)
    assert torch.equal(rope(x, None), rope(x, torch.arange(5)))


def test_scores_depend_only_on_the_distance() -> None:
    """The point of the method: q at 7 with k at 4 scores as q at 40 with k at 37."""
    rope, q, k = RotaryEmbedding(8, 64, theta=1e4), random(1, 8), random(1, 8, seed=1)

    def score(at_q: int, at_k: int) -> float:
        return (rope(q, torch.tensor([at_q])) * rope(k, torch.tensor([at_k]))).sum().item()

    assert score(7, 4) == pytest.approx(score(40, 37), abs=1e-5)
    assert score(7, 4) != pytest.approx(score(7, 5), abs=1e-2)


def test_rotation_keeps_the_norm() -> None:
    x = random(20, 8)
    turned = RotaryEmbedding(8, 20, theta=1e4)(x, None)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize(("d_head", "theta"), [(6, 37.0), (64, 10_000.0), (128, 500_000.0)])
def test_angles_are_those_of_transformers(d_head: int, theta: float) -> None:
    """At position 4095, angles in float64 would give cosines that differ by more than 1e-5."""
    rope_parameters = {"rope_type": "default", "rope_theta": theta}
    config = LlamaConfig(head_dim=d_head, rope_parameters=rope_parameters)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(4096)[None])
    rope = RotaryEmbedding(d_head, 4096, theta)
    torch.testing.assert_close(rope.cos, cos[0, :, : d_head // 2], rtol=0, atol=1e-6)
    torch.testing.assert_close(rope.sin, sin[0, :, : d_head // 2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_turns_in_float32_and_comes_back(dtype: torch.dtype) -> None:
    x = random(7, 6).to(dtype)
    expected = rotate_in_complex_plane(x, torch.arange(7), 1e4).to(dtype)
    turned = RotaryEmbedding(6, 8, theta=1e4)(x, None)
    assert turned.dtype == dtype
    assert (turned == expected).float().mean() > 0.95  # all but a value on the edge of rounding


def test_tables_are_not_saved() -> None:
    assert RotaryEmbedding(6, 8, theta=1e4).state_dict() == {}


def test_an_odd_head_size() -> None:
    with pytest.raises(ValueError, match="d_head is 5; pairs need an even head size"):
        RotaryEmbedding(5, 8, theta=1e4)


def test_a_sequence_longer_than_the_tables() -> None:
    with pytest.raises(ValueError, match="a sequence of 9 tokens is longer than the 8 positions"):
        RotaryEmbedding(6, 8, theta=1e4)(random(9, 6), None)


def test_a_position_beyond_the_tables() -> None:
    with pytest.raises(IndexError, match="index 8 is out of bounds"):
        RotaryEmbedding(6, 8, theta=1e4)(random(1, 6), torch.tensor([8]))
