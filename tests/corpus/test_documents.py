"""Reading the formats of a corpus."""

import gzip
import json
import os
import random
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from lmlib.corpus import documents as reader
from lmlib.corpus.documents import file_format, read_pieces, split_at_separators


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
        ('{"text": b}', r"line 2 is not JSON \(Expecting value: column 10 \(char 9\)\)"),
        ("[1]", r"line 2 has no field 'text' \(it has: list\)"),
        ('{"body": "b"}', r"line 2 has no field 'text' \(it has: body\); set corpus.text_field"),
        ('{"text": null}', "line 2, field 'text' is of type NoneType, not str"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"text": ' + "1" * 5000 + "}", "line 2 is not JSON"),
        ('{"text": "b"}\u2028{"text": "c"}', "line 2 is not JSON"),
    ],
)
def test_bad_jsonl_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n", encoding="utf-8")
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
    with pytest.raises(ValueError, match=r"a\.parquet, row 1 cannot be read .* damaged; down"):
        documents(path)
    parquet.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"no column 'story' \(it has: text, n\)"):
        documents(path, "story")
    with pytest.raises(ValueError, match="row 2, column 'text' is of type NoneType"):
        documents(path)
    with pytest.raises(ValueError, match="row 1, column 'n' is of type int"):
        documents(path, "n")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_bad_gzip(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.txt.gz"
    whole = gzip.compress(b" ".join(b"%d" % i for i in range(1000)))
    path.write_bytes(
        {"cut": whole[:-20], "flipped": whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]}[damage]
    )
    with pytest.raises(ValueError, match=r"a\.txt\.gz is not a complete gzip file .*compress it"):
        documents(path)


def test_unknown_kind() -> None:
    assert file_format("x.JSONL.GZ") == ".jsonl.gz"
    with pytest.raises(
        ValueError, match=r"notes\.doc has an unknown format.*\.txt, \.txt\.gz, \.jsonl"
    ):
        file_format("notes.doc")


LINES = [json.dumps({"text": f"Story {i} {random.Random(i).random()}"}) for i in range(2000)]


def test_lines_end_where_text_files_end_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = ["one\u2028\u2029two", "\x85three", "four"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_bytes("\r\n".join([*lines, " \r "]).encode())
    assert documents(path) == [text.encode() for text in texts] + [b""]


@pytest.mark.parametrize("damage", ["cut", "flipped", "appended"])
def test_damaged_gzip_names_the_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress("\n".join(LINES).encode())
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "appended": whole + b"more",
        }[damage]
    )
    with pytest.raises(ValueError, match=r"corpus: .*a\.jsonl\.gz\W.*line [1-9]\d{2,3}\b"):
        documents(path)


def test_damaged_parquet_names_the_row(tmp_path: Path) -> None:
    """A page, the text of one cell, a checksum, and the end of the file."""
    path = tmp_path / "a.parquet"
    texts = [f"Text {i} {random.Random(i).random()}" for i in range(600)]
    table = pa.table({"text": texts})
    options = {"use_dictionary": False, "row_group_size": 200, "write_page_checksum": True}
    for compression, change in (("gzip", b"\0"), ("none", b"X")):
        parquet.write_table(table, path, compression=compression, **options)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] = change[0]
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"corpus: .*a\.parquet, row [1-5]\d\d cannot be read"):
            documents(path)
    parquet.write_table(table, path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Text 300", b"Text \xff00"))
    with pytest.raises(ValueError, match=r"a\.parquet, row 301 cannot be read .*utf-8"):
        documents(path)
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet, row 1 cannot be read .*write it again"):
        documents(path)


def test_a_column_whose_name_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": [{"b": "nested"}], "a.b": ["flat"]}), path)
    assert documents(path, "a.b") == [b"flat", b""]


def test_damaged_parquet_does_not_end_the_process(tmp_path: Path) -> None:
    """Looking at a chunk of a column aborts where the sizes in it contradict each other."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [f"Text {i}" for i in range(30)]}), path)
    whole = path.read_bytes()
    for at in range(len(whole) - 700, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        with suppress(ValueError):  # and nothing else
            documents(path)


def test_errors_of_the_disk_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"text"))
    monkeypatch.setattr(gzip.GzipFile, "read", fail)
    with pytest.raises(OSError, match=r"a\.txt\.gz, byte 1 cannot be read \(Input/output error\)"):
        documents(path)


# --- limits ---


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_RECORD_BYTES", 1 << 20)


def peak_of_reading(path: Path, message: str) -> int:
    """Read a file, which fails; return the bytes that Python held at once."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            for _ in read_pieces(path, "text"):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_bomb(path: Path, start: bytes, size: int) -> None:
    """Write a .gz whose content is `start` and `size` times the letter x."""
    packer = zlib.compressobj(wbits=31)
    chunks = [packer.compress(start)]
    chunks += [packer.compress(b"x" * 1_000_000) for _ in range(size // 1_000_000)]
    path.write_bytes(b"".join([*chunks, packer.flush()]))


@pytest.mark.usefixtures("small_limits")
def test_a_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write_bomb(path, b'{"text": "a"}\n{"text": "', 100_000_000)
    assert path.stat().st_size < 200_000
    message = r"a\.jsonl\.gz, line 2 is longer than 1,048,576 bytes; divide it"
    assert peak_of_reading(path, message) < 20e6


@pytest.mark.usefixtures("small_limits")
def test_lines_without_end(tmp_path: Path) -> None:
    """Each is short, and blank."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 1000 + b"\n" + (b" " * 999 + b"\n") * 30_000))
    message = r"a\.jsonl\.gz, line \d+: the text is more than 100 times as large as the file"
    assert peak_of_reading(path, message) < 20e6


@pytest.mark.usefixtures("small_limits")
def test_a_text_that_grows_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    write_bomb(path, b"Once", 100_000_000)
    message = r"a\.txt\.gz, byte \d+: the text is more than 100 times as large as the file"
    assert peak_of_reading(path, message) < 20e6


@pytest.mark.usefixtures("small_limits")
def test_ordinary_text_may_repeat_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 1_000_000))
    assert documents(path, chunk_bytes=10_000) == [b"x" * 1_000_000]


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["x" * 30_000_000], "1 is longer than 1,048,576 bytes"),
        (["a", "b", os.urandom(600_000).hex(), "c"], "3 is longer than"),
        ([f"{i}" + "x" * 900_000 for i in range(30)], "more than 100 times as large as the file"),
        (["x" * 900_000] * 300, "more than 100 times as large as the file"),
    ],
    ids=["one cell", "among others", "repetitions", "dictionary"],
)
def test_cells_without_end(tmp_path: Path, texts: list[str], message: str) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": texts}), path, compression="zstd")
    assert peak_of_reading(path, rf"corpus: .*a\.parquet, row .*{message}") < 40e6
