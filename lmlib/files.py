"""Replace files atomically, read files with errors that name them, and hash files."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from lmlib.places import no_space

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)  # a folder in which a file is written


@contextmanager
def replacing(*paths: Path, size: int | None = None, durable: bool = True) -> Iterator[list[Path]]:
    """Yield a temporary path for each of `paths`; at the end these files replace `paths`.

    If an exception or a crash comes before that, `paths` stay as they were: all new files are on
    disk before the first one is renamed, and their new names at the end. Without `durable` this
    holds for crashes of the process, not of the machine. Creates missing folders. Each file is
    written in a new folder next to its path, so processes that write the same file do not
    interfere: the last one to finish wins. What a killed process left is removed.

    Raises OSError that names the path if it cannot be written; if there is no space, also with the
    `size` needed, in bytes.
    """
    parts: list[Path] = []
    try:
        with ExitStack() as folders:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                parts.append(folders.enter_context(_folder_for(path)) / path.name)
            yield parts
            if durable:
                for part in parts:
                    sync(part)
            for part, path in zip(parts, paths, strict=True):
                part.replace(path)
            if durable:
                for folder in {path.parent for path in paths}:
                    sync(folder)
    except OSError as error:
        _name(error, parts, paths, size)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path`, which is being written, in an error of the disk; by itself it names no file."""
    try:
        yield
    except OSError as error:
        _name(error, [], [path], None)
        raise


@contextmanager
def _folder_for(path: Path) -> Iterator[Path]:
    """Yield a new folder next to `path`, and remove those of processes that have ended."""
    for leftover in _parts_in(path.parent.absolute()).pop(path.name, ()):
        with suppress(OSError):  # not ours to remove
            if (lock := _lock(leftover)) is not None:
                try:
                    shutil.rmtree(leftover)
                finally:
                    os.close(lock)
    folder, lock = path, None
    while lock is None:  # a process that removes leftovers may be faster
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        folder.mkdir(mode=0o700)
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@cache
def _parts_in(folder: Path) -> dict[str, list[Path]]:
    """Return the folders that earlier processes have made here, by the name of their file.

    Found once: with thousands of shards in a folder, to look each time takes longer than to write.
    """
    parts: dict[str, list[Path]] = {}
    for entry in folder.iterdir():
        if found := PART.fullmatch(entry.name):
            parts.setdefault(found[1], []).append(entry)
    return parts


def _lock(folder: Path) -> int | None:
    """Return a descriptor that locks a folder until it is closed; None if another process does."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.is_dir():
                return descriptor
        os.close(descriptor)
    return None


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(error: OSError, parts: Sequence[Path], paths: Sequence[Path], size: int | None) -> None:
    """Give an error the name of the file that was being written, if it is about one of them."""
    names: dict[object, Path] = {
        str(each): path
        for part, path in zip(parts, paths, strict=False)
        for each in (part, part.parent)
    }
    if error.errno in NO_SPACE | {errno.EFBIG, errno.EIO}:  # these often name no file
        names[None] = paths[0]
    if error.filename in names:
        error.filename = str(names[error.filename])
        if error.errno == errno.ENOSPC:  # not EDQUOT: what the disk has free is not the quota
            error.strerror = no_space(paths[0], size)


def write_atomically(path: str | Path, content: bytes | memoryview) -> None:
    """Replace the file `path` with one of this content; see `replacing`."""
    with replacing(Path(path), size=len(content)) as (part,):
        part.write_bytes(content)


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON, atomically."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8"))


def write_csv(
    path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()
) -> None:
    """Write a header and rows, all with the same columns, atomically.

    A float is written with all its digits. Without rows, `columns` is needed for the header.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns or rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def read_text(path: str | Path, *, missing: str = "no such file") -> str:
    """Return the text in a UTF-8 file, with the line ends it has.

    Raises FileNotFoundError, with the text `missing`, if there is no such file, and ValueError if
    it is not a regular file, or not UTF-8. All errors name it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: {missing}")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file; remove it")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}); it is damaged, or another kind of file"
        ) from error


def read_json(path: str | Path, *, missing: str = "no such file") -> dict[str, Any]:
    """Return the JSON object in the file `path`.

    Raises FileNotFoundError, with the text `missing`, if the file does not exist, and ValueError
    if it contains anything else, or an object with a key twice. Both name the file.
    """
    text = read_text(path, missing=missing)
    try:
        value = json.loads(text, object_pairs_hook=_checked_object)
        if "\\u" in text:  # an escape may be half of a surrogate pair, which no UTF-8 can hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: not valid JSON here: nested too deeply") from None
    return _mapping(path, value)


def _checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict; raise ValueError for a repeated key."""
    values = dict(pairs)
    if len(values) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r:.80} occurs twice in one object")
    return values


def read_metrics(path: str | Path, *needed: str) -> dict[str, float]:
    """Return the numbers in a JSON file of metrics, in which those named `needed` must be.

    Raises FileNotFoundError and ValueError, naming the file, as `read_json` does.
    """
    values = read_json(path)
    for name in needed:
        if name not in values:
            raise ValueError(f"{path}: has no {name!r}; run `dvc repro`, which writes the file")
    for name, value in values.items():
        # NaN fails every comparison; `float` has no whole number beyond 1e308
        if type(value) not in (int, float) or not -1e300 < value < 1e300:
            raise ValueError(f"{path}: {name[:80]!r} is not a finite number; run `dvc repro` again")
    return values


def read_yaml(path: str | Path, *, missing: str = "no such file") -> dict[str, Any]:
    """Return the mapping in the YAML 1.2 file `path`.

    Raises FileNotFoundError, with the text `missing`, if the file does not exist, and ValueError
    if it is not valid or contains anything else. Both name the file.
    """
    return _mapping(path, parse_yaml(read_text(path, missing=missing), str(path)))


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML 1.2 text; raise ValueError, which begins with `where`."""
    from ruamel.yaml import YAML, YAMLError  # here: most users of this module need no parser

    try:
        return YAML(typ="safe").load(text)
    except RecursionError:
        raise ValueError(f"{where}: not valid YAML here: nested too deeply") from None
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        # the last four: of a value, such as the date 2001-99-99
        raise ValueError(f"{where}: not valid YAML: {error}") from error


def _mapping(path: str | Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; it should hold keys and values")
    return value


def open_regular(path: str | Path, *, follow: bool = True) -> io.BufferedReader:
    """Open a file to read it; raise OSError for anything but a regular file.

    A pipe could keep the reader waiting for ever, and a device could have no end. Without `follow`,
    a symbolic link is not a regular file either.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: not a regular file; remove it")
    return os.fdopen(descriptor, "rb")


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
