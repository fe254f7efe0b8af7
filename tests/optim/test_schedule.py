"""lmlib/optim/schedule.py: learning-rate schedules."""

import itertools
import math
from collections.abc import Callable

import pytest

from lmlib.optim import warmup_cosine, warmup_linear, warmup_stable_decay

Schedule = Callable[[int], float]


def cosine(step: int) -> float:
    return warmup_cosine(step, max_lr=1.0, min_lr=0.1, warmup_steps=4, decay_end=10)


def linear(step: int) -> float:
    return warmup_linear(step, max_lr=1.0, min_lr=0.1, warmup_steps=4, decay_end=10)


def wsd(step: int) -> float:
    return warmup_stable_decay(step, max_lr=1.0, min_lr=0.1, warmup_steps=4, decay=range(7, 10))


@pytest.mark.parametrize("schedule", [cosine, linear, wsd])
def test_warm_up_is_linear_from_zero(schedule: Schedule) -> None:
    assert [schedule(step) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("schedule", [cosine, linear, wsd])
@pytest.mark.parametrize("step", [10, 11, 1_000_000])
def test_the_end_and_beyond(schedule: Schedule, step: int) -> None:
    """The cosine rises again beyond its half period; the schedule does not."""
    assert schedule(step) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (5, 0.1 + 0.45 * (1 + math.sqrt(3) / 2)),  # cos(pi / 6)
        (6, 0.1 + 0.45 * (1 + 1 / 2)),
        (7, 0.1 + 0.45),  # half way
        (9, 0.1 + 0.45 * (1 - math.sqrt(3) / 2)),
    ],
)
def test_cosine_by_hand(step: int, expected: float) -> None:
    """min + (max - min) / 2 * (1 + cos(pi * (step - 4) / 6))."""
    assert cosine(step) == pytest.approx(expected, rel=1e-14)


def test_linear_by_hand() -> None:
    """0.9 less over 6 steps: 0.15 each."""
    assert [linear(step) for step in (5, 7, 9)] == pytest.approx([0.85, 0.55, 0.25], rel=1e-14)


def test_warmup_stable_decay_by_hand() -> None:
    """Level to step 7, then 0.9 less over 3 steps."""
    assert [wsd(step) for step in range(4, 10)] == pytest.approx([1, 1, 1, 1, 0.7, 0.4], rel=1e-14)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda step: warmup_cosine(step, 1.0, 0.1, 0, 10),
        lambda step: warmup_linear(step, 1.0, 0.1, 0, 10),
        lambda step: warmup_stable_decay(step, 1.0, 0.1, 0, range(5, 10)),
    ],
)
def test_without_warm_up_the_highest_rate_comes_first(schedule: Schedule) -> None:
    assert schedule(0) == 1.0
    assert schedule(10) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup_steps", [10, 15])
@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear])
def test_warm_up_that_leaves_no_room_for_decay(
    schedule: Callable[..., float], warmup_steps: int
) -> None:
    """No division by zero: the warm-up is completed, then the end is reached at once."""
    assert schedule(9, 1.0, 0.1, warmup_steps, 10) == pytest.approx(9 / warmup_steps)
    assert schedule(warmup_steps, 1.0, 0.1, warmup_steps, 10) == 0.1


@pytest.mark.parametrize(
    "schedule",
    [
        lambda step: warmup_cosine(step, 1.0, 0.0, 1000, 10_000),
        lambda step: warmup_linear(step, 1.0, 0.0, 1000, 10_000),
        lambda step: warmup_stable_decay(step, 1.0, 0.0, 1000, range(5000, 10_000)),
    ],
)
def test_no_jumps(schedule: Schedule) -> None:
    """No phase is steeper than the warm-up, 1 / 1000 a step."""
    rates = [schedule(step) for step in range(10_100)]
    steepest = max(abs(b - a) for a, b in itertools.pairwise(rates))
    assert steepest <= 0.001 + 1e-12
