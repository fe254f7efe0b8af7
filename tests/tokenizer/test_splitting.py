"""Special tokens, and cuts that change nothing."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlib.tokenizer.patterns import PATTERNS, find_pattern
from lmlib.tokenizer.reference import pre_tokens
from lmlib.tokenizer.splitting import Splitter, check_special_tokens
from tests.tokenizer.strategies import raw_bytes, special_lists, texts


def split(text: str, splitter: Splitter) -> list[str]:
    """Return pre-tokens and special tokens in order."""
    pieces = []
    for piece, is_special in splitter.parts(text):
        pieces += [piece] if is_special else pre_tokens(piece, splitter.pattern)
    return pieces


def test_gpt2_pattern_by_hand() -> None:
    """The last space before a word belongs to it; the others stand alone."""
    assert list(pre_tokens("I'll  see 12 a.\n\n b", "gpt2")) == [
        *["I", "'ll", " ", " see", " 12", " a", ".", "\n\n", " b"]
    ]


def test_cl100k_pattern_by_hand() -> None:
    """Numbers come in threes, line ends stay with what precedes them, case does not matter."""
    assert list(pre_tokens("I'LL 12345.\n\n b", "cl100k")) == [
        *["I", "'LL", " ", "123", "45", ".\n\n", " b"]
    ]


def test_custom_pattern_keeps_what_it_does_not_match() -> None:
    assert list(pre_tokens("ab-12 c!", r"[a-z]+|\b")) == ["ab", "-", "12", " ", "c", "!"]


def test_invalid_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"pattern '\(' is not a valid regular expression"):
        find_pattern("(")


def test_longest_special_token_wins() -> None:
    splitter = Splitter("gpt2", ["<|a|>", "<|a|><|a|>"])
    text = "x<|a|><|a|><|a|>y"
    assert list(splitter.parts(text)) == [
        *[("x", False), ("<|a|><|a|>", True), ("<|a|>", True), ("y", False)]
    ]


def test_special_tokens_must_be_a_list_of_texts() -> None:
    with pytest.raises(ValueError, match=r"write \['<x>'\]"):
        check_special_tokens("<x>")
    with pytest.raises(ValueError, match="at least one character"):
        check_special_tokens([""])


@settings(deadline=None, max_examples=500)
@given(texts, special_lists, st.sampled_from(list(PATTERNS)))
def test_cuts_change_nothing(text: str, special_tokens: list[str], pattern: str) -> None:
    """Both sides of every cut, split alone, give the pieces of the whole."""
    splitter = Splitter(pattern, special_tokens)
    whole = split(text, splitter)
    for cut in splitter.cuts(text, 0, len(text)):
        assert split(text[:cut], splitter) + split(text[cut:], splitter) == whole


@settings(deadline=None, max_examples=300)
@given(texts, texts, special_lists, st.sampled_from(list(PATTERNS)))
def test_last_cut_holds_whatever_follows(
    text: str, rest: str, special_tokens: list[str], pattern: str
) -> None:
    splitter = Splitter(pattern, special_tokens)
    cut = splitter.last_cut(text)
    both = split(text[:cut], splitter) + split(text[cut:] + rest, splitter)
    assert both == split(text + rest, splitter)


@settings(deadline=None, max_examples=300)
@given(raw_bytes, special_lists, st.sampled_from([*PATTERNS, r"\w+|\s+"]), st.integers(1, 20))
def test_file_chunks_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    special_tokens: list[str],
    pattern: str,
    chunk_bytes: int,
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "chunks.txt"
    path.write_bytes(data)
    splitter = Splitter(pattern, special_tokens)
    pieces: list[str] = []
    at = 0
    for start, end in splitter.chunks(path, chunk_bytes):
        assert start == at < end
        at = end
        pieces += split(data[start:end].decode("utf-8", "surrogateescape"), splitter)
    assert at == len(data)
    assert pieces == split(data.decode("utf-8", "surrogateescape"), splitter)


def test_text_without_special_tokens_or_spaces_is_cut(tmp_path: Path) -> None:
    """A cut needs no space: Chinese punctuation does."""
    path = tmp_path / "chinese.txt"
    path.write_text("这是一个句子。那是另一个。" * 2000, encoding="utf-8")
    assert max(b - a for a, b in Splitter("gpt2", []).chunks(path, 1000)) < 1100
