"""lmlib/optim/clip.py: clipping by the global norm."""

import math

import pytest
import torch
from torch import nn

from lmlib.optim import AdamW, clip_grad_norm_, clip_scale


def with_gradient(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    p = nn.Parameter(torch.zeros(len(values), dtype=dtype))
    p.grad = torch.tensor(values, dtype=dtype)
    return p


def gradients(parameters: list[nn.Parameter]) -> list[list[float]]:
    return [[] if p.grad is None else p.grad.tolist() for p in parameters]


def test_one_norm_over_all_gradients_by_hand() -> None:
    """(3) and (4) together have norm 5: scaled to 1 they are 0.6 and 0.8, not 1 and 1."""
    parameters = [with_gradient(3.0), with_gradient(4.0)]
    assert clip_grad_norm_(parameters, 1.0).item() == 5.0
    assert gradients(parameters) == [[pytest.approx(0.6)], [pytest.approx(0.8)]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_equals_torch(max_norm: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 4), (5,), ())]
    theirs = [nn.Parameter(torch.zeros_like(p)) for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
        q.grad = p.grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(clip_grad_norm_(ours, max_norm), expected)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("max_norm", [5.0, 5.1, math.inf])
def test_nothing_changes_up_to_the_maximum(max_norm: float) -> None:
    """Bit for bit: max_norm / (5 + eps) times the gradient would shrink it a little at 5."""
    parameters = [with_gradient(3.0, 4.0)]
    clip_grad_norm_(parameters, max_norm)
    assert gradients(parameters) == [[3.0, 4.0]]


def test_clipped_norm_is_not_above_the_maximum() -> None:
    parameters = [with_gradient(*(0.1 * k for k in range(1, 100)))]
    clip_grad_norm_(parameters, 1.0)
    assert 1 - 1e-5 < clip_grad_norm_(parameters, 1.0).item() <= 1


def test_any_iterable() -> None:
    """A generator, which can be read only once."""
    parameters = [with_gradient(3.0), with_gradient(4.0)]
    clip_grad_norm_((p for p in parameters), 1.0)
    assert gradients(parameters) == [[pytest.approx(0.6)], [pytest.approx(0.8)]]


def test_parameters_without_gradient_are_skipped() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), with_gradient(3.0, 4.0)]
    assert clip_grad_norm_(parameters, 1.0).item() == 5.0
    assert gradients(parameters) == [[], [pytest.approx(0.6), pytest.approx(0.8)]]


def test_without_any_gradient_the_norm_is_zero() -> None:
    assert clip_grad_norm_([], 1.0).item() == 0
    assert clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0).item() == 0


def test_zero_gradients_stay_zero() -> None:
    parameters = [with_gradient(0.0, 0.0)]
    assert clip_grad_norm_(parameters, 1.0).item() == 0
    assert gradients(parameters) == [[0.0, 0.0]]


def test_half_precision_gradients_do_not_overflow() -> None:
    """3e4 and 4e4 have norm 5e4, but their squares exceed the float16 maximum of 65504."""
    parameters = [with_gradient(3e4, 4e4, dtype=torch.float16)]
    assert clip_grad_norm_(parameters, 1.0).item() == pytest.approx(5e4, rel=1e-3)
    assert gradients(parameters) == [[pytest.approx(0.6, rel=2e-3), pytest.approx(0.8, rel=2e-3)]]


def test_gradients_of_different_dtypes() -> None:
    parameters = [with_gradient(3.0, dtype=torch.bfloat16), with_gradient(4.0, dtype=torch.float64)]
    assert clip_grad_norm_(parameters, 1.0).item() == 5.0
    assert gradients(parameters) == [[pytest.approx(0.6, rel=1e-2)], [pytest.approx(0.8)]]


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    """The training loop stops at such a norm; clipping must not hide it."""
    assert clip_grad_norm_([with_gradient(1.0, math.nan)], 1.0).isnan()
    assert clip_grad_norm_([with_gradient(1.0, math.inf)], 1.0).isinf()


@pytest.mark.parametrize("max_norm", [1.0, 5.0, math.inf])
def test_a_scaled_step_equals_clipping_first(max_norm: float) -> None:
    """Bit for bit, clipped or not; the gradients themselves are not changed."""

    def parameters() -> list[nn.Parameter]:
        return [with_gradient(3.0, 0.1), with_gradient(4.0)]

    clipped, scaled = parameters(), parameters()
    expected = clip_grad_norm_(clipped, max_norm)
    AdamW(clipped, eps=1.0).step()
    norm, scale = clip_scale((p for p in scaled), max_norm)
    AdamW(scaled, eps=1.0).step(grad_scale=scale)
    assert torch.equal(norm, expected)
    assert gradients(scaled) == gradients(parameters())
    for p, q in zip(clipped, scaled, strict=True):
        assert torch.equal(p, q)


def test_the_scale_is_one_up_to_the_maximum() -> None:
    assert clip_scale([with_gradient(3.0, 4.0)], 5.0)[1].item() == 1.0
    assert clip_scale([with_gradient(3.0, 4.0)], 2.5, eps=0.0)[1].item() == 0.5
    assert clip_scale([], 1.0)[1].item() == 1.0
