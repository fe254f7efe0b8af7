"""Patterns, special tokens, and cuts that change nothing."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import regex
import tiktoken_ext.openai_public as openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.tokenizer import engine
from lmlib.tokenizer.characters import for_regex
from lmlib.tokenizer.patterns import PATTERNS, find_pattern
from lmlib.tokenizer.reference import pre_tokens
from lmlib.tokenizer.splitting import FindCut, Splitter, check_special_tokens, file_chunks
from tests.tokenizer.strategies import (
    BROKEN,
    END,
    LONG,
    SPECIAL,
    plain_pieces,
    raw_bytes,
    special_lists,
    texts,
)


def split(text: str, splitter: Splitter) -> list[str]:
    """Return pre-tokens and special tokens in order."""
    pieces = []
    for piece, is_special in plain_pieces(text, splitter.special_tokens):
        pieces += [piece] if is_special else pre_tokens(piece, splitter.pattern)
    return pieces


# -- patterns


def test_gpt2_pattern_by_hand() -> None:
    """The last space before a word belongs to it; the others are separate."""
    assert list(pre_tokens("I'll  see 12 a.\n\n b", "gpt2")) == [
        *["I", "'ll", " ", " see", " 12", " a", ".", "\n\n", " b"]
    ]


def test_cl100k_pattern_by_hand() -> None:
    """Numbers come in threes, line ends stay with what precedes them, case does not matter."""
    assert list(pre_tokens("I'LL 12345.\n\n b", "cl100k")) == [
        *["I", "'LL", " ", "123", "45", ".\n\n", " b"]
    ]


def test_o200k_pattern_by_hand() -> None:
    """Upper case after lower case begins a pre-token; marks and contractions stay with letters."""
    assert list(pre_tokens("I'LL HTTPServer e\u0301A don't'll 1234 //\n/\n \n b", "o200k")) == [
        *["I'LL", " HTTPServer", " e\u0301", "A", " don't", "'ll", " ", "123", "4"],
        *[" //\n/\n", " \n", " b"],
    ]


def test_o200k_gives_back_upper_case() -> None:
    """If no lower case follows caseless and upper-case letters, the last caseless one ends it."""
    assert list(pre_tokens("AB中CD 中CDe \u0301A", "o200k")) == [
        *["AB中", "CD", " 中CDe", " \u0301", "A"]
    ]


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("gpt2", "r50k_base"), ("cl100k", "cl100k_base"), ("o200k", "o200k_base")],
)
def test_patterns_split_as_those_of_tiktoken(
    name: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its current expressions, which differ from ours in where they forbid backtracking."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **kwargs: {})
    theirs = getattr(openai_public, encoding)()["pat_str"]
    compiled = regex.compile(theirs.replace("$", r"\Z"))  # in Rust `$` is the very end

    @settings(deadline=None, max_examples=300)
    @given(texts)
    def check(text: str) -> None:
        spans = [match.span() for match in compiled.finditer(for_regex(text))]
        assert list(pre_tokens(text, name)) == [text[start:end] for start, end in spans]

    check()


def test_custom_pattern_keeps_what_it_does_not_match() -> None:
    assert list(pre_tokens("ab-12 c!", r"[a-z]+|\b")) == ["ab", "-", "12", " ", "c", "!"]


def test_invalid_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"pattern '\(' is not a valid regular expression"):
        find_pattern("(")


# -- special tokens


def test_longest_special_token_wins() -> None:
    splitter = Splitter("gpt2", ["<|a|>", "<|a|><|a|>"])
    text = "x<|a|><|a|><|a|>y"
    assert list(splitter.parts(text)) == [
        *[("x", False), ("<|a|><|a|>", True), ("<|a|>", True), ("y", False)]
    ]


@settings(deadline=None, max_examples=200)
@given(st.one_of(texts, st.text("<|endoftx> ab")), special_lists)
def test_special_tokens_are_found_as_plainly(text: str, special_tokens: list[str]) -> None:
    """The leftmost wins, then the longest, in any order of the list."""
    splitter = Splitter("gpt2", special_tokens)
    assert list(splitter.parts(text)) == list(plain_pieces(text, special_tokens))


def test_special_tokens_must_be_a_list_of_texts() -> None:
    with pytest.raises(ValueError, match=r"write \['<x>'\]"):
        check_special_tokens("<x>")
    with pytest.raises(ValueError, match="at least one character"):
        check_special_tokens([""])


# -- cuts


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("alphabet", ["Aa中\u0301 \t\n/!1'", "Aa'slLvVeE \u0301"])
def test_cuts_of_every_short_text_change_nothing(pattern: str, alphabet: str) -> None:
    """A character of each class, in all orders; and the letters of contractions."""
    splitter = Splitter(pattern, [])
    for text in map("".join, itertools.product(alphabet, repeat=4)):
        whole = list(pre_tokens(text, pattern))
        for cut in splitter.cuts(text, 0, len(text)):
            assert [*pre_tokens(text[:cut], pattern), *pre_tokens(text[cut:], pattern)] == whole


@settings(deadline=None, max_examples=300)
@given(texts, special_lists, st.sampled_from(list(PATTERNS)))
def test_cuts_change_nothing(text: str, special_tokens: list[str], pattern: str) -> None:
    """Both sides of every cut, split alone, give the pieces of the whole."""
    splitter = Splitter(pattern, special_tokens)
    whole = split(text, splitter)
    for cut in splitter.cuts(text, 0, len(text)):
        assert split(text[:cut], splitter) + split(text[cut:], splitter) == whole


@settings(deadline=None, max_examples=200)
@given(texts, texts, special_lists, st.sampled_from(list(PATTERNS)))
def test_last_cut_holds_whatever_follows(
    text: str, rest: str, special_tokens: list[str], pattern: str
) -> None:
    splitter = Splitter(pattern, special_tokens)
    cut = splitter.last_cut(text)
    both = split(text[:cut], splitter) + split(text[cut:] + rest, splitter)
    assert both == split(text + rest, splitter)


@pytest.mark.parametrize("size", range(len(END)))
def test_no_cut_within_a_special_token_that_is_not_complete_yet(size: int) -> None:
    before = "one, two, three, four, five"
    assert 0 < Splitter("gpt2", [END]).last_cut(before + END[:size]) <= len(before)


# -- chunks of files


@pytest.fixture(params=["plain", "engine"])
def find_cut_for(request: pytest.FixtureRequest) -> Callable[[Splitter], FindCut]:
    """Return a function that returns a splitter's `find_cut`: the plain or the fast one."""
    if request.param == "plain":
        return lambda splitter: splitter.find_cut
    return lambda splitter: partial(engine.find_cut, splitter)


def pieces_of_chunks(
    path: Path, splitter: Splitter, chunk_bytes: int, find_cut: FindCut
) -> list[str]:
    """Return pre-tokens and special tokens of each chunk alone; the chunks must cover the file."""
    data = path.read_bytes()
    pieces: list[str] = []
    at = 0
    for start, end in file_chunks(path, splitter, chunk_bytes, find_cut):
        assert start == at < end
        at = end
        pieces += split(data[start:end].decode("utf-8", "surrogateescape"), splitter)
    assert at == len(data)
    return pieces


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_file_chunks_change_nothing(
    tmp_path: Path, find_cut_for: Callable[[Splitter], FindCut], pattern: str
) -> None:
    path = tmp_path / "chunks.txt"

    @settings(deadline=None, max_examples=200)
    @given(raw_bytes, special_lists, st.integers(1, 20))
    def check(data: bytes, special_tokens: list[str], chunk_bytes: int) -> None:
        path.write_bytes(data)
        splitter = Splitter(pattern, special_tokens)
        whole = split(data.decode("utf-8", "surrogateescape"), splitter)
        assert pieces_of_chunks(path, splitter, chunk_bytes, find_cut_for(splitter)) == whole

    check()


EDGES = "<|end<|endoftext|><|<|endoftext|><<<| the  the ab é\u0301中\n\n👩\u200d\u200dß|".encode()


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_a_chunk_may_end_at_every_byte(
    tmp_path: Path, find_cut_for: Callable[[Splitter], FindCut], pattern: str
) -> None:
    """Targets fall inside characters, broken ones, and special tokens that overlap or touch."""
    path = tmp_path / "chunks.txt"
    path.write_bytes(EDGES + b" ".join(BROKEN) + b"".join(BROKEN) + EDGES)
    splitter = Splitter(pattern, SPECIAL)
    whole = split(path.read_bytes().decode("utf-8", "surrogateescape"), splitter)
    for chunk_bytes in range(1, path.stat().st_size + 1):
        assert pieces_of_chunks(path, splitter, chunk_bytes, find_cut_for(splitter)) == whole


def test_a_custom_pattern_is_cut_at_special_tokens_alone(tmp_path: Path) -> None:
    path = tmp_path / "chunks.txt"
    path.write_bytes(EDGES + b" ".join(BROKEN) + EDGES)
    splitter = Splitter(r"\w+|\s+", SPECIAL)
    whole = split(path.read_bytes().decode("utf-8", "surrogateescape"), splitter)
    for chunk_bytes in range(1, path.stat().st_size + 1):
        assert pieces_of_chunks(path, splitter, chunk_bytes, splitter.find_cut) == whole
    path.write_bytes(b"two words" + END.encode() + b"and more words")
    chunks = file_chunks(path, Splitter(r"\w+|\s+", [END]), 1, splitter.find_cut)
    assert {b for _, b in chunks} <= {9, 22, 36}


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_a_long_pre_token_is_not_cut(
    tmp_path: Path, find_cut_for: Callable[[Splitter], FindCut], pattern: str
) -> None:
    """Even if chunks would often end in it, and beyond the window first searched for a cut."""
    path = tmp_path / "chunks.txt"
    splitter = Splitter(pattern, [END])
    for long in LONG.values():
        path.write_bytes(b"one " + long * 4 + b" two" + END.encode() + long + b"1")
        whole = split(path.read_bytes().decode("utf-8", "surrogateescape"), splitter)
        assert pieces_of_chunks(path, splitter, 9000, find_cut_for(splitter)) == whole


def test_no_cut_after_a_token_whose_start_another_one_has(
    tmp_path: Path, find_cut_for: Callable[[Splitter], FindCut]
) -> None:
    """The first token has the first letters of the second, whose rest belongs to a word."""
    path = tmp_path / "chunks.txt"
    path.write_text("one abcdefghijKLMNOPQRword" + " two" * 9, encoding="utf-8")
    splitter = Splitter("gpt2", ["abcdefghij", "ijKLMNOPQR"])
    whole = ["one", " ", "abcdefghij", "KLMNOPQRword", *[" two"] * 9]
    for chunk_bytes in range(1, path.stat().st_size + 1):
        assert pieces_of_chunks(path, splitter, chunk_bytes, find_cut_for(splitter)) == whole


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("letter", ["é", "中", "𐍈"])
def test_a_window_may_end_in_a_character(
    tmp_path: Path, find_cut_for: Callable[[Splitter], FindCut], letter: str, offset: int
) -> None:
    """A long word of characters of several bytes: what is seen of the last one is no cut."""
    path = tmp_path / "chunks.txt"
    path.write_text("x" * offset + letter * 3000, encoding="utf-8")
    splitter = Splitter("gpt2", [])
    chunks = list(file_chunks(path, splitter, 100, find_cut_for(splitter)))
    assert chunks == [(0, path.stat().st_size)]


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("text", ["这是一个句子。那是另一个。", "words and words\n", "a1!b2?\n"])
def test_common_text_is_cut_everywhere(
    tmp_path: Path, find_cut_for: Callable[[Splitter], FindCut], pattern: str, text: str
) -> None:
    """A cut needs neither a space nor a special token: Chinese punctuation is enough."""
    path = tmp_path / "common.txt"
    path.write_text(text * 2000, encoding="utf-8")
    splitter = Splitter(pattern, [END])
    chunks = file_chunks(path, splitter, 1000, find_cut_for(splitter))
    assert max(b - a for a, b in chunks) < 1100


@pytest.mark.parametrize("text", ["中aaa中a", "bbbaaabbb", "aaaaab", "xaaaaaax"])
def test_no_cut_after_a_token_that_another_one_overlaps(text: str) -> None:
    """In `aaa` the token `aa` is the first two letters, wherever the search for a cut begins."""
    splitter = Splitter("gpt2", ["aa"])
    data = ("x" * 8 + text + "x" * 8).encode()

    def words(piece: bytes) -> list[str]:
        parts = splitter.parts(piece.decode("utf-8"))
        return [
            word
            for part, is_special in parts
            for word in ([part] if is_special else pre_tokens(part, "gpt2"))
        ]

    for first in range(8, len(data) - 8):
        place = splitter.find_cut(data, first, len(data) - 8)
        assert place < 0 or words(data[:place]) + words(data[place:]) == words(data)
