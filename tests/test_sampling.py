"""lmlib/sampling.py: distributions, generation in batches, and text."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlib.model import ModelParams, TransformerLM
from lmlib.sampling import (
    SamplingParams,
    apply_temperature,
    generate,
    generate_text,
    generate_tokens,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
    stream_text,
)
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

    def forward(self, token_ids: Tensor, token_positions: Tensor | None = None) -> Tensor:
        self.widths.append(token_ids.shape[-1])
        return self.table[token_ids]


def counting(vocab_size: int) -> Script:
    """After token i comes i + 1, and after the last comes 0."""
    return Script(100 * torch.eye(vocab_size).roll(1, dims=1))


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
        (0.76, [True, True, True, False]),
        (0.9, [True, True, True, True]),
        (1.0, [True, True, True, True]),
    ],
)
def test_top_p_by_hand(p: float, expected: list[bool]) -> None:
    """Likeliest first they reach 1/2, 3/4, 7/8 and 1."""
    logits = logits_of(0.25, 0.5, 0.125, 0.125)
    assert kept(keep_top_p(logits, p)) == expected
    assert torch.equal(keep_top_p(logits, p)[expected], logits[expected])


def test_top_p_takes_the_first_of_equal_tokens() -> None:
    """Two of four reach 1/2 exactly; a third token, or another choice of two, is wrong."""
    assert kept(keep_top_p(torch.zeros(4), 0.5)) == [True, True, False, False]


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
    assert generate(counting(10), [[3], [0, 8]], params) == [[4, 5, 6, 7], [9, 0, 1, 2]]


def test_greedy_generation_is_argmax_whatever_the_filters() -> None:
    rows = [list(prompt) for prompt in PROMPTS]
    for row in rows:
        for _ in range(12):
            logits = MODEL(torch.tensor(row[-8:]))[-1]
            row.append(int(logits.argmax()))
    expected = [row[-12:] for row in rows]
    params = replace(GREEDY, top_k=3, top_p=0.5, seed=77)
    assert generate(MODEL, PROMPTS, params) == expected


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {}, {"top_k": 5}, {"top_p": 0.7}])
def test_a_prompt_continues_as_it_does_alone(changes: dict[str, Any]) -> None:
    """Lengths differ and one prompt outgrows the context; the i-th draws with seed + i."""
    params = replace(SAMPLING, **changes)
    together = generate(MODEL, PROMPTS, params)
    for i, prompt in enumerate(PROMPTS):
        assert [together[i]] == generate(MODEL, [prompt], replace(params, seed=params.seed + i))


def test_the_model_sees_the_last_context_length_tokens() -> None:
    """8 tokens are the context; more is an error of the model, less would forget."""
    script = counting(10)
    generate(script, [[0] * 6], replace(GREEDY, max_tokens=5))
    assert script.widths == [6, 7, 8, 8, 8]


def test_generation_far_beyond_the_context() -> None:
    params = replace(GREEDY, max_tokens=30)
    assert generate(counting(10), [[9]], params) == [[i % 10 for i in range(30)]]


def test_the_stop_token_ends_a_prompt_and_is_not_returned() -> None:
    """Counting to 7: one prompt ends after two tokens, one at once, one after `max_tokens`."""
    params = replace(GREEDY, max_tokens=4)
    continued = generate(counting(10), [[4], [6], [8], [7]], params, stop_id=7)
    assert continued == [[5, 6], [], [9, 0, 1, 2], [8, 9, 0, 1]]


def test_steps_of_a_batch_in_which_prompts_end() -> None:
    steps = list(generate_tokens(counting(10), [[4], [6], [5]], GREEDY, stop_id=7))
    assert steps == [[5, None, 6], [6, None, None]]


def test_a_prompt_that_ended_does_not_change_the_others() -> None:
    """The first prompt stops at once; the draws and positions of the second stay its own."""
    table = torch.zeros(10, 10)
    table[:, [0, 7]] = -1e3  # never drawn ...
    table[0, 7] = 1e3  # ... but 7 always follows 0
    first, second = generate(Script(table), [[0], [1, 2, 3]], SAMPLING, stop_id=7)
    assert first == []
    alone = generate(Script(table), [[1, 2, 3]], replace(SAMPLING, seed=SAMPLING.seed + 1))
    assert [second] == alone


def test_same_seed_same_tokens_and_another_seed_others() -> None:
    first = generate(MODEL, PROMPTS, SAMPLING)
    torch.manual_seed(99)  # the global generator plays no part
    assert generate(MODEL, PROMPTS, SAMPLING) == first
    assert generate(MODEL, PROMPTS, replace(SAMPLING, seed=1000)) != first


def test_equal_prompts_of_a_batch_are_drawn_apart() -> None:
    first, second = generate(MODEL, [[1], [1]], SAMPLING)
    assert first != second


def test_drawn_frequencies_match_the_probabilities() -> None:
    """5,000 draws of fixed probabilities: each frequency within 5 standard deviations."""
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.08, 0.02])
    script = Script(probabilities.log().repeat(5, 1))
    params = replace(SAMPLING, max_tokens=50, top_k=4, temperature=0.8)
    drawn = torch.tensor(generate(script, [[0]] * 100, params)).flatten()
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
        generate(MODEL, prompts, SAMPLING)


# -- text


def test_text_without_its_prompt() -> None:
    params = replace(GREEDY, max_tokens=3)
    assert generate_text(counting(256), BYTES, ["ab", "x"], params) == ["cde", "yz{"]


def test_a_prompt_begins_a_document_and_the_text_ends_with_it() -> None:
    """The separator, 256, stands before the prompt; after "d" it ends the text."""
    tokenizer = Tokenizer(BYTES.vocab, [], [SEPARATOR])
    model = counting(257)
    model.table[ord("d")] = 100 * torch.eye(257)[256]
    model.table[256] = 100 * torch.eye(257)[ord("b")]
    assert generate_text(model, tokenizer, ["a", ""], GREEDY) == ["bcd", "bcd"]
    assert model.widths[0] == len("a") + 1
    assert "".join(stream_text(model, tokenizer, "", GREEDY)) == "bcd"


@pytest.mark.parametrize("prompt", ["a", "Once é", "longer than the context"])
def test_streamed_text_equals_generated_text(prompt: str) -> None:
    """A random model over bytes gives broken characters of every kind."""
    for seed in range(6):
        params = replace(SAMPLING, max_tokens=20, seed=seed)
        streamed = "".join(stream_text(BYTE_MODEL, BYTES, prompt, params))
        assert [streamed] == generate_text(BYTE_MODEL, BYTES, [prompt], params)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("a", "")}, "prompts holds an empty text"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be at least 0"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p is 1.1; it must be in \(0, 1\]"),
    ],
)
def test_params_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SAMPLING, **changes)
