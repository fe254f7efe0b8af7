"""lmlib/sampling: distributions, generation in batches, and text."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlib.model import KVCache, ModelParams, TransformerLM
from lmlib.sampling import (
    SamplingParams,
    TextStream,
    apply_temperature,
    generate,
    generate_samples,
    generate_text,
    generate_tokens,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
    penalise_repetition,
    stream_text,
)
from lmlib.sampling.generation import window_start
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer

SIZES = ModelParams(context_length=8, d_model=16, num_layers=2, num_heads=2, d_ff=16)
MODEL = TransformerLM(SIZES, 30, seed=1)
BYTE_MODEL = TransformerLM(SIZES, 256, seed=1)
BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)
SAMPLING = SamplingParams(
    prompts=("a",), max_tokens=12, temperature=1.0, top_k=0, top_p=1.0, seed=5
)
GREEDY = replace(SAMPLING, temperature=0.0)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [15, 16]]  # the third overflows


class Script(TransformerLM):
    """Continues each token with logits from a row of a table, whatever stands before."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(SIZES, len(table))
        self.table = table
        self.widths: list[int] = []

    def hidden(
        self,
        token_ids: Tensor,
        token_positions: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        if cache is not None:
            cache.extend(token_ids.shape[-1])
        self.widths.append(token_ids.shape[-1])
        return self.table[token_ids]

    def forward(
        self,
        token_ids: Tensor,
        token_positions: Tensor | None = None,
        *,
        cache: KVCache | None = None,
    ) -> Tensor:
        return self.hidden(token_ids, cache=cache)


def counting(vocab_size: int) -> Script:
    """After token i comes i + 1, and after the last comes 0."""
    return Script(100 * torch.eye(vocab_size).roll(1, dims=1))


def continued(*args: Any, **options: Any) -> list[list[int]]:
    """Return the one continuation of each prompt."""
    return [only for (only,) in generate(*args, **options)]


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def kept(logits: Tensor) -> list[bool]:
    return logits.isfinite().tolist()


# -- distributions


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
        (1e-9, [False, True, False, False]),  # the likeliest is always kept
        (0.49, [False, True, False, False]),
        (0.51, [True, True, False, False]),
        (0.76, [True, True, True, True]),
        (0.9, [True, True, True, True]),
        (1.0, [True, True, True, True]),
    ],
)
def test_top_p_by_hand(p: float, expected: list[bool]) -> None:
    """Likeliest first they reach 1/2, 3/4, and with two equal ones 1."""
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
    """Beside the likeliest, of 1/2, the others have 1/2, 1/4 and 1/4 of its probability."""
    assert kept(keep_min_p(logits_of(0.5, 0.25, 0.125, 0.125), p)) == expected


def test_repetition_penalty_by_hand() -> None:
    """Of the seen, 3 is halved and -1 doubled; others stay."""
    seen = torch.tensor([True, True, False])
    penalised = penalise_repetition(torch.tensor([3.0, -1.0, 2.0]), seen, 2.0)
    assert penalised.tolist() == [1.5, -2.0, 2.0]


def test_warpers_equal_those_of_transformers() -> None:
    """On random logits without ties, sharp ones and flat ones (where top-p sorts more than 64)."""
    ids: Any = torch.randint(0, 500, (6, 9), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(6, 500, dtype=torch.bool).scatter(1, ids, True)
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
            theirs = warper(ids, theirs)
        ours = next_token_probabilities(penalise_repetition(logits, seen, 1.3), params)
        torch.testing.assert_close(ours, theirs.softmax(dim=-1))
        assert torch.equal(ours > 0, theirs.isfinite())


def test_top_k_and_top_p_treat_each_row_alone() -> None:
    rows = torch.stack((logits_of(0.7, 0.2, 0.1), logits_of(0.1, 0.3, 0.6)))
    assert kept(keep_top_k(rows, 1)) == [[True, False, False], [False, False, True]]
    assert kept(keep_top_p(rows, 0.65)) == [[True, False, False], [False, True, True]]


def test_next_token_probabilities_by_hand() -> None:
    """Temperature 1/2 squares 4 : 2 : 1 : 1 to 16 : 4 : 1 : 1, the two likeliest of which hold
    20/22 > 0.85 and share all. Before the temperature they held 6/8: top-p 0.85 came to three."""
    params = replace(SAMPLING, temperature=0.5, top_p=0.85)
    probabilities = next_token_probabilities(logits_of(0.125, 0.5, 0.125, 0.25), params)
    torch.testing.assert_close(probabilities, torch.tensor([0.0, 0.8, 0.0, 0.2]))


def test_top_p_counts_what_top_k_left() -> None:
    """top_k 2 leaves 0.4 and 0.3, that is 4/7 = 0.571 and 3/7: the first alone reaches 0.55."""
    params = replace(SAMPLING, top_k=2, top_p=0.55)
    probabilities = next_token_probabilities(logits_of(0.4, 0.3, 0.2, 0.1), params)
    assert probabilities.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_probabilities_of_half_precision_logits_are_float32() -> None:
    probabilities = next_token_probabilities(torch.zeros(3, dtype=torch.bfloat16), SAMPLING)
    torch.testing.assert_close(probabilities, torch.full((3,), 1 / 3))


# -- generation


def test_greedy_generation_follows_the_likeliest_token() -> None:
    params = replace(GREEDY, max_tokens=4)
    assert continued(counting(10), [[3], [0, 8]], params) == [[4, 5, 6, 7], [9, 0, 1, 2]]


def test_greedy_generation_is_argmax_whatever_the_filters() -> None:
    rows = [list(prompt) for prompt in PROMPTS]
    for row in rows:
        for _ in range(12):
            logits = MODEL(torch.tensor(row[window_start(len(row), 8) :]))[-1]
            row.append(int(logits.argmax()))
    expected = [row[-12:] for row in rows]
    params = replace(GREEDY, top_k=3, top_p=0.5, seed=77)
    assert continued(MODEL, PROMPTS, params) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"repetition_penalty": 1.5},
        {"beyond_context": "stop"},
    ],
)
def test_a_prompt_continues_as_it_does_alone(changes: dict[str, Any]) -> None:
    """Lengths differ and one prompt outgrows the context, at other steps than the others."""
    params = replace(SAMPLING, num_samples=2, max_tokens=20, **changes)
    together = generate(MODEL, PROMPTS, params)
    assert together == generate(MODEL, PROMPTS, params, use_cache=False)
    for prompt, samples in zip(PROMPTS, together, strict=True):
        assert generate(MODEL, [prompt], params) == [samples]
        for j, sample in enumerate(samples):
            alone = replace(params, num_samples=1, seed=params.seed + j)
            assert continued(MODEL, [prompt], alone) == [sample]


def test_the_window_keeps_its_newest_half_and_fills_up_again() -> None:
    starts = [window_start(n, 8) for n in range(1, 18)]
    assert starts == [0] * 8 + [4] * 4 + [8] * 4 + [12]
    assert [window_start(n, 1) for n in (1, 2, 3)] == [0, 1, 2]
    script = counting(10)
    generate(script, [[0] * 6], replace(GREEDY, max_tokens=5), use_cache=False)
    assert script.widths == [6, 7, 8, 5, 6]
    script.widths.clear()
    generate(script, [[0] * 6], replace(GREEDY, max_tokens=5))
    assert script.widths == [5, 1, 1, 1, 4, 1, 1]  # the prompt but one token; half a context anew


def test_generation_stops_where_the_context_is_full() -> None:
    """6 tokens and 3 more: the third is drawn from the 8 of the context. 9 are too many."""
    params = replace(GREEDY, beyond_context="stop")
    assert continued(counting(10), [[0] * 6, [0] * 9], params) == [[1, 2, 3], []]


def test_generation_far_beyond_the_context() -> None:
    params = replace(GREEDY, max_tokens=30)
    assert continued(counting(10), [[9]], params) == [[i % 10 for i in range(30)]]


def test_the_stop_token_ends_a_prompt_and_is_not_returned() -> None:
    """Counting to 7: one prompt ends after two tokens, one at once, one after `max_tokens`."""
    params = replace(GREEDY, max_tokens=4)
    texts = continued(counting(10), [[4], [6], [8], [7]], params, stop_ids={7})
    assert texts == [[5, 6], [], [9, 0, 1, 2], [8, 9, 0, 1]]


def test_steps_of_a_batch_in_which_prompts_end() -> None:
    steps = list(generate_tokens(counting(10), [[4], [6], [5]], GREEDY, stop_ids={7}))
    assert steps == [[5, None, 6], [6, None, None]]


def test_a_prompt_that_ended_does_not_change_the_others() -> None:
    """The first prompt stops at once; the draws and positions of the second stay its own."""
    table = torch.zeros(10, 10)
    table[:, [0, 7]] = -1e3  # never drawn ...
    table[0, 7] = 1e3  # ... but 7 always follows 0
    first, second = continued(Script(table), [[0], [1, 2, 3]], SAMPLING, stop_ids={7})
    assert first == []
    alone = continued(Script(table), [[1, 2, 3]], SAMPLING)
    assert [second] == alone


def test_same_seed_same_tokens_and_another_seed_others() -> None:
    first = continued(MODEL, PROMPTS, SAMPLING)
    torch.manual_seed(99)  # the global generator plays no part
    assert continued(MODEL, PROMPTS, SAMPLING) == first
    assert continued(MODEL, PROMPTS, replace(SAMPLING, seed=1000)) != first


def test_samples_of_a_prompt_are_drawn_apart() -> None:
    (samples,) = generate(MODEL, [[1]], replace(SAMPLING, num_samples=3))
    assert len({tuple(sample) for sample in samples}) == 3


def test_fewer_tokens_are_the_first_of_more() -> None:
    (long,) = continued(MODEL, [[1, 2]], replace(SAMPLING, max_tokens=40))
    assert continued(MODEL, [[1, 2]], replace(SAMPLING, max_tokens=7)) == [long[:7]]


def test_drawn_frequencies_match_the_probabilities() -> None:
    """5,000 draws of fixed probabilities: each frequency within 5 standard deviations."""
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.08, 0.02])
    script = Script(probabilities.log().repeat(5, 1))
    params = replace(SAMPLING, max_tokens=50, top_k=4, temperature=0.8)
    (samples,) = generate(script, [[0]], replace(params, num_samples=100))
    drawn = torch.tensor(samples).flatten()
    frequencies = drawn.bincount(minlength=5) / len(drawn)
    expected = probabilities[:4] ** (1 / 0.8)
    expected = torch.cat((expected / expected.sum(), torch.zeros(1)))
    deviations = (expected * (1 - expected) / len(drawn)).sqrt()
    assert ((frequencies - expected).abs() <= 5 * deviations).all()


def test_generation_leaves_the_mode_of_its_caller_between_steps() -> None:
    """The mode of each step ends with it: the caller's gradients stay enabled."""
    steps = generate_tokens(MODEL, [[1]], SAMPLING)
    next(steps)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_an_empty_prompt(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="there is no prompt, or one is empty; each begins with"):
        continued(MODEL, prompts, SAMPLING)


# -- text


def test_text_without_its_prompt() -> None:
    params = replace(GREEDY, max_tokens=3)
    assert generate_text(counting(256), BYTES, ["ab", "x"], params) == [["cde"], ["yz{"]]


def test_a_prompt_begins_a_document_and_the_text_ends_with_it() -> None:
    """The separator, 256, stands before the prompt; after "d" it ends the text."""
    tokenizer = Tokenizer(BYTES.vocab, [], [SEPARATOR])
    model = counting(257)
    model.table[ord("d")] = 100 * torch.eye(257)[256]
    model.table[256] = 100 * torch.eye(257)[ord("b")]
    assert generate_text(model, tokenizer, ["a", ""], GREEDY) == [["bcd"], ["bcd"]]
    assert model.widths[0] == len("a")  # and the last token in the first step
    assert "".join(stream_text(model, tokenizer, "", GREEDY)) == "bcd"


@pytest.mark.parametrize("prompt", ["a", "Once é", "longer than the context"])
def test_streamed_text_equals_generated_text(prompt: str) -> None:
    """A random model over bytes gives broken characters of every kind."""
    for seed in range(6):
        params = replace(SAMPLING, max_tokens=20, seed=seed)
        streamed = "".join(stream_text(BYTE_MODEL, BYTES, prompt, params))
        assert [[streamed]] == generate_text(BYTE_MODEL, BYTES, [prompt], params)


def spelling(data: bytes) -> Script:
    """A model that continues byte 0 with `data`, by way of ids that stand for its places."""
    table = torch.zeros(len(data) + 1, len(data) + 1)
    table[torch.arange(len(data)), torch.arange(1, len(data) + 1)] = 100.0
    return Script(table)


def spelled(data: bytes) -> tuple[Tokenizer, SamplingParams]:
    vocab = {0: b"a"} | {i: bytes([byte]) for i, byte in enumerate(data, start=1)}
    return Tokenizer(vocab, [], None), replace(GREEDY, max_tokens=len(data))


@settings(deadline=None, max_examples=100)
@given(
    st.one_of(
        st.binary(min_size=1, max_size=12),
        st.text(min_size=1, max_size=4).map(lambda text: text.encode()[: len(text) + 2]),
    )
)
def test_streaming_any_bytes_equals_decoding_them(data: bytes) -> None:
    """Characters that are whole, cut off at the end, or never were: each U+FFFD in its place."""
    tokenizer, params = spelled(data)
    pieces = list(stream_text(spelling(data), tokenizer, "a", params))
    assert "".join(pieces) == data.decode("utf-8", errors="replace")
    assert "" not in pieces


def test_a_character_is_streamed_when_it_is_whole() -> None:
    """Two, three and four bytes; nothing shows before the last of them."""
    data = "é€😀!".encode()
    tokenizer, params = spelled(data)
    pieces = list(stream_text(spelling(data), tokenizer, "a", params))
    assert pieces == ["é", "€", "😀", "!"]


def test_a_character_that_stays_unfinished_is_shown_at_the_end() -> None:
    data = "b€".encode()[:-1]
    tokenizer, params = spelled(data)
    stream: Iterator[str] = stream_text(spelling(data), tokenizer, "a", params)
    assert list(stream) == ["b", "\ufffd"]


@settings(deadline=None)
@given(
    st.text("abé", max_size=12),
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 24), max_size=6),
)
def test_a_stop_text_ends_the_text_wherever_tokens_end(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    """The stop text that is whole first, whatever the pieces; none of it is ever shown."""
    data = text.encode()
    ends = [
        (data.find(s.encode()) + len(s.encode()), data.find(s.encode())) for s in stop if s in text
    ]
    expected = data[: min(ends)[1]] if ends else data
    stream, shown = TextStream(stop), ""
    bounds = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    for first, last in itertools.pairwise(bounds):
        if not stream.stopped:
            shown += stream.push(data[first:last])
            assert expected.startswith(shown.encode())
    assert shown + stream.close() == expected.decode()
    assert stream.stopped == bool(ends)


def test_samples_say_how_they_ended() -> None:
    params = replace(GREEDY, max_tokens=3, stop=("c", "zzz"), num_samples=2)
    (first, second), (other, _) = generate_samples(counting(256), BYTES, ["a", "x"], params)
    assert (first.text, first.tokens, first.finish_reason) == ("b", [98, 99], "stop")
    assert (first.seed, second.seed) == (5, 6)
    assert (other.text, other.finish_reason) == ("yz{", "length")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("a", "")}, "prompts holds an empty text"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be at least 0"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"min_p": 1.1}, r"min_p is 1.1; it must be in \[0, 1\]"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
        ({"num_samples": 0}, "num_samples is 0; it must be at least 1"),
        ({"stop": ("",)}, "stop holds an empty text"),
        ({"top_p": 1.1}, r"top_p is 1.1; it must be in \(0, 1\]"),
    ],
)
def test_params_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SAMPLING, **changes)
