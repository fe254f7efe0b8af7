"""What is no text is refused by name, whatever its file is called."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmlib.corpus.documents import read_pieces

TEXT = "Once upon a time there was a little dog.\n" * 10
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
PAGE = b"<!-- made by hand -->\n<!DOCTYPE html>\n<html><body>Not found</body></html>\n"


def packed(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def write_zip(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", TEXT)


def write_tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO(TEXT.encode()))


CONTENTS = {
    "UTF-16; convert it: `iconv": TEXT.encode("utf-16"),
    "UTF-16, not": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-32, not": TEXT.encode("utf-32"),
    "UTF-32; convert it": b"\0\0\xfe\xff" + TEXT.encode("utf-32-be"),
    "binary or UTF-16": TEXT.encode("utf-16-le"),
    "gzip data": gzip.compress(TEXT.encode()),
    "a zip archive": packed(write_zip),
    "binary": packed(write_tar),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "Zstandard": pa.compress(TEXT.encode(), codec="zstd", asbytes=True),
    "lz4": pa.compress(TEXT.encode(), codec="lz4", asbytes=True),
    "a parquet file": packed(lambda file: parquet.write_table(pa.table({"text": [TEXT]}), file)),
    "a git-lfs pointer": POINTER,
    "a git-annex pointer": b"/annex/objects/SHA256E-s3--0.txt\n",
    r"a web page \(HTML\)": PAGE,
    r"a web page \(HTML\), not": b"\xef\xbb\xbf \n<HTML lang=en><head>",
    "PDF": b"%PDF-1.7\n...",
}


def refused(path: Path, kind: str) -> None:
    kind = kind.removesuffix(", not").partition(";")[0]
    with pytest.raises(ValueError, match=rf"corpus: .*{path.name} is {kind}.*, not .*; \w.*out$"):
        list(read_pieces(path, "text"))


@pytest.mark.parametrize("kind", CONTENTS)
def test_under_the_name_of_a_text(tmp_path: Path, kind: str) -> None:
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(CONTENTS[kind])
        refused(tmp_path / name, kind)


@pytest.mark.parametrize("kind", CONTENTS)
def test_compressed_with_the_name_of_a_text(tmp_path: Path, kind: str) -> None:
    for name in ("a.txt.gz", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(CONTENTS[kind]))
        refused(tmp_path / name, kind)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.parquet"])
def test_what_is_not_compressed(tmp_path: Path, name: str) -> None:
    for kind, content in {
        "plain text": TEXT.encode(),
        "a git-lfs pointer": POINTER,
        r"a web page \(HTML\)": PAGE,
        "a zip archive": CONTENTS["a zip archive"],
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, kind)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfwith a mark of its encoding",
        b"caf\xe9 in Latin-1",
        b"\xfe invalid",
        b"<p>A paragraph about <html> tags",
        b"<!-- a comment --> and a text",
        b"<3",
        b"BZh is no word",
        b"Rar! a text",
        b"version https://example.org",
        b"\x1b[1mbold\x1b[0m \x0c\r",
        b"<!---->" * 9000,  # 2**9000 ways to read it as comments
        b"",
    ],
)
def test_text_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert b"".join(text for text, _ in read_pieces(tmp_path / "a.txt", "text")) == content
