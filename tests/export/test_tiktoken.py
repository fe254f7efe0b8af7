"""The .tiktoken file in `tiktoken`."""

from pathlib import Path

import pytest
import tiktoken
from tiktoken.load import load_tiktoken_bpe

from lmlib.export import tiktoken_bpe
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.patterns import PATTERNS
from tests.export.conftest import SPECIAL, TEXT, make_tokenizer

BYTES = {byte: bytes([byte]) for byte in range(256)}


def load(ours: Tokenizer, path: Path, monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # it would cache files by name
    path.write_bytes(tiktoken_bpe(ours))
    return tiktoken.Encoding(
        "ours",
        pat_str=PATTERNS[ours.pattern].split,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens=ours.special_ids,
    )


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_tiktoken(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = make_tokenizer(pattern, SPECIAL)
    theirs = load(ours, tmp_path / "t.tiktoken", monkeypatch)
    for text in (TEXT, TEXT[::-1], "".join(SPECIAL) + TEXT, "aaaaa thethethe"):
        assert theirs.encode(text, allowed_special="all") == ours.encode(text)
    assert theirs.decode(ours.encode(TEXT)) == TEXT


def test_bytes_and_special_tokens_may_have_any_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Special token first, as in some vocabularies, then merges, then bytes in reverse order."""
    vocab = {0: SPECIAL[0].encode(), 1: b"th", 2: b"the"}
    vocab |= {300 - byte: bytes([byte]) for byte in range(256)}
    ours = Tokenizer(vocab, [(b"t", b"h"), (b"th", b"e")], SPECIAL[:1])
    theirs = load(ours, tmp_path / "t.tiktoken", monkeypatch)
    text = f"the th{SPECIAL[0]}hate"
    assert theirs.encode(text, allowed_special="all") == ours.encode(text)
    assert ours.encode(text)[0] == 2


def test_ids_out_of_the_order_of_merges_are_refused() -> None:
    vocab = BYTES | {256: b"bc", 257: b"ab"}
    with pytest.raises(ValueError, match=r"b'bc' of merge 1 has the id 256, lower"):
        tiktoken_bpe(Tokenizer(vocab, [(b"a", b"b"), (b"b", b"c")]))


def test_a_token_its_bytes_do_not_merge_into_is_refused() -> None:
    """`a bc` cannot occur, since ab is merged first. tiktoken would join ab and c into it."""
    vocab = BYTES | {256: b"ab", 257: b"bc", 258: b"abc"}
    ours = Tokenizer(vocab, [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")])
    assert ours.encode("abc") == [256, 99]
    with pytest.raises(ValueError, match=r"merge 2 joins b'a' and b'bc'"):
        tiktoken_bpe(ours)
