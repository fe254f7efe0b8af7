"""lmlib/sampling/text.py: prompts encoded, tokens decoded, ends found."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.sampling import (
    SamplingParams,
    TextStream,
    generate_samples,
    generate_text,
    stream_text,
)
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from tests.sampling.scripted import BYTE_MODEL, BYTES, GREEDY, SAMPLING, Script, counting


def test_text_without_its_prompt() -> None:
    params = replace(GREEDY, max_tokens=3)
    assert generate_text(counting(256), BYTES, ["ab", "x"], params) == [["cde"], ["yz{"]]


def test_a_prompt_begins_a_document_and_the_text_ends_with_it() -> None:
    """The separator, 256, precedes the prompt; after "d" it ends the text."""
    tokenizer = Tokenizer(BYTES.vocab, [], [SEPARATOR])
    model = counting(257)
    model.table[ord("d")] = 100 * torch.eye(257)[256]
    model.table[256] = 100 * torch.eye(257)[ord("b")]
    assert generate_text(model, tokenizer, ["a", ""], GREEDY) == [["bcd"], ["bcd"]]
    assert model.widths[0] == len("a")  # and the last token in the first step
    assert "".join(stream_text(model, tokenizer, "", GREEDY)) == "bcd"


@pytest.mark.parametrize(("allow_special", "size"), [(False, len("a<x>")), (True, 2)])
def test_special_tokens_in_a_prompt_are_text_unless_allowed(allow_special: bool, size: int) -> None:
    """The separator before the prompt is one token either way."""
    tokenizer = Tokenizer(BYTES.vocab, [], [SEPARATOR, "<x>"])
    params = replace(GREEDY, max_tokens=1, allow_special=allow_special)
    for generate in (
        lambda model: generate_text(model, tokenizer, ["a<x>"], params),
        lambda model: generate_text(model, tokenizer, ["a<x>"], params, use_cache=False),
        lambda model: list(stream_text(model, tokenizer, "a<x>", params)),
    ):
        model = counting(258)
        generate(model)
        assert sum(model.widths) == 1 + size


@pytest.mark.parametrize("prompt", ["a", "Once é", "longer than the context"])
def test_streamed_text_equals_generated_text(prompt: str) -> None:
    """A random model over bytes gives broken characters of every kind."""
    for seed in range(6):
        params = replace(SAMPLING, max_tokens=20, seed=seed)
        streamed = "".join(stream_text(BYTE_MODEL, BYTES, prompt, params))
        assert [[streamed]] == generate_text(BYTE_MODEL, BYTES, [prompt], params)


def spelling(data: bytes) -> Script:
    """A model that continues byte 0 with `data`, through ids that represent its positions."""
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
    """Complete, truncated and invalid characters: each U+FFFD in its place."""
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
    """The stop text that is complete first counts, however it is split; none of it is shown."""
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


def test_what_may_become_the_longest_stop_text_is_held_back() -> None:
    stream = TextStream(["!", "<end>"])
    assert [stream.push(data) for data in (b"a<", b"en", b"d", b">")] == ["a", "", "", ""]
    assert stream.stopped


def test_samples_say_how_they_ended() -> None:
    params = replace(GREEDY, max_tokens=3, stop=("c", "zzz"), num_samples=2)
    (first, second), (other, _) = generate_samples(counting(256), BYTES, ["a", "x"], params)
    assert (first.text, first.tokens, first.finish_reason) == ("b", [98, 99], "stop")
    assert (first.seed, second.seed) == (5, 6)
    assert (other.text, other.finish_reason) == ("yz{", "length")
