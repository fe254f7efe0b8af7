"""lmlib/evaluation.py: every token scored once, and the units of the scores."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmlib.evaluation import evaluate, sampled_loss
from lmlib.functional import cross_entropy
from lmlib.model import ModelParams, TransformerLM

VOCAB_SIZE = 11
MODEL = TransformerLM(
    ModelParams(context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=8), VOCAB_SIZE, seed=3
)


class Uniform(nn.Module):
    """Every token has probability 1 / vocab_size."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.logits.expand(*token_ids.shape, -1)


class Successor(nn.Module):
    """Gives the successor of each token the logit `logit`, all others 0; notes each call."""

    def __init__(self, vocab_size: int, logit: float) -> None:
        super().__init__()
        self.table = nn.Parameter(logit * torch.eye(vocab_size).roll(1, dims=1))
        self.shapes: list[tuple[int, ...]] = []
        self.builds_graph = False

    def forward(self, token_ids: Tensor) -> Tensor:
        self.shapes.append(tuple(token_ids.shape))
        self.builds_graph |= torch.is_grad_enabled()
        return self.table[token_ids]


class LossOf(nn.Module):
    """The mean loss of a model of logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.model(inputs), targets)


def nats_one_by_one(tokens: np.ndarray, context_length: int, start_id: int | None) -> list[float]:
    """Score each token in a pass of its own, in float64, from the start of its window."""
    begin = 1 if start_id is None else 0
    preceded = [start_id, *tokens.tolist()]  # token i stands at place i + 1
    nats = []
    for i in range(begin, len(tokens)):
        window = i - (i - begin) % context_length
        with torch.no_grad():
            logits = MODEL(torch.tensor(preceded[window : i + 1]))[-1].double()
        nats.append(-torch.log_softmax(logits, dim=-1)[tokens[i]].item())
    return nats


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=2, max_size=30),
    context_length=st.integers(1, 8),
    batch_size=st.integers(1, 4),
    start_id=st.sampled_from([None, 0, 10]),
)
def test_every_token_is_scored_once(
    tokens: list[int], context_length: int, batch_size: int, start_id: int | None
) -> None:
    text = np.array(tokens, dtype=np.uint16)
    expected = nats_one_by_one(text, context_length, start_id)
    scores = evaluate(
        MODEL,
        text,
        source_bytes=37,
        context_length=context_length,
        batch_size=batch_size,
        start_id=start_id,
    )
    assert scores.tokens == len(expected) == len(tokens) - (start_id is None)
    assert scores.loss == pytest.approx(math.fsum(expected) / len(expected), rel=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    assert scores.bits_per_byte == pytest.approx(math.fsum(expected) / math.log(2) / 37, rel=1e-5)


def test_scores_of_a_uniform_model_by_hand() -> None:
    """16 tokens are 4 bits each: 10 tokens in 20 bytes of source are 2 bits per byte."""
    scores = evaluate(Uniform(16), np.arange(10), 20, context_length=4, batch_size=2, start_id=0)
    assert scores.loss == pytest.approx(math.log(16))
    assert scores.perplexity == pytest.approx(16)
    assert scores.bits_per_byte == pytest.approx(2)
    assert scores.tokens == 10


def test_the_first_token_follows_the_start_token() -> None:
    """The successor of 4 is likely, that of any other token is not 0: 5, 6, 7 after 4 cost 0."""
    model, tokens = Successor(8, logit=1e4), np.array([5, 6, 7])
    expected = evaluate(model, tokens, 3, context_length=8, batch_size=1, start_id=4)
    assert (expected.loss, expected.tokens) == (0.0, 3)
    other = evaluate(model, tokens, 3, context_length=8, batch_size=1, start_id=0)
    assert other.loss == pytest.approx(1e4 / 3)


def test_without_start_token_the_first_is_context_only() -> None:
    scores = evaluate(
        Successor(8, logit=1e4), np.array([5, 6, 7]), 3, context_length=8, batch_size=1
    )
    assert (scores.loss, scores.tokens) == (0.0, 2)


def test_a_text_of_one_token() -> None:
    """With a start token it can be scored, without there is nothing to score."""
    tokens = np.array([1])
    scores = evaluate(Uniform(16), tokens, 4, context_length=4, batch_size=2, start_id=0)
    assert (scores.tokens, scores.bits_per_byte) == (1, pytest.approx(1))
    with pytest.raises(ValueError, match="a text of 1 tokens leaves none to score"):
        evaluate(Uniform(16), tokens, 4, context_length=4, batch_size=2)


@pytest.mark.parametrize("start_id", [None, 0])
def test_an_empty_text(start_id: int | None) -> None:
    tokens = np.array([], dtype=np.uint16)
    with pytest.raises(ValueError, match="a text of 0 tokens leaves none to score"):
        evaluate(Uniform(16), tokens, 1, context_length=4, batch_size=2, start_id=start_id)


def test_windows_come_in_batches_and_the_rest_alone() -> None:
    """23 tokens: five windows of 4 in batches of 2, and 3 tokens."""
    model = Successor(8, logit=1.0)
    tokens = np.zeros(23, dtype=np.uint16)
    evaluate(model, tokens, 23, context_length=4, batch_size=2, start_id=0)
    assert model.shapes == [(2, 4), (2, 4), (1, 4), (1, 3)]


def test_token_ids_beyond_int16() -> None:
    """uint16 ids above 32,767 read as int16 would be negative."""
    tokens = np.array([1, 65_535, 40_000], dtype=np.uint16)
    scores = evaluate(Uniform(65_536), tokens, 6, context_length=4, batch_size=1, start_id=0)
    assert scores.bits_per_byte == pytest.approx(3 * 16 / 6)


def test_a_hopeless_loss_has_a_finite_perplexity() -> None:
    """exp(1e4) is beyond float64, and Python's exp raises there."""
    scores = evaluate(Successor(8, logit=1e4), np.zeros(3, int), 3, context_length=4, batch_size=1)
    assert scores.loss == pytest.approx(1e4)
    assert math.isfinite(scores.perplexity)


def test_evaluation_builds_no_graph() -> None:
    """One kept for a whole text would fill the memory."""
    model = Successor(16, logit=1.0)
    evaluate(model, np.arange(10), 10, context_length=4, batch_size=2)
    sampled_loss(LossOf(model), np.arange(10), context_length=4, batch_size=2, batches=2)
    assert not model.builds_graph


def test_sampled_loss_over_all_windows_equals_one_by_one() -> None:
    """20 tokens hold 15 windows of 5 + 1; asked for 4 * 4, it takes each once."""
    tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=20).astype(np.uint16)
    losses = [np.mean(nats_one_by_one(tokens[i : i + 6], 5, None)) for i in range(15)]
    loss = sampled_loss(LossOf(MODEL), tokens, context_length=5, batch_size=4, batches=4)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_sampled_loss_spreads_its_windows_from_the_first_to_the_last() -> None:
    """2 batches of 2 windows of 2 + 1 in 12 tokens begin at 0, 3, 6 and 9.

    The model expects the successor of each token: inside these windows only the step from 9 to 1
    costs it 1e4, one of eight scored tokens; a window elsewhere would hold 2, 0 or 5, 8.
    """
    tokens = np.array([0, 1, 2, 0, 1, 2, 3, 4, 5, 8, 9, 1])
    model = Successor(10, logit=1e4)
    loss = sampled_loss(LossOf(model), tokens, context_length=2, batch_size=2, batches=2)
    assert loss == pytest.approx(1e4 / 8)
    assert model.shapes == [(2, 2), (2, 2)]


def test_sampled_loss_of_the_shortest_text() -> None:
    """One window and its last target: the same as scoring it whole."""
    tokens = np.array([1, 2, 3, 4, 5])
    loss = sampled_loss(LossOf(MODEL), tokens, context_length=4, batch_size=3, batches=2)
    assert loss == pytest.approx(np.mean(nats_one_by_one(tokens, 4, None)), rel=1e-5)


def test_sampled_loss_weighs_a_smaller_last_batch_by_its_size() -> None:
    """Windows of 1 + 1 at 0, 1, 2 in batches of 2: losses 0, 0 and 1e4, whose mean is 1e4 / 3."""
    tokens = np.array([0, 1, 2, 0])
    loss = sampled_loss(
        LossOf(Successor(4, logit=1e4)), tokens, context_length=1, batch_size=2, batches=2
    )
    assert loss == pytest.approx(1e4 / 3)
