"""lmlib/functional.py: softmax, activations, soft cap and cross-entropy."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as reference

from lmlib.functional import cross_entropy, relu2, silu, soft_cap, softmax


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_softmax_by_hand() -> None:
    """exp(0) = 1 and exp(ln 3) = 3, of a sum of 4."""
    x = torch.tensor([[0.0, math.log(3)]])
    torch.testing.assert_close(softmax(x), torch.tensor([[0.25, 0.75]]))


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_softmax_along_any_axis_equals_torch(dim: int) -> None:
    x = random(2, 3, 4)
    torch.testing.assert_close(softmax(x, dim), torch.softmax(x, dim), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_softmax_of_large_logits_does_not_overflow(dtype: torch.dtype) -> None:
    """exp(1e4) is beyond every float; the two equal maxima share all the probability."""
    x = torch.tensor([1e4, 1e4, -1e4], dtype=dtype)
    torch.testing.assert_close(softmax(x), torch.tensor([0.5, 0.5, 0.0], dtype=dtype))


def test_softmax_of_a_large_vocabulary_in_float16() -> None:
    """The sum of 70,000 ones exceeds the float16 maximum of 65504."""
    x = torch.zeros(70_000, dtype=torch.float16)
    torch.testing.assert_close(softmax(x), torch.full_like(x, 1 / 70_000))


def test_softmax_of_minus_infinity() -> None:
    """It has probability 0; a row of only -inf gives NaN, and does not affect other rows."""
    x = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    probabilities = softmax(x)
    assert probabilities[0].tolist() == [1.0, 0.0]
    assert probabilities[1].isnan().all()


def test_softmax_gradient() -> None:
    torch.autograd.gradcheck(softmax, random(3, 4).requires_grad_())


def test_relu2_by_hand() -> None:
    assert relu2(torch.tensor([-2.0, 0.0, 0.5, 3.0])).tolist() == [0.0, 0.0, 0.25, 9.0]


def test_relu2_gradient() -> None:
    torch.autograd.gradcheck(relu2, random(3, 4).requires_grad_())


def test_soft_cap_by_hand() -> None:
    """tanh(ln 3) = (9 - 1) / (9 + 1) = 0.8, of a cap of 5."""
    x = torch.tensor([0.0, 5 * math.log(3), -1e30])
    torch.testing.assert_close(soft_cap(x, 5.0), torch.tensor([0.0, 4.0, -5.0]))


def test_a_soft_cap_of_zero_is_none() -> None:
    x = random(3, 4)
    assert soft_cap(x, 0.0) is x


def test_soft_cap_in_half_precision_is_rounded_once() -> None:
    x = random(1000, dtype=torch.float32).bfloat16()
    expected = 30 * torch.tanh(x.double() / 30)
    assert soft_cap(x, 30.0).equal(expected.bfloat16())


def test_soft_cap_gradient() -> None:
    torch.autograd.gradcheck(lambda x: soft_cap(x, 2.0), random(3, 4).requires_grad_())


def test_silu_by_hand() -> None:
    """sigmoid(ln 3) = 3/4, and 0 * 1/2 = 0."""
    x = torch.tensor([math.log(3), 0.0])
    torch.testing.assert_close(silu(x), torch.tensor([0.75 * math.log(3), 0.0]))


def test_silu_equals_torch() -> None:
    x = random(5, 7)
    torch.testing.assert_close(silu(x), reference.silu(x), rtol=1e-14, atol=0)


def test_silu_of_large_values() -> None:
    """The identity on the right, 0 on the left: no inf/inf from exp(1e4)."""
    assert silu(torch.tensor([1e4, -1e4])).tolist() == [1e4, 0.0]


def test_cross_entropy_by_hand() -> None:
    """Probabilities 1/4 and 3/4: the loss is ln(4/3) for the second, ln 4 for the first."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss = cross_entropy(logits, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 3, 4)])
def test_cross_entropy_averages_over_all_leading_axes(leading: tuple[int, ...]) -> None:
    logits = random(*leading, 5)
    targets = torch.randint(5, leading, generator=torch.Generator().manual_seed(1))
    expected = reference.cross_entropy(logits.reshape(-1, 5), targets.reshape(-1))
    torch.testing.assert_close(cross_entropy(logits, targets), expected, rtol=1e-13, atol=0)


def test_cross_entropy_of_large_logits() -> None:
    """exp(1e4) overflows, and exp(-2e4) is 0, with logarithm -inf; the loss is 2e4."""
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]])
    assert cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(1e4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """ln 70,000 = 11.1563, which bfloat16 rounds to 11.1875; float16 sums overflow."""
    loss = cross_entropy(torch.zeros(1, 70_000, dtype=dtype), torch.tensor([69_999]))
    torch.testing.assert_close(loss, torch.tensor(math.log(70_000)))


def test_cross_entropy_of_one_token_is_zero() -> None:
    assert cross_entropy(torch.tensor([[1e4]]), torch.tensor([0])).item() == 0


def test_cross_entropy_takes_int32_targets() -> None:
    logits = random(4, 5)
    targets = torch.tensor([0, 4, 2, 2])
    assert cross_entropy(logits, targets.int()) == cross_entropy(logits, targets)


def test_cross_entropy_gradient_by_hand() -> None:
    """(softmax - one-hot) / n; with probabilities 1/4, 3/4, target 1 and n = 2."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], requires_grad=True)
    cross_entropy(logits, torch.tensor([1, 1])).backward()
    expected = torch.tensor([[0.125, -0.125], [0.125, -0.125]])
    torch.testing.assert_close(logits.grad, expected)


def test_cross_entropy_of_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3, 5\) and targets \(3, 2\)"):
        cross_entropy(torch.zeros(2, 3, 5), torch.zeros(3, 2, dtype=torch.long))
