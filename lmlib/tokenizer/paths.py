"""Corpus files: on this machine, on a shared file system, or in an object store.

A corpus is a list of texts. A text is a file, or what gives one when it is opened.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import unquote

from lmlib.redaction import redact


@dataclass(frozen=True)
class StoredFile:
    """A file in an fsspec file system, with the methods of pathlib.Path that a corpus needs.

    fs     the file system; pickled with its options, passwords among them
    path   the file's name there
    """

    fs: Any
    path: str

    def __str__(self) -> str:
        return redact(self.fs.unstrip_protocol(self.path))

    def is_file(self) -> bool:
        """Return whether the file exists."""
        return self.fs.isfile(self.path)

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return self.fs.isdir(self.path)

    def stat(self) -> SimpleNamespace:
        """Return the size in bytes as `st_size`; raise ValueError if the store does not know it."""
        size = self.fs.size(self.path)
        if size is None:
            raise ValueError(
                f"{self}: the server does not report the file's size, so it cannot be cut into "
                "chunks; download it first"
            )
        return SimpleNamespace(st_size=size)


CorpusFile = Path | StoredFile
CorpusPath = str | os.PathLike[str] | StoredFile


class CorpusText(Protocol):
    """A text that is opened before it is read; `lmlib.corpus.texts.Text` is one.

    num_bytes    None: known once it is open
    is_in_place  its file outlives the `with` block of `open`
    """

    @property
    def num_bytes(self) -> int | None: ...  # noqa: D102
    @property
    def is_in_place(self) -> bool: ...  # noqa: D102
    def open(self) -> AbstractContextManager[CorpusFile]:
        """Give the file, of plain text."""
        ...


@dataclass(frozen=True)
class FileText:
    """A file as a `CorpusText`."""

    file: CorpusFile
    is_in_place: bool = True

    @property
    def num_bytes(self) -> int:
        """Return the size of the file; raise ValueError if its store does not know it."""
        return self.file.stat().st_size

    def open(self) -> AbstractContextManager[CorpusFile]:
        """Give the file."""
        return nullcontext(self.file)


def as_file(path: CorpusPath) -> CorpusFile:
    """Return the absolute path of a local file, or the file at an address such as s3://….

    The options of an address (keys, endpoint) come from the environment; to set them in Python pass
    `StoredFile(fsspec.filesystem("s3", key=…), "bucket/corpus.txt")`.
    """
    if isinstance(path, str) and path.startswith("file://"):  # written by Path.as_uri()
        return Path(unquote(path.removeprefix("file://")))
    if isinstance(path, str) and "://" in path:
        import fsspec  # here: importing it takes a tenth of a second

        return StoredFile(*fsspec.url_to_fs(path))
    if isinstance(path, StoredFile):
        return path
    return Path(path).absolute()  # a worker may run in another folder


def as_texts(
    corpus: CorpusPath | CorpusText | Iterable[CorpusPath | CorpusText],
) -> list[CorpusText]:
    """Return the texts of a corpus: paths, addresses or texts, one or several."""
    if isinstance(corpus, str | os.PathLike | StoredFile) or not isinstance(corpus, Iterable):
        corpus = [corpus]
    return [
        FileText(as_file(each)) if isinstance(each, str | os.PathLike | StoredFile) else each
        for each in corpus
    ]


def check_is_file(file: CorpusFile, purpose: str) -> None:
    """Raise FileNotFoundError if there is no such file, ValueError if it is not a regular one."""
    if file.is_file():
        return
    if file.is_dir():
        raise ValueError(f"{file}: is a folder; name a file in it {purpose}")
    if isinstance(file, Path) and file.exists():
        raise ValueError(f"{file}: is a pipe or a device; name a regular file {purpose}")
    raise FileNotFoundError(f"{file}: no such file {purpose}; check the path")


def read_range(file: CorpusFile, start: int, end: int) -> bytes:
    """Return the bytes from `start` to `end`; raise ValueError if the file is too short."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(end - start)
    else:
        data = file.fs.cat_file(file.path, start=start, end=end)  # one request, no more bytes
    _check_length(file, start, end, len(data))
    return data


def read_into(file: CorpusFile, start: int, memory: memoryview) -> None:
    """Fill the memory with the bytes from `start`; raise ValueError if there are too few."""
    end = start + len(memory)
    if isinstance(file, Path):
        with file.open("rb") as opened:
            opened.seek(start)
            _check_length(file, start, end, opened.readinto(memory))
    else:
        memory[:] = read_range(file, start, end)


def _check_length(file: CorpusFile, start: int, end: int, length: int) -> None:
    """Raise ValueError unless exactly the bytes from `start` to `end` were read."""
    if length < end - start:
        raise ValueError(
            f"{file}: has become shorter while being read: bytes {start} to {end} are wanted, but "
            f"it ends at {start + length}; run again when nothing writes to it"
        )
    if length > end - start:
        raise ValueError(
            f"{file}: the server sends the whole file when asked for a part of it; download it "
            "first"
        )
