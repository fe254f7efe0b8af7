"""lmlib/evaluation/scoring.py: every token is scored once, with the right context and units."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lmlib.data import Windows
from lmlib.evaluation import Evaluation, EvaluationParams, evaluate, position_curve
from lmlib.export import hf_config, hf_state_dict
from lmlib.model import ModelParams, TransformerLM, loss
from lmlib.runtime import Runtime
from tests.tiny_models import bigram, shapes_seen_by, successor

VOCAB_SIZE = 11
MODEL = TransformerLM(
    ModelParams(context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=8), VOCAB_SIZE, seed=3
)
TEXTS = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=2, max_size=40)


def uniform(vocab_size: int) -> TransformerLM:
    """Every token has probability 1 / vocab_size; argmax, among equals, is token 0."""
    sizes = ModelParams(context_length=4, d_model=2, num_layers=1, num_heads=1, d_ff=1)
    model = TransformerLM(sizes, vocab_size)
    nn.init.zeros_(model.lm_head.weight)
    return model


def window_ends(num_scored: int, context_length: int, stride: int) -> list[int]:
    """Return how many tokens are scored after each window, by walking through the text."""
    ends = [min(context_length, num_scored)]
    while ends[-1] < num_scored:
        ends.append(min(ends[-1] + stride, num_scored))
    return ends


def nats_of(preceded: list[int], place: int, context: int) -> tuple[float, bool]:
    """Score the token at `place` alone, in float64: its loss and whether it is the most likely."""
    with torch.no_grad():
        logits = MODEL(torch.tensor(preceded[place - context : place]))[-1].double()
    log_p = torch.log_softmax(logits, dim=-1)
    return -log_p[preceded[place]].item(), int(log_p.argmax()) == preceded[place]


def one_by_one(
    tokens: list[int], context_length: int, stride: int, start_id: int | None
) -> list[tuple[float, bool]]:
    """Score each token in a pass of its own, with the context that the stride allows."""
    preceded = tokens if start_id is None else [start_id, *tokens]
    scores: list[tuple[float, bool]] = []
    for end in window_ends(len(preceded) - 1, context_length, stride):
        length = min(context_length, len(preceded) - 1)
        scores += [
            nats_of(preceded, scored + 1, context=length - (end - scored - 1))
            for scored in range(len(scores), end)
        ]
    return scores


def spans_by_documents(
    preceded: list[int], separator_id: int, length: int, stride: int
) -> list[tuple[int, int, int]]:
    """Return (first input, first scored, last scored) of each window, token by token."""
    spans, done = [], 0
    while done < len(preceded) - 1:
        document = max(i for i in range(done + 1) if preceded[i] == separator_id)
        start = document if document == done else max(document, done - (length - stride))
        start = min(start, len(preceded) - 1 - length)
        end = start + length
        ends = [i for i in range(done + 1, end + 1) if preceded[i] == separator_id]
        if end < len(preceded) - 1 and ends:
            end = ends[-1]
        spans.append((start, done + 1, end))
        done = end
    return spans


def scores_by_documents(
    tokens: list[int], windows: Windows, context_length: int, stride: int, batch_size: int
) -> Evaluation:
    """Score a text of 37 bytes in which 0 separates documents."""
    return evaluate(
        MODEL,
        np.array(tokens, dtype=np.uint16),
        source_bytes=37,
        context_length=context_length,
        windows=windows,
        stride=stride,
        batch_size=batch_size,
        start_id=0,
    )


@settings(deadline=None, max_examples=100)
@given(
    tokens=TEXTS,
    context_length=st.integers(1, 8),
    stride=st.integers(1, 10),
    batch_size=st.integers(1, 4),
)
def test_documents_are_scored_from_their_beginning(
    tokens: list[int], context_length: int, stride: int, batch_size: int
) -> None:
    preceded = [0, *tokens]
    length = min(context_length, len(tokens))
    expected = [
        nats_of(preceded, place, context=place - start)
        for start, first, last in spans_by_documents(preceded, 0, length, min(stride, length))
        for place in range(first, last + 1)
    ]
    scores = scores_by_documents(tokens, "documents", context_length, stride, batch_size)
    assert scores.tokens == len(tokens) == len(expected)
    nats = math.fsum(loss for loss, _ in expected)
    assert scores.loss * len(tokens) == pytest.approx(nats, rel=1e-5)
    assert scores.accuracy == pytest.approx(sum(right for _, right in expected) / len(tokens))


def test_a_short_document_is_scored_with_nothing_before_it() -> None:
    """Documents of 2 tokens in windows of 3: each document's scores are those of it alone."""
    text = [0, 4, 5, 0, 6, 7, 0, 4, 5, 0]
    alone = [
        nats_of([0, *part], i, context=i)[0] for part in ([4, 5, 0], [6, 7, 0]) for i in (1, 2, 3)
    ]
    scores = evaluate(
        MODEL, np.array(text[1:]), 1, context_length=3, windows="documents", start_id=0
    )
    assert scores.loss == pytest.approx((2 * sum(alone[:3]) + sum(alone[3:])) / 9, rel=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    tokens=st.lists(st.integers(0, 3), min_size=2, max_size=40),  # a quarter are separators
    context_length=st.integers(1, 8),
    stride=st.integers(1, 10),
    batch_size=st.integers(1, 4),
)
def test_isolated_documents_are_scored_alone(
    tokens: list[int], context_length: int, stride: int, batch_size: int
) -> None:
    """Of longer ones than a window, each token has the context that its window leaves it."""
    preceded = [0, *tokens]
    length = min(context_length, len(tokens))

    def context(place: int, start: int) -> int:
        return place - max(start, *(i for i in range(place) if preceded[i] == 0), 0)

    spans = spans_by_documents(preceded, 0, length, min(stride, length))
    expected = [
        nats_of(preceded, place, context(place, start))
        for start, first, last in spans
        for place in range(first, last + 1)
    ]
    scores = scores_by_documents(tokens, "isolated", context_length, stride, batch_size)
    assert scores.loss * len(tokens) == pytest.approx(math.fsum(x for x, _ in expected), rel=1e-5)
    assert scores.accuracy == pytest.approx(sum(right for _, right in expected) / len(tokens))
    by_context: dict[int, list[float]] = {}
    for start, place in ((s, s + i) for s, _, _ in spans for i in range(1, length + 1)):
        seen = context(place, start)
        by_context.setdefault(seen, []).append(nats_of(preceded, place, seen)[0])
    curve = [np.mean(by_context[seen]) for seen in range(1, len(by_context) + 1)]
    assert scores.loss_by_position == pytest.approx(curve, rel=1e-5)


def test_without_a_separator_an_isolated_document_is_the_whole_text() -> None:
    tokens = np.array([4, 0, 5, 6, 0, 7, 8, 1, 2, 3])
    scores, expected = (
        evaluate(MODEL, tokens, 1, context_length=4, windows=windows)
        for windows in ("isolated", "documents")
    )
    assert scores == expected


def test_logits_are_capped() -> None:
    """Of 4 tokens each next one has a logit of 4 * tanh(10 / 4), the others 0."""
    model = successor(4, 10.0)
    model.params = replace(model.params, logit_softcap=4.0)
    scores = evaluate(model, np.array([0, 1, 2, 3]), 4, context_length=8)
    expected = math.log(1 + 3 * math.exp(-4 * math.tanh(10 / 4)))
    assert scores.loss == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    tokens=TEXTS,
    context_length=st.integers(1, 8),
    stride=st.integers(1, 10),
    batch_size=st.integers(1, 4),
    start_id=st.sampled_from([None, 0, 10]),
)
def test_every_token_is_scored_once_in_the_context_of_its_window(
    tokens: list[int], context_length: int, stride: int, batch_size: int, start_id: int | None
) -> None:
    expected = one_by_one(tokens, context_length, min(stride, context_length), start_id)
    nats = math.fsum(loss for loss, _ in expected)
    scores = evaluate(
        MODEL,
        np.array(tokens, dtype=np.uint16),
        source_bytes=37,
        context_length=context_length,
        stride=stride,
        batch_size=batch_size,
        start_id=start_id,
    )
    assert scores.tokens == len(expected) == len(tokens) - (start_id is None)
    assert scores.loss == pytest.approx(nats / len(expected), rel=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    assert scores.bits_per_byte == pytest.approx(nats / math.log(2) / 37, rel=1e-5)
    assert scores.accuracy == np.mean([is_top for _, is_top in expected])


@settings(deadline=None, max_examples=60)
@given(tokens=TEXTS, context_length=st.integers(1, 8), stride=st.integers(1, 8))
def test_a_model_that_sees_one_token_scores_the_same_at_any_stride(
    tokens: list[int], context_length: int, stride: int
) -> None:
    """A token scored twice, or never, would change the sum."""
    logits = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    log_p = torch.log_softmax(logits.double(), dim=-1)
    expected = -log_p[[0, *tokens[:-1]], tokens].mean().item()
    scores = evaluate(
        bigram(logits),
        np.array(tokens),
        1,
        context_length=context_length,
        stride=min(stride, context_length),
        start_id=0,
    )
    assert scores.loss == pytest.approx(expected, rel=1e-5)


def test_the_strided_perplexity_of_transformers() -> None:
    """Their recipe, with their own Llama: windows of 8 tokens begin every 3 tokens.

    Such a window scores 7 tokens at most. The text ends with a full one; otherwise theirs would be
    shorter.
    """
    tokens = np.random.default_rng(2).integers(VOCAB_SIZE, size=8 + 5 * 3)
    llama = LlamaForCausalLM(LlamaConfig(**hf_config(MODEL.params, VOCAB_SIZE))).eval()
    llama.load_state_dict(hf_state_dict(MODEL))
    nats, scored = 0.0, 1
    for begin in range(0, len(tokens) - 7, 3):
        ids = torch.from_numpy(tokens[begin : begin + 8]).unsqueeze(0)
        labels = ids.clone()
        labels[:, : scored - begin] = -100  # context alone
        num_new = begin + 8 - scored
        with torch.no_grad():
            nats += llama(ids, labels=labels).loss.item() * num_new
        scored += num_new
    assert scored == len(tokens)
    scores = evaluate(MODEL, tokens, 1, context_length=7, stride=3)
    assert scores.loss == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)


@pytest.mark.parametrize("num_tokens", [5, 20])
def test_loss_by_position_is_the_mean_over_all_windows(num_tokens: int) -> None:
    """At index i the model has seen i + 1 tokens, even if another window scores the target."""
    tokens = np.random.default_rng(1).integers(VOCAB_SIZE, size=num_tokens)
    preceded, length = [0, *tokens.tolist()], min(8, num_tokens)
    scores = evaluate(MODEL, tokens, 1, context_length=8, stride=3, batch_size=2, start_id=0)
    ends = window_ends(num_tokens, 8, 3)
    expected = [
        np.mean([nats_of(preceded, end - length + i + 1, i + 1)[0] for end in ends])
        for i in range(length)
    ]
    assert scores.loss_by_position == pytest.approx(expected, rel=1e-5)


def test_position_curve_keeps_short_contexts_apart() -> None:
    """Each context up to 8 has its own row."""
    losses = tuple(1 / i for i in range(1, 9))
    curve = position_curve(scored(losses))
    assert curve == [(i, 1 / i) for i in range(1, 9)]


def test_position_curve_groups_long_contexts() -> None:
    """The ranges cover everything: weighted by their lengths, the rows give the mean."""
    losses = tuple(np.random.default_rng(0).random(5000).tolist())
    curve = position_curve(scored(losses), points=20)
    assert len(curve) <= 20
    contexts = np.array([context for context, _ in curve])
    assert contexts[0] == 1
    assert np.all(np.diff(contexts) > 0)
    edges = [0]
    for context in contexts:  # its range is symmetric about it
        edges.append(int(2 * context - 1 - edges[-1]))
    assert edges[-1] == 5000
    means = np.array([loss for _, loss in curve])
    assert np.average(means, weights=np.diff(edges)) == pytest.approx(np.mean(losses))


def scored(loss_by_position: tuple[float, ...]) -> Evaluation:
    return Evaluation(1.0, math.e, 1.0, 0.0, 1, loss_by_position)


def test_metrics_are_numbers() -> None:
    assert list(scored((1.0,)).metrics()) == [
        "loss",
        "perplexity",
        "bits_per_byte",
        "accuracy",
        "tokens",
    ]


def test_scores_of_a_uniform_model_by_hand() -> None:
    """16 tokens are 4 bits each: 10 tokens in 20 bytes of source are 2 bits per byte."""
    scores = evaluate(uniform(16), np.arange(10), 20, context_length=4, batch_size=2, start_id=0)
    assert scores.loss == pytest.approx(math.log(16))
    assert scores.perplexity == pytest.approx(16)
    assert scores.bits_per_byte == pytest.approx(2)
    assert scores.tokens == 10
    assert scores.accuracy == 0.1  # token 0 alone
    assert scores.loss_by_position == pytest.approx([math.log(16)] * 4)


def test_accuracy_by_hand() -> None:
    """After 0, two tokens are as expected, then 5 comes instead of 3, then 6 as expected."""
    scores = evaluate(
        successor(8, logit=5.0), np.array([0, 1, 2, 5, 6]), 5, context_length=8, start_id=7
    )
    assert scores.accuracy == 4 / 5


def test_the_first_token_follows_the_start_token() -> None:
    """The successor of 4 is likely, that of any other token is not 0: 5, 6, 7 after 4 cost 0."""
    model, tokens = successor(8, logit=1e4), np.array([5, 6, 7])
    expected = evaluate(model, tokens, 3, context_length=8, batch_size=1, start_id=4)
    assert (expected.loss, expected.tokens) == (0.0, 3)
    other = evaluate(model, tokens, 3, context_length=8, batch_size=1, start_id=0)
    assert other.loss == pytest.approx(1e4 / 3)


def test_without_start_token_the_first_is_context_only() -> None:
    scores = evaluate(successor(8, logit=1e4), np.array([5, 6, 7]), 3, context_length=8)
    assert (scores.loss, scores.tokens) == (0.0, 2)


def test_a_text_of_one_token() -> None:
    """With a start token it can be scored; without one there is nothing to score."""
    tokens = np.array([1])
    scores = evaluate(uniform(16), tokens, 4, context_length=4, batch_size=2, start_id=0)
    assert (scores.tokens, scores.bits_per_byte) == (1, pytest.approx(1))
    with pytest.raises(ValueError, match="a text of 1 tokens leaves none to score"):
        evaluate(uniform(16), tokens, 4, context_length=4, batch_size=2)


@pytest.mark.parametrize("start_id", [None, 0])
def test_an_empty_text(start_id: int | None) -> None:
    tokens = np.array([], dtype=np.uint16)
    with pytest.raises(ValueError, match="a text of 0 tokens leaves none to score"):
        evaluate(uniform(16), tokens, 1, context_length=4, batch_size=2, start_id=start_id)


def test_all_batches_have_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new shape would be compiled again, so the last of 7 windows, taken in twos, is doubled.

    23 tokens are 6 windows in three passes; 27 are 7 in four passes, which are compiled.
    """
    model, trials = successor(8, logit=1.0), []
    expected = evaluate(model, np.zeros(23, np.uint16), 23, context_length=4, start_id=0)

    def compiled(
        _runtime: Runtime,
        module: nn.Module,
        trial: Callable[[nn.Module], object],
        mode: str,
        operations: float,
    ) -> nn.Module:
        assert mode == "auto"
        if operations < 4 * pass_operations:
            return module
        trial(module)
        trials.append(module)
        return module

    pass_operations = 2 * model.num_parameters() * 2 * 4  # of two windows of four tokens
    monkeypatch.setattr(Runtime, "compile", compiled)
    shapes = shapes_seen_by(model.token_embeddings)
    scores = evaluate(
        model, np.zeros(23, np.uint16), 23, context_length=4, batch_size=2, start_id=0
    )
    assert (len(trials), shapes) == (0, [(2, 4)] * 3)  # three passes are too few to compile
    assert scores.loss == pytest.approx(expected.loss)
    shapes.clear()
    evaluate(model, np.zeros(27, np.uint16), 27, context_length=4, batch_size=2, start_id=0)
    assert (len(trials), shapes) == (1, [(2, 4)] * 5)
    ones, options = np.ones(27, np.uint16), {"context_length": 4, "batch_size": 2, "start_id": 0}
    evaluate(model, ones, 27, windows="isolated", **options)
    assert len(trials) == 2


@pytest.mark.parametrize("logits_at_a_time", [1, 40, 1000])
def test_the_logits_of_a_few_tokens_at_a_time(
    monkeypatch: pytest.MonkeyPatch, logits_at_a_time: int
) -> None:
    """The same scores, in parts of 3 tokens at least."""
    model, tokens = successor(10, logit=2.0), np.random.default_rng(0).integers(10, size=50)
    whole = evaluate(model, tokens, 50, context_length=8, start_id=0)
    monkeypatch.setitem(loss.LOGITS, "cpu", logits_at_a_time)
    monkeypatch.setattr(loss, "LEAST_ROWS", 3)
    shapes = shapes_seen_by(model.lm_head)
    assert evaluate(model, tokens, 50, context_length=8, start_id=0) == whole
    assert max(rows for rows, _ in shapes) == {1: 3, 40: 4, 1000: 56}[logits_at_a_time]


def test_batches_change_no_more_than_the_rounding() -> None:
    """The same batch size gives the same bits each time."""
    tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=500)
    first, second, *others = [
        evaluate(MODEL, tokens, 500, context_length=8, stride=5, batch_size=size, start_id=0)
        for size in (7, 7, 1, 3, 1000)
    ]
    assert first == second
    for other in others:
        assert other.loss == pytest.approx(first.loss, rel=1e-6)
        assert other.accuracy == first.accuracy
        assert other.loss_by_position == pytest.approx(first.loss_by_position, rel=1e-6)


def test_threads_change_no_more_than_the_rounding() -> None:
    tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=500)
    threads, scores = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            scores.append(evaluate(MODEL, tokens, 500, context_length=8, stride=5, start_id=0))
    finally:
        torch.set_num_threads(threads)
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=1e-6)
    assert scores[1].accuracy == scores[0].accuracy


def test_token_ids_beyond_int16() -> None:
    """uint16 ids above 32,767 read as int16 would be negative."""
    tokens = np.array([1, 65_535, 40_000], dtype=np.uint16)
    scores = evaluate(uniform(65_536), tokens, 6, context_length=4, batch_size=1, start_id=0)
    assert scores.bits_per_byte == pytest.approx(3 * 16 / 6)


def test_a_hopeless_loss_has_a_finite_perplexity() -> None:
    """exp(1e4) is beyond float64, and Python's exp raises there."""
    scores = evaluate(successor(8, logit=1e4), np.zeros(3, int), 3, context_length=4, batch_size=1)
    assert scores.loss == pytest.approx(1e4)
    assert math.isfinite(scores.perplexity)


def test_evaluation_builds_no_graph() -> None:
    """A graph kept for a whole text would fill the memory."""
    model, builds_graph = successor(16, logit=1.0), []
    model.lm_head.register_forward_hook(
        lambda *_: builds_graph.append(torch.is_grad_enabled()),
    )
    evaluate(model, np.arange(10), 10, context_length=4, batch_size=2)
    assert builds_graph
    assert not any(builds_graph)


@pytest.mark.parametrize("name", ["stride", "copied_tokens"])
def test_params_below_1_are_refused(name: str) -> None:
    params = EvaluationParams(windows="any", stride=1, copied_tokens=1, stories=0, device="auto")
    with pytest.raises(ValueError, match=f"^{name} is 0; it must be from 1 to 10"):
        replace(params, **{name: 0})
