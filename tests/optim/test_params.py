"""lmlib/optim/params.py: the learning rate of each step, and values that make no sense."""

import math
from dataclasses import replace
from typing import Any

import pytest

from lmlib.optim import OptimParams

PARAMS = OptimParams(
    name="adamw",
    lr=2.0,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    schedule="cosine",
    warmup_steps=2,
    min_lr_fraction=0.1,
    decay_fraction=0.4,
    max_grad_norm=1.0,
    muon_lr=4.0,
    muon_momentum=0.95,
)


def rates(num_steps: int, **changes: Any) -> list[float]:
    params = replace(PARAMS, **changes)
    return [params.lr_at(step, num_steps) for step in range(1, num_steps + 1)]


def test_cosine_over_a_training() -> None:
    """The first step has half of lr, not 0; the last has exactly the smallest, 0.2."""
    expected = [1.0, 2.0, 0.2 + 0.9 * (1 + math.cos(math.pi / 4)), 1.1]
    expected += [0.2 + 0.9 * (1 + math.cos(3 * math.pi / 4)), 0.2]
    assert rates(6) == pytest.approx(expected, rel=1e-14)


def test_linear_over_a_training() -> None:
    assert rates(6, schedule="linear") == pytest.approx([1.0, 2.0, 1.55, 1.1, 0.65, 0.2])


def test_wsd_over_a_training() -> None:
    """The last 0.4 of 10 steps fall from 2.0 to 0.2, by 0.45 each."""
    expected = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.55, 1.1, 0.65, 0.2]
    assert rates(10, schedule="wsd") == pytest.approx(expected)


def test_constant_over_a_training() -> None:
    assert rates(5, schedule="constant") == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_wsd_without_decay_is_constant() -> None:
    assert rates(5, schedule="wsd", decay_fraction=0.0) == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_wsd_that_decays_all_the_time_begins_after_the_warm_up() -> None:
    assert rates(6, schedule="wsd", decay_fraction=1.0) == pytest.approx(
        rates(6, schedule="linear")
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_without_warm_up(schedule: str) -> None:
    """No division by zero, and nothing above lr; falling schedules end at their minimum."""
    values = rates(10, schedule=schedule, warmup_steps=0)
    assert max(values) <= 2.0
    assert values[0] > 1.5
    assert values[-1] == pytest.approx(2.0 if schedule == "constant" else 0.2)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_extreme_fractions_of_lr(schedule: str, fraction: float) -> None:
    values = rates(10, schedule=schedule, min_lr_fraction=fraction)
    assert values[1] == 2.0
    assert values[-1] == pytest.approx(2.0 * fraction)


def test_a_training_of_one_step() -> None:
    assert rates(1, warmup_steps=0) == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be from 1e-30 to 1e30"),
        ({"lr": math.nan}, "lr is nan; it must be from 1e-30 to 1e30"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\); it must be two numbers in \[0, 1\)"),
        ({"eps": 0.0}, "eps is 0.0; it must be from 1e-30 to 1e30"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0, or from 1e-30"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be from 0 to 10"),
        ({"min_lr_fraction": 1.1}, r"min_lr_fraction is 1.1; it must be in \[0, 1\]"),
        ({"decay_fraction": -0.1}, r"decay_fraction is -0.1; it must be in \[0, 1\]"),
        ({"muon_lr": 0.0}, "muon_lr is 0.0; it must be from 1e-30 to 1e30"),
        ({"muon_momentum": 1.0}, r"muon_momentum is 1.0; it must be in \[0, 1\)"),
        (
            {"max_grad_norm": 0.0},
            r"max_grad_norm is 0.0; it must be from 1e-30 to 1e30, or .inf \(.inf: no cl",
        ),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PARAMS, **changes)
