"""Saved tokenizers: what is written, what is read, what is rejected."""

import json
import re
from pathlib import Path

import pytest

from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.files import byte_symbols
from tests.tokenizer.conftest import END

BYTES = {byte: bytes([byte]) for byte in range(256)}

pytestmark = pytest.mark.usefixtures("without_digests")


def test_byte_symbols_by_hand() -> None:
    """Printable bytes are themselves; NUL, line feed, space and DEL are the next from U+0100."""
    symbols = byte_symbols()
    assert len(set(symbols)) == 256
    assert [symbols[byte] for byte in b"\x00\n A\x7f\xa1\xad\xff"] == list("ĀĊĠAġ¡Ńÿ")


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", r"\w+|\W"])
def test_load_gives_back_what_was_saved(
    tokenizer: Tokenizer, corpus: str, tmp_path: Path, pattern: str
) -> None:
    ours = Tokenizer(tokenizer.vocab, tokenizer.merges, [END, "<a b>"], pattern=pattern)
    ours.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    assert (loaded.vocab, loaded.merges) == (ours.vocab, ours.merges)
    assert (loaded.pattern, loaded.special_ids) == (pattern, ours.special_ids)
    assert loaded.encode(corpus) == ours.encode(corpus)


def test_saving_twice_writes_the_same_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tokenizer.save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        *["bpe.json", "merges.txt", "tokenizer.json", "vocab.json"]
    ]


def test_from_files_reads_the_format_of_gpt2(tmp_path: Path) -> None:
    """With GPT-2's version line and special token, and Windows line ends."""
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    vocab |= {"Ġt": 256, "#version": 257, "<|endoftext|>": 258}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes("#version: 0.2\r\nĠ t\r\n".encode())
    ours = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", [END])
    assert ours.merges == [(b" ", b"t")]
    assert ours.encode("a t" + END) == [97, 256, 258]
    assert ours.vocab_size == 259


def test_special_token_that_is_also_a_merge(tmp_path: Path) -> None:
    """Both have the same id, in Hugging Face's file too."""
    tokenizers = pytest.importorskip("tokenizers")
    vocab = BYTES | {256: b" t", 257: b" th"}
    ours = Tokenizer(vocab, [(b" ", b"t"), (b" t", b"h")], [" t"])
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("a th", " t t", "\u0120t"):
        assert theirs.encode(text).ids == ours.encode(text)


def test_errors_name_the_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"bpe\.json: no such file; give the path"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    merges.write_text("a b c\n")
    with pytest.raises(ValueError, match=r"merges\.txt, line 1: 'a b c' should be two tokens"):
        Tokenizer.load(tmp_path)
    vocab.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="the files belong to different tokenizers"):
        Tokenizer.load(tmp_path)
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "holds a list; it should hold keys and values"),
        ('{"a": "x"}', "token 'a' has the id 'x'; an id is a whole number from 0 to"),
        ('{"a": 1, "b": 1}', "'a' and 'b', two tokens, have the same id, 1"),
    ):
        vocab.write_text(text)
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_files(vocab, merges)
    (tmp_path / "bpe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bpe\.json: needs a string `pattern`"):
        Tokenizer.load(tmp_path)


def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same bytes under two ids"):
        Tokenizer(BYTES | {256: b"a"}, []).save(tmp_path)
    with pytest.raises(ValueError, match=r"special token 'é' has the same spelling"):
        Tokenizer(BYTES, [], ["é"]).save(tmp_path)


def damaged(folder: Path, name: str, content: str | bytes) -> Path:
    """Return the folder of a saved tokenizer in which one file has this content."""
    Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")], [END]).save(folder)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize("name", ["bpe.json", "vocab.json", "merges.txt"])
def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: not UTF-8 text \(byte 0xff at offset 0\); it"):
        Tokenizer.load(damaged(tmp_path, name, b"\xff\xfe"))


@pytest.mark.parametrize("name", ["bpe.json", "vocab.json"])
@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"a": ' * 100_000, "3", "null"])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: (not valid JSON|holds a )"):
        Tokenizer.load(damaged(tmp_path, name, content))


@pytest.mark.parametrize(
    "token_id", ["97.0", "1e12", "true", "-1", "null", "[97]", "1" + "0" * 400]
)
def test_what_is_no_id_is_refused(tmp_path: Path, token_id: str) -> None:
    """97.0 and true are equal to ids in Python."""
    message = r"'a' has the id .{1,100}; an id is a whole number from 0 to 2147483646$"
    vocab = f'{{"a": {token_id}}}'
    with pytest.raises(ValueError, match=rf"vocab\.json: token {message}"):
        Tokenizer.load(damaged(tmp_path, "vocab.json", vocab))
    config = f'{{"pattern": "gpt2", "special_tokens": {vocab}}}'
    with pytest.raises(ValueError, match=rf"bpe\.json: special token {message}"):
        Tokenizer.load(damaged(tmp_path, "bpe.json", config))


def test_two_tokens_of_the_same_bytes(tmp_path: Path) -> None:
    """A space may be written as itself or as GPT-2's symbol for it."""
    for vocab, message in (
        ('{" ": 32, "Ġ": 300}', r"vocab\.json: ' ' and 'Ġ' are the same bytes; keep one"),
        ('{"a": 97, "a": 300}', r"vocab\.json: not valid JSON: the key 'a' occurs twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokenizer.load(damaged(tmp_path, "vocab.json", vocab))


def test_files_that_disagree_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(tmp_path))}: merge 0 joins b'x' and b'y', but b'xy' is"
    ):
        Tokenizer.load(damaged(tmp_path, "merges.txt", "x y\n"))
    config = '{"pattern": "GPT2", "special_tokens": {}}'
    with pytest.raises(
        ValueError,
        match=rf"^{re.escape(str(tmp_path))}: pattern 'GPT2' is not the name of a pattern",
    ):
        Tokenizer.load(damaged(tmp_path, "bpe.json", config))
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    merges.write_text("x y\n")
    with pytest.raises(
        ValueError, match=r"^.*vocab\.json, .*merges\.txt: merge 0 joins b'x' and b'y', but"
    ):
        Tokenizer.from_files(vocab, merges)
