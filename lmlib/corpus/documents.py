"""Read a corpus as documents: .txt, .jsonl (either also .gz) and .parquet, one piece at a time.

A piece is a pair (text, ended): some bytes of a document, and whether a separator follows them.
A document may come in many pieces, so even a file of a single document is never held in memory.

A line of .jsonl and a cell of .parquet have at most MAX_RECORD_BYTES, and the text of a file at
most MAX_GROWTH times its bytes (or MAX_RECORD_BYTES, if that is more): no file, however it is made,
fills memory or disk.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlib import separator
from lmlib.corpus.find import check_file
from lmlib.corpus.kinds import HEAD_BYTES, check_kind

SEPARATOR = separator.SEPARATOR.encode()
SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
MAX_RECORD_BYTES = 1 << 26
MAX_GROWTH = 100  # ordinary text is 3 to 10 times as large as its gzip

Piece = tuple[bytes, bool]


@dataclass
class _Place:
    """Where a reader is: the record of a file that it reads next."""

    path: Path
    unit: str  # line, row or byte
    field_setting: str = ""  # what names the field that has the text
    number: int = 1

    def __post_init__(self) -> None:
        self.max_bytes = max(MAX_RECORD_BYTES, MAX_GROWTH * self.path.stat().st_size)

    def __str__(self) -> str:
        return f"corpus: {self.path}, {self.unit} {self.number}"


def file_format(name: str) -> str:
    """Return the one of SUFFIXES that `name` ends with; raise ValueError if there is none."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return suffix
    raise ValueError(
        f"corpus: {name} has an unknown format; corpus files end with one of {', '.join(SUFFIXES)}"
    )


def check_head(path: Path, suffix: str | None = None) -> str:
    """Return the format of a file, after a look at its first bytes.

    Raises what `read_pieces` raises: it is a look at a file before hours of work.
    """
    suffix = suffix or file_format(path.name)
    check_file(path)
    expected = {"gz": "gzip", "parquet": "parquet"}.get(suffix.rpartition(".")[2], "text")
    with path.open("rb") as file:
        check_kind(file.read(HEAD_BYTES), expected, f"corpus: {path}")
    return suffix


def read_pieces(
    path: Path,
    text_field: str,
    chunk_bytes: int = 1 << 20,
    suffix: str | None = None,
    field_setting: str = "corpus.text_field",
) -> Iterator[Piece]:
    """Yield the pieces of the file `path`, whose name, or else `suffix`, gives its format.

    An error about the field of .jsonl and .parquet says that `field_setting` names it.
    Raises ValueError, naming the file and the line, row or byte, if the content does not have that
    format, is not text or is beyond the limits; OSError if it cannot be read.
    """
    suffix = check_head(path, suffix)
    if suffix == ".parquet":
        return _read_parquet(_Place(path, "row", field_setting), text_field)
    if suffix.startswith(".jsonl"):
        return _read_jsonl(_Place(path, "line", field_setting), suffix, text_field)
    return _read_text(_Place(path, "byte"), suffix, chunk_bytes)


def split_at_separators(chunks: Iterable[bytes]) -> Iterator[Piece]:
    """Yield the pieces of the text that is the concatenation of `chunks`."""
    held = len(SEPARATOR) - 1  # the longest incomplete separator at the end of a chunk
    rest = b""
    for chunk in chunks:
        *ended, rest = (rest + chunk).split(SEPARATOR)
        for text in ended:
            yield text, True
        if len(rest) > held:
            yield rest[:-held], False
            rest = rest[-held:]
    if rest:
        yield rest, False


def _read_text(place: _Place, suffix: str, chunk_bytes: int) -> Iterator[Piece]:
    with _open(place, suffix) as file:

        def chunks() -> Iterator[bytes]:
            while chunk := file.read(chunk_bytes):
                place.number += len(chunk)
                yield chunk

        yield from split_at_separators(_limited(chunks(), place))


def _read_jsonl(place: _Place, suffix: str, text_field: str) -> Iterator[Piece]:
    with _open(place, suffix) as file:
        lines = iter(lambda: file.readline(MAX_RECORD_BYTES + 1), b"")
        for line in _limited(lines, place):
            _check_length(len(line), place)
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    reason = str(error).replace("line 1 column", "column")
                    raise ValueError(
                        f"{place} is not JSON ({reason}); a .jsonl file has one object per line"
                    ) from error
                if not isinstance(record, dict) or text_field not in record:
                    has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                    raise ValueError(
                        f"{place} has no field {text_field!r} (it has: {has:.200}); set "
                        f"{place.field_setting}"
                    )
                yield _as_text(record[text_field], f"{place}, field {text_field!r}"), True
            place.number += 1


def _read_parquet(place: _Place, text_field: str) -> Iterator[Piece]:
    import pyarrow as pa

    try:
        texts = (
            _as_text(cell, f"{place}, column {text_field!r}") for cell in _cells(place, text_field)
        )
        for text in _limited(texts, place):
            _check_length(len(text), place)
            yield text, True
            place.number += 1
    # what pyarrow raises for damaged files depends on the damage
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        what = "memory ran out, or the file is" if isinstance(error, MemoryError) else "the file is"
        raise ValueError(
            f"{place} cannot be read ({' '.join(str(error).split())}): {what} incomplete or "
            "damaged; download or write it again"
        ) from error


def _cells(place: _Place, text_field: str) -> Iterator[object]:
    """Yield the values of a column."""
    from pyarrow import parquet

    # a buffered stream without pre-reading holds pages, not whole row groups
    options: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False}
    with parquet.ParquetFile(place.path, page_checksum_verification=True, **options) as file:
        columns = file.schema_arrow.names
        if text_field not in columns:
            raise ValueError(
                f"corpus: {place.path} has no column {text_field!r} (it has: "
                f"{', '.join(columns):.200}); set {place.field_setting}"
            )
        _check_row_groups(file.metadata, place)
        # few rows: each may be as large as the largest, which a dictionary stores only once
        for batch in file.iter_batches(batch_size=16, columns=[text_field]):
            column = batch.column(batch.schema.names.index(text_field))
            try:
                yield from column.to_pylist()
            except UnicodeDecodeError:  # in some row; those before it are read
                yield from (cell.as_py() for cell in column)


def _check_row_groups(metadata: Any, place: _Place) -> None:
    """Raise ValueError if reading a part of the file would take memory beyond the limits.

    For all columns together: in a damaged file, looking at one can end the process.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        _check_length(group.total_byte_size // max(1, group.num_rows), place)
        _check_growth(group.total_byte_size, place)


def _as_text(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{where} is of type {type(text).__name__}, not str; correct that record")
    # JSON can encode half of a surrogate pair, which UTF-8 cannot: it becomes "?"
    return text.encode("utf-8", "replace")


def _limited(parts: Iterable[bytes], place: _Place) -> Iterator[bytes]:
    """Yield the parts of a text; raise ValueError once it is too large for its file."""
    size = 0
    for part in parts:
        size += len(part)
        _check_growth(size, place)
        yield part


def _check_growth(size: int, place: _Place) -> None:
    if size > place.max_bytes:
        raise ValueError(
            f"{place}: the text is more than {MAX_GROWTH} times as large as the file, which no "
            "ordinary text is; unpack it yourself if it is what you want"
        )


def _check_length(size: int, place: _Place) -> None:
    if size > MAX_RECORD_BYTES:
        raise ValueError(
            f"{place} is longer than {MAX_RECORD_BYTES:,} bytes; divide it into documents, or "
            "write it to a .txt file, whose documents may have any length"
        )


@contextmanager
def _open(place: _Place, suffix: str) -> Iterator[gzip.GzipFile | io.BufferedReader]:
    """Open a file of text for reading, decompressed if `suffix` ends with .gz."""
    compressed = suffix.endswith(".gz")
    try:
        with gzip.open(place.path, "rb") if compressed else place.path.open("rb") as file:
            if compressed:
                check_kind(file.peek(HEAD_BYTES), "text", f"corpus: {place.path}")
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"corpus: {place.path} is not a complete gzip file ({place.unit} {place.number}: "
            f"{error}); download or compress it again"
        ) from error
    except OSError as error:
        raise OSError(f"{place} cannot be read ({error.strerror}); check its disk") from error
