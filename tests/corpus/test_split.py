"""Copying files, and the split by hash."""

import hashlib
import logging
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlib.corpus import split
from lmlib.corpus.documents import SEPARATOR
from lmlib.corpus.split import Found, Reading, copy_file, require_two_sides, split_file


def ignore(count: int) -> None:
    """Ignore the bytes reported to a progress bar."""


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def split_files(paths: list[Path], valid_fraction: float, train: Path, valid: Path) -> None:
    """As `write_corpus` does it."""
    found = Found()
    with train.open("w+b") as first, valid.open("w+b") as second:
        for path in paths:
            reading = Reading("split", "text", valid_fraction, is_last=path == paths[-1])
            split_file(path, reading, first, second, found, ignore)
        found.check([str(path) for path in paths])
        require_two_sides(first, second, valid_fraction, found)


def split_bytes(
    folder: Path, contents: list[bytes], valid_fraction: float = 0.25
) -> tuple[bytes, bytes]:
    paths = [write(folder / f"{i}.txt", content) for i, content in enumerate(contents)]
    train, valid = folder / "train", folder / "valid"
    split_files(paths, valid_fraction, train, valid)
    return train.read_bytes(), valid.read_bytes()


def copy_bytes(folder: Path, contents: list[bytes]) -> bytes:
    paths = [write(folder / f"{i}.txt", content) for i, content in enumerate(contents)]
    found = Found()
    with (folder / "out").open("w+b") as output:
        for path in paths:
            copy_file(path, Reading(is_last=path == paths[-1]), output, found, ignore)
    found.check([str(path) for path in paths])
    return (folder / "out").read_bytes()


def belongs_to_valid(document: bytes, valid_fraction: float) -> bool:
    digest = hashlib.sha256(b"".join(document.split())).digest()
    return int.from_bytes(digest[:8], "big") < valid_fraction * 2**64


def test_one_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfone\r\n<|endoftext|>\r\n\r\n<|endoftext|>\xff two \n\n"
    assert copy_bytes(tmp_path, [content]) == content


def test_copied_files_are_separated_once(tmp_path: Path) -> None:
    """The text of a file does not depend on the next one: white space is not carried over."""
    assert copy_bytes(tmp_path, [b"a", b" \n", b"b<|endoftext|>\n", b"\nc\n"]) == (
        b"a<|endoftext|>b<|endoftext|>\nc\n"
    )


def test_split_by_hand(tmp_path: Path) -> None:
    """The rule is applied to each document alone, and the text around separators is kept."""
    documents = [b"\nStory %d.\r\n" % i for i in range(200)]
    train, valid = split_bytes(tmp_path, [SEPARATOR.join(documents) + SEPARATOR + b"\n"])
    sides = [belongs_to_valid(document, 0.25) for document in documents]
    for text, side in ((train, False), (valid, True)):
        kept = [d + SEPARATOR for d, s in zip(documents, sides, strict=True) if s == side]
        assert text == b"".join(kept)
    assert 30 <= sum(sides) <= 70  # 50 expected, 6 standard deviation


@given(
    st.lists(
        st.lists(st.sampled_from([b"a", b"b", b"c\n", b" d", b"e e", b"\n", b""]), max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.integers(min_value=0, max_value=3),
)
def test_split_keeps_documents_whole_and_apart(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[bytes]], ended: bool, turn: int
) -> None:
    """In any order of the files, nothing is lost, nothing is on both sides, nothing is joined."""
    folder = tmp_path_factory.mktemp("split")
    fillers = [[b"filler %d" % i for i in range(40)]]  # so many that the hash fills both sides
    files = fillers + files
    contents = [SEPARATOR.join(file) + (SEPARATOR if ended else b"") for file in files]
    train, valid = split_bytes(folder, contents[turn:] + contents[:turn])
    for text, side in ((train, False), (valid, True)):
        found = sorted(part.strip() for part in text.split(SEPARATOR) if part.strip())
        texts = [document.strip() for file in files for document in file if document.strip()]
        assert found == sorted(t for t in texts if belongs_to_valid(t, 0.25) == side)


def test_white_space_does_not_make_another_document(tmp_path: Path) -> None:
    """A copy of the corpus with Windows line ends is split in the same way."""
    documents = [b"Story\n%d\n" % i for i in range(40)]
    lf = SEPARATOR.join(documents)
    _, valid = split_bytes(tmp_path, [lf, lf.replace(b"\n", b"\r\n")])
    kept = [b"".join(part.split()) for part in valid.split(SEPARATOR) if part.strip()]
    assert kept
    assert kept[: len(kept) // 2] == kept[len(kept) // 2 :]


def test_pieces_of_any_size_give_the_same_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = SEPARATOR.join(b"Story %d\n" % i for i in range(50))
    expected = split_bytes(tmp_path, [content])
    monkeypatch.setattr(split, "CHUNK_BYTES", 5)  # moves in small steps
    read_pieces = split.read_pieces
    monkeypatch.setattr(split, "read_pieces", lambda path, field: read_pieces(path, field, 3))
    assert split_bytes(tmp_path, [content]) == expected


def test_one_text_is_cut_at_the_end_of_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = b"".join(b"Line number %03d.\r\n" % i for i in range(100))
    with caplog.at_level(logging.INFO):
        train, valid = split_bytes(tmp_path, [text], valid_fraction=0.1)
    assert train + valid == text
    assert valid.startswith(b"Line")
    assert 180 <= len(valid) <= 198  # a tenth of 1,800 bytes, and what remained of a line
    assert "no <|endoftext|> in" in caplog.text
    assert "the last" in caplog.text


def test_a_cut_prefers_the_end_of_a_document(tmp_path: Path) -> None:
    """Two documents that both hash to train at this fraction."""
    text = b"first " * 50 + SEPARATOR + b"second \n" * 3 + SEPARATOR + b"\n"
    assert not belongs_to_valid(b"first " * 50, 0.06)
    assert not belongs_to_valid(b"second \n" * 3, 0.06)
    train, valid = split_bytes(tmp_path, [text], valid_fraction=0.06)
    assert train == b"first " * 50 + SEPARATOR
    assert valid == b"second \n" * 3 + SEPARATOR


@pytest.mark.parametrize("valid_fraction", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_a_cut_keeps_characters_whole(tmp_path: Path, valid_fraction: float) -> None:
    text = "漢字仮名🙂".encode() * 9
    train, valid = split_bytes(tmp_path, [text], valid_fraction)
    assert (train + valid).decode() == train.decode() + valid.decode() == text.decode()


@pytest.mark.parametrize("share", range(1, 40))
def test_a_cut_never_falls_inside_a_separator(tmp_path: Path, share: int) -> None:
    text = b"abcdefgh" + SEPARATOR + b"xyzuvw" + SEPARATOR
    train, valid = split_bytes(tmp_path, [text], valid_fraction=share / 41)
    joined = train + valid
    assert joined.count(SEPARATOR) == train.count(SEPARATOR) + valid.count(SEPARATOR)
    assert train.strip()
    assert valid.replace(SEPARATOR, b"").strip()


def test_a_cut_of_a_large_text_reads_little_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a line is too far away for it."""
    monkeypatch.setattr("lmlib.corpus.split.MAX_REACH_BYTES", 10)
    monkeypatch.setattr("lmlib.corpus.split.BOUNDARY_REACH_BYTES", 10)
    _, valid = split_bytes(tmp_path, [b"line\n" + b"abcdefg " * 100], valid_fraction=0.5)
    assert len(valid) in range(400, 410)
    assert valid.startswith(b"abcdefg ")


def test_one_document_that_hashes_to_valid_is_cut_too(tmp_path: Path) -> None:
    text = next(t for i in range(99) if belongs_to_valid(t := b"words of %d here" % i, 0.25))
    train, valid = split_bytes(tmp_path, [text])
    assert train + valid == text
    assert train == text[: -len(valid)]


@pytest.mark.parametrize("contents", [[b""], [b"", b" \n"], [b"<|endoftext|>\n<|endoftext|>"]])
def test_no_text(tmp_path: Path, contents: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"there is no text in .*0\.txt"):
        split_bytes(tmp_path, contents)
    with pytest.raises(ValueError, match=r"there is no text in .*0\.txt"):
        copy_bytes(tmp_path, contents)


@pytest.mark.parametrize("content", [b"a", b" \n a", "🙂".encode(), b"a" + SEPARATOR])
def test_too_little_text(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match="bytes of text are too few to split; add text, or name"):
        split_bytes(tmp_path, [content])


def test_memory_does_not_grow_with_a_document(tmp_path: Path) -> None:
    """One document of 24 MB, which is also moved to validation and back."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789 word\n" * 1_500_000)
    tracemalloc.start()
    try:
        split_files([path], 0.999999, tmp_path / "train", tmp_path / "valid")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6
