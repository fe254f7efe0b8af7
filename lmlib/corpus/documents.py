"""Read a corpus as documents: .txt, .jsonl (either also .gz) and .parquet, one piece at a time.

A piece is a pair (text, ended): some bytes of a document, and whether a separator follows them.
A document may come in many pieces, so even a file of a single document is never held in memory.
"""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

from lmlib import separator

SEPARATOR = separator.SEPARATOR.encode()
SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")

Piece = tuple[bytes, bool]


def find_files(patterns: Iterable[str], root: Path) -> list[Path]:
    """Return the files that match `patterns` (paths or globs, relative to `root`), each once.

    Files are in the order of the patterns, and within a glob in that of their names. Raises
    FileNotFoundError for a pattern that matches no file, ValueError for a folder, PermissionError
    for a file that is not readable.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = root / Path(pattern).expanduser()
        if path.is_dir():
            raise ValueError(f"corpus: {path} is a folder; name its files, as in {pattern}/*.txt")
        # an existing name with brackets is a file, not a glob; Path.glob takes no absolute patterns
        names = [path] if path.exists() else map(Path, sorted(glob(str(path), recursive=True)))  # noqa: PTH207
        files = [name for name in names if not name.is_dir()]
        if not files:
            raise FileNotFoundError(
                f"corpus: no file matches {pattern} (looked for {path}); "
                "correct corpus.train or corpus.valid in params.yaml"
            )
        for file in files:
            if not os.access(file, os.R_OK):
                raise PermissionError(f"corpus: {file} is not readable; change its permissions")
        found.update(dict.fromkeys(files))
    return list(found)


def file_format(name: str) -> str:
    """Return the one of SUFFIXES that `name` ends with; raise ValueError if there is none."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return suffix
    raise ValueError(
        f"corpus: {name} has an unknown format; corpus files end with one of {', '.join(SUFFIXES)}"
    )


def read_pieces(path: Path, text_field: str, chunk_bytes: int = 1 << 20) -> Iterator[Piece]:
    """Yield the pieces of the file `path`, whose name gives its format.

    Raises ValueError, naming file and line, if the content does not have that format; OSError if
    it cannot be read.
    """
    suffix = file_format(path.name)
    if suffix == ".parquet":
        return _read_parquet(path, text_field)
    if suffix.startswith(".jsonl"):
        return _read_jsonl(path, text_field)
    return _read_text(path, chunk_bytes)


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


def _read_text(path: Path, chunk_bytes: int) -> Iterator[Piece]:
    with _open(path) as file:
        yield from split_at_separators(iter(lambda: file.read(chunk_bytes), b""))


def _read_jsonl(path: Path, text_field: str) -> Iterator[Piece]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"corpus: {path}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{where} is not JSON ({error}); a .jsonl file has one object per line"
                ) from error
            if not isinstance(record, dict) or text_field not in record:
                has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise ValueError(
                    f"{where} has no field {text_field!r} (it has: {has}); set corpus.text_field"
                )
            yield _as_piece(record[text_field], f"{where}, field {text_field!r}")


def _read_parquet(path: Path, text_field: str) -> Iterator[Piece]:
    import pyarrow as pa
    from pyarrow import parquet

    row = 0
    try:
        # a buffered stream without pre-reading holds pages, not whole row groups
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            if text_field not in columns:
                raise ValueError(
                    f"corpus: {path} has no column {text_field!r} (it has: "
                    f"{', '.join(columns)}); set corpus.text_field"
                )
            for batch in file.iter_batches(batch_size=256, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield _as_piece(text, f"corpus: {path}, row {row}, column {text_field!r}")
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"corpus: {path} is not a complete parquet file ({error}); download or write it again"
        ) from error


def _as_piece(text: object, where: str) -> Piece:
    if not isinstance(text, str):
        raise ValueError(f"{where} is of type {type(text).__name__}, not str; correct that record")
    # JSON can encode half of a surrogate pair, which UTF-8 cannot: it becomes "?"
    return text.encode("utf-8", "replace"), True


@contextmanager
def _open(path: Path) -> Iterator[gzip.GzipFile | io.BufferedReader]:
    """Open `path` for reading, decompressed if its name ends with .gz."""
    compressed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if compressed else path.open("rb") as file:
        try:
            yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"corpus: {path} is not a complete gzip file ({error}); download or compress it "
                "again"
            ) from error
