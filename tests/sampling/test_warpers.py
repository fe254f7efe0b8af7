"""lmlib/sampling/warpers.py and draws: by hand, and against those of `transformers`."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lmlib.sampling import (
    apply_temperature,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
    penalise_repetition,
)
from lmlib.sampling.generation import draw
from tests.sampling.scripted import SAMPLING

IDS: Any = torch.randint(0, 500, (6, 9), generator=torch.Generator().manual_seed(1))
SEEN = torch.zeros(6, 500, dtype=torch.bool).scatter(1, IDS, True)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def kept(logits: Tensor) -> list[bool]:
    return logits.isfinite().tolist()


def test_no_temperature_is_too_small() -> None:
    """Logits divided by it would overflow; the result is the most likely token."""
    params = replace(SAMPLING, temperature=1e-30)
    probabilities = next_token_probabilities(torch.tensor([[1.0, 3.0, 2.0]]), params)
    torch.testing.assert_close(probabilities, torch.tensor([[0.0, 1.0, 0.0]]))


def test_draws_nothing_from_what_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match=r"^the model's logits are not finite"):
        draw(torch.tensor([[0.5, math.nan]]), torch.tensor([0.3]))


def test_temperature_by_hand() -> None:
    """Odds of 4 to 1 become 2 to 1 at temperature 2, and 16 to 1 at temperature 1/2."""
    logits = torch.tensor([math.log(4), 0.0])
    for temperature, expected in (
        (2.0, [2 / 3, 1 / 3]),
        (1.0, [0.8, 0.2]),
        (0.5, [16 / 17, 1 / 17]),
    ):
        probabilities = torch.softmax(apply_temperature(logits, temperature), dim=-1)
        torch.testing.assert_close(probabilities, torch.tensor(expected))


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [False, False, True, False]),
        (2, [False, True, True, False]),
        (3, [True, True, True, False]),
        (4, [True, True, True, True]),
        (0, [True, True, True, True]),
        (9, [True, True, True, True]),
    ],
)
def test_top_k_by_hand(k: int, expected: list[bool]) -> None:
    logits = torch.tensor([1.0, 2.0, 3.0, -1.0])
    assert kept(keep_top_k(logits, k)) == expected
    assert torch.equal(keep_top_k(logits, k)[expected], logits[expected])


def test_top_k_keeps_ties_with_the_last() -> None:
    assert kept(keep_top_k(torch.tensor([1.0, 3.0, 1.0, 0.0]), 2)) == [True, True, True, False]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1e-9, [False, True, False, False]),  # the most likely is always kept
        (0.49, [False, True, False, False]),
        (0.51, [True, True, False, False]),
        (0.76, [True, True, True, True]),
        (0.9, [True, True, True, True]),
        (1.0, [True, True, True, True]),
    ],
)
def test_top_p_by_hand(p: float, expected: list[bool]) -> None:
    """From the most likely on, the sums are 1/2, 3/4 and, with two equal ones, 1."""
    logits = logits_of(0.25, 0.5, 0.125, 0.125)
    assert kept(keep_top_p(logits, p)) == expected
    assert torch.equal(keep_top_p(logits, p)[expected], logits[expected])


def test_top_p_keeps_ties_with_the_last() -> None:
    assert kept(keep_top_p(logits_of(0.5, 0.2, 0.2, 0.1), 0.6)) == [True, True, True, False]


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [True] * 4), (0.3, [True, True, False, False]), (1.0, [True, False, False, False])],
)
def test_min_p_by_hand(p: float, expected: list[bool]) -> None:
    """The most likely has 1/2; the others have 1/2, 1/4 and 1/4 of its probability."""
    assert kept(keep_min_p(logits_of(0.5, 0.25, 0.125, 0.125), p)) == expected


def test_repetition_penalty_by_hand() -> None:
    """Of the seen tokens, 3 is halved and -1 doubled; others are unchanged."""
    seen = torch.tensor([True, True, False])
    penalised = penalise_repetition(torch.tensor([3.0, -1.0, 2.0]), seen, 2.0)
    assert penalised.tolist() == [1.5, -2.0, 2.0]


def test_warpers_equal_those_of_transformers() -> None:
    """On random logits without ties, sharp ones and flat ones (where top-p sorts more than 64)."""
    for scale in (0.1, 1.0, 6.0):
        logits = scale * torch.randn(6, 500, generator=torch.Generator().manual_seed(0))
        params = replace(SAMPLING, temperature=0.7, top_k=300, top_p=0.9, min_p=0.02)
        theirs: Any = logits
        for warper in (
            transformers.RepetitionPenaltyLogitsProcessor(1.3),
            transformers.TemperatureLogitsWarper(0.7),
            transformers.TopKLogitsWarper(300),
            transformers.TopPLogitsWarper(0.9),
            transformers.MinPLogitsWarper(0.02),
        ):
            theirs = warper(IDS, theirs)
        ours = next_token_probabilities(penalise_repetition(logits, SEEN, 1.3), params)
        torch.testing.assert_close(ours, theirs.softmax(dim=-1))
        assert torch.equal(ours > 0, theirs.isfinite())


@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: apply_temperature(x, 0.3), transformers.TemperatureLogitsWarper(0.3)),
        (lambda x: apply_temperature(x, 1.7), transformers.TemperatureLogitsWarper(1.7)),
        (lambda x: keep_top_k(x, 1), transformers.TopKLogitsWarper(1)),
        (lambda x: keep_top_k(x, 40), transformers.TopKLogitsWarper(40)),
        (lambda x: keep_top_p(x, 0.05), transformers.TopPLogitsWarper(0.05)),
        (lambda x: keep_top_p(x, 0.95), transformers.TopPLogitsWarper(0.95)),
        (lambda x: keep_min_p(x, 0.05), transformers.MinPLogitsWarper(0.05)),
        (lambda x: keep_min_p(x, 0.8), transformers.MinPLogitsWarper(0.8)),
        (
            lambda x: penalise_repetition(x, SEEN, 1.3),
            transformers.RepetitionPenaltyLogitsProcessor(1.3),
        ),
        (
            lambda x: penalise_repetition(x, SEEN, 0.7),
            transformers.RepetitionPenaltyLogitsProcessor(0.7),
        ),
    ],
)
def test_a_warper_equals_that_of_transformers(ours: Any, theirs: Any, scale: float) -> None:
    """On random logits without ties, flat and sharp: the same tokens, and the same odds."""
    logits = scale * torch.randn(6, 500, generator=torch.Generator().manual_seed(3))
    expected = theirs(IDS, logits.clone())
    assert torch.equal(ours(logits).isfinite(), expected.isfinite())
    torch.testing.assert_close(ours(logits).softmax(dim=-1), expected.softmax(dim=-1))


def chi_squared(counts: Tensor, probabilities: Tensor) -> float:
    """Return the statistic divided by its 99.9% quantile under `probabilities`.

    The quantile is Wilson and Hilferty's (1931); tokens without probability must not be counted.
    """
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = probabilities[possible].double() * counts.sum()
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    part = 2 / (9 * freedom)
    return float(statistic) / (freedom * (1 - part + 3.09 * part**0.5) ** 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 12},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.5, "top_k": 25, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_of_transformers(changes: dict[str, Any]) -> None:
    """50,000 draws; those of a temperature one tenth higher would not pass."""
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(7))
    params = replace(SAMPLING, **changes)
    numbers = torch.rand(50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(8))

    def counts(temperature: float) -> Tensor:
        ours = next_token_probabilities(logits, replace(params, temperature=temperature))
        return draw(ours.expand(len(numbers), -1), numbers).bincount(minlength=40)

    theirs: Any = logits
    for warper in (
        transformers.TemperatureLogitsWarper(params.temperature),
        transformers.TopKLogitsWarper(params.top_k or 40),
        transformers.TopPLogitsWarper(params.top_p),
        transformers.MinPLogitsWarper(params.min_p),
    ):
        theirs = warper(IDS, theirs)
    expected = theirs.softmax(dim=-1)[0]
    assert chi_squared(counts(params.temperature), expected) < 1
    off = counts(1.1 * params.temperature)
    assert off[expected == 0].any() or chi_squared(off, expected) > 1


def test_top_k_and_top_p_treat_each_row_alone() -> None:
    rows = torch.stack((logits_of(0.7, 0.2, 0.1), logits_of(0.1, 0.3, 0.6)))
    assert kept(keep_top_k(rows, 1)) == [[True, False, False], [False, False, True]]
    assert kept(keep_top_p(rows, 0.65)) == [[True, False, False], [False, True, True]]


def test_next_token_probabilities_by_hand() -> None:
    """Temperature 1/2 squares 4 : 2 : 1 : 1 to 16 : 4 : 1 : 1. The top two hold
    20/22 > 0.85 and get everything. At temperature 1 they hold 6/8: top-p would keep three."""
    params = replace(SAMPLING, temperature=0.5, top_p=0.85)
    probabilities = next_token_probabilities(logits_of(0.125, 0.5, 0.125, 0.25), params)
    torch.testing.assert_close(probabilities, torch.tensor([0.0, 0.8, 0.0, 0.2]))


def test_top_p_counts_what_top_k_left() -> None:
    """top_k 2 leaves 0.4 and 0.3, which become 4/7 = 0.571 and 3/7: the first reaches 0.55."""
    params = replace(SAMPLING, top_k=2, top_p=0.55)
    probabilities = next_token_probabilities(logits_of(0.4, 0.3, 0.2, 0.1), params)
    assert probabilities.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_probabilities_of_half_precision_logits_are_float32() -> None:
    probabilities = next_token_probabilities(torch.zeros(3, dtype=torch.bfloat16), SAMPLING)
    torch.testing.assert_close(probabilities, torch.full((3,), 1 / 3))
