"""Replace files atomically, read files with errors that name them, and hash files."""

import csv
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Yield a temporary path next to each of `paths`; at the end these files replace `paths`.

    If an exception or a crash comes before that, `paths` stay as they were: all new files are on
    disk before the first one is renamed. Creates missing folders. The temporary names are unique,
    so processes that write the same file do not interfere: the last one to finish wins.
    """
    parts = [path.with_name(f".{path.name}.{secrets.token_hex(4)}.part") for path in paths]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield parts
        for part in parts:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: bytes | memoryview) -> None:
    """Replace the file `path` with one of this content; see `replacing`."""
    with replacing(Path(path)) as (part,):
        part.write_bytes(content)


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON, atomically."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8"))


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a header and at least one row, all with the same columns, atomically.

    A float is written with all its digits.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def read_json(path: str | Path, *, missing: str = "no such file") -> dict[str, Any]:
    """Return the JSON object in the file `path`.

    Raises FileNotFoundError, with the text `missing`, if the file does not exist, and ValueError
    if it contains anything else. Both name the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {missing}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; it should hold keys and values")
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in the YAML 1.2 file `path`.

    Raises ValueError, naming the file, if it is not valid or contains anything else.
    """
    from ruamel.yaml import YAML, YAMLError  # here: most users of this module need no parser

    try:
        value = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; it should hold keys and values")
    return value


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
