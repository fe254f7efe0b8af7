"""Reading the formats of a corpus."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from lmlib.corpus.documents import file_format, find_files, read_pieces, split_at_separators


def documents(path: Path, text_field: str = "text", chunk_bytes: int = 7) -> list[bytes]:
    """The documents of a file, pieces joined; the text after the last separator is the last."""
    result = [b""]
    for text, ended in read_pieces(path, text_field, chunk_bytes):
        result[-1] += text
        if ended:
            result.append(b"")
    return result


@given(
    st.lists(st.sampled_from([b"<|endoftext|>", b"<|endof", b"text|>", b"<", b"a", b"\r\n"])),
    st.integers(min_value=1, max_value=20),
)
def test_pieces_do_not_depend_on_the_chunks(parts: list[bytes], chunk_bytes: int) -> None:
    """This includes a separator cut in two, and half a separator that is plain text."""
    text = b"".join(parts)
    chunks = [text[i : i + chunk_bytes] for i in range(0, len(text), chunk_bytes)]
    found = [b""]
    for piece, ended in split_at_separators(chunks):
        found[-1] += piece
        if ended:
            found.append(b"")
    assert found == text.split(b"<|endoftext|>")


def test_a_text_without_separator_is_read_in_small_pieces() -> None:
    chunks = (b"x" * 1000 for _ in range(1000))
    assert max(len(text) for text, _ in split_at_separators(chunks)) <= 1000 + 12


def test_text_keeps_carriage_returns_and_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n<|endoftext|>\xff\xfe two\r")
    assert documents(path) == [b"one\r\n", b"\xff\xfe two\r"]


def test_compressed_text(tmp_path: Path) -> None:
    path = tmp_path / "a.TXT.gz"
    path.write_bytes(gzip.compress(b"one<|endoftext|>two") + gzip.compress(b" more"))
    assert documents(path) == [b"one", b"two more"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    lines = '{"story": "Zoë\\r\\n"}\r\n\n{"n": 1, "story": "\\ud800 half"}'.encode()
    path.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
    assert documents(path, "story") == ["Zoë\r\n".encode(), b"? half", b""]


def test_parquet_in_several_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"Text {i} ü" for i in range(600)]
    parquet.write_table(pa.table({"n": range(600), "text": texts}), path, row_group_size=250)
    assert documents(path) == [text.encode() for text in texts] + [b""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "b"', r"a\.jsonl, line 2 is not JSON .*one object per line"),
        ("[1]", r"line 2 has no field 'text' \(it has: list\)"),
        ('{"body": "b"}', r"line 2 has no field 'text' \(it has: body\); set corpus.text_field"),
        ('{"text": null}', "line 2, field 'text' is of type NoneType, not str"),
    ],
)
def test_bad_jsonl_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        documents(path)


def test_invalid_utf8_in_jsonl_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        documents(path)


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"a\.parquet is not a complete parquet file"):
        documents(path)
    parquet.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"no column 'story' \(it has: text, n\)"):
        documents(path, "story")
    with pytest.raises(ValueError, match="row 2, column 'text' is of type NoneType"):
        documents(path)
    with pytest.raises(ValueError, match="row 1, column 'n' is of type int"):
        documents(path, "n")


@pytest.mark.parametrize("damage", ["cut", "foreign", "flipped"])
def test_bad_gzip(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.txt.gz"
    whole = gzip.compress(os.urandom(1000))
    path.write_bytes(
        {
            "cut": whole[:-20],
            "foreign": b"plain text",
            "flipped": whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"a\.txt\.gz is not a complete gzip file .*compress it"):
        documents(path)


def test_unknown_kind() -> None:
    assert file_format("x.JSONL.GZ") == ".jsonl.gz"
    with pytest.raises(
        ValueError, match=r"notes\.doc has an unknown format.*\.txt, \.txt\.gz, \.jsonl"
    ):
        file_format("notes.doc")


def test_find_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt", "[x].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    names = [
        path.relative_to(tmp_path).as_posix() for path in find_files(["b.txt", "?.txt"], tmp_path)
    ]
    assert names == ["b.txt", "a.txt"]  # each once, those of a glob in the order of their names
    assert len(find_files(["**/*.txt"], tmp_path)) == 4
    assert find_files([str(tmp_path / "[x].txt")], Path("/")) == [tmp_path / "[x].txt"]
    with pytest.raises(FileNotFoundError, match=r"no file matches z\*\.txt .*correct corpus.train"):
        find_files(["z*.txt"], tmp_path)
    with pytest.raises(ValueError, match=r"deep is a folder; name its files, as in deep/\*\.txt"):
        find_files(["deep"], tmp_path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test may run as root, who may read everything, so os.access is replaced."""
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"a\.txt is not readable; change its permissions"):
        find_files(["a.txt"], tmp_path)
