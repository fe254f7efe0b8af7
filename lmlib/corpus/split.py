"""Append corpus files to the texts: copy them, or divide them by a hash of each document."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lmlib.corpus.documents import SEPARATOR, file_format, read_pieces
from lmlib.monitoring.progress import OnBytes

CHUNK_BYTES = 1 << 20
MAX_REACH_BYTES = 1 << 26  # how far back a cut looks for the end of a document or a line
BOUNDARY_REACH_BYTES = 1 << 16  # how far back a cut looks for a space
WHITESPACE = b" \t\n\r\v\f"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How the documents of a file are read: from which field, and for which text.

    side            all; train or valid: those of one side alone; split: those of both
    valid_fraction  of the documents, if they are divided
    is_last         the last file of its text, or else it ends with a separator
    """

    side: Literal["all", "train", "valid", "split"] = "all"
    text_field: str = "text"
    valid_fraction: float = 0.0
    is_last: bool = True

    def identity(self, name: str) -> list[Any]:
        """Return all of it that can change the text of a file called `name`."""
        suffix = file_format(name)
        field = "" if suffix.startswith(".txt") else self.text_field
        fraction = 0.0 if self.side == "all" else self.valid_fraction
        return [suffix, self.side, field, fraction, self.is_last]


@dataclass
class Found:
    """What has been found in the files that were read so far."""

    has_text: bool = False
    is_separated: bool = False
    num_documents: int = 0  # that were divided, and how many of them are for validation
    num_valid: int = 0

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError if no file has text; log it if no separator was in the files."""
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        if not self.has_text:
            raise ValueError(f"corpus: there is no text in {shown}; name files that contain some")
        if not self.is_separated:
            logger.info(
                "corpus: no %s in %s: each file counts as one document", SEPARATOR.decode(), shown
            )


def copy_file(
    path: Path, reading: Reading, output: BinaryIO, found: Found, on_bytes: OnBytes
) -> None:
    """Append the documents of the file `path` to `output`.

    The bytes of a text file are kept, except that a file before others ends with a separator: it is
    added, or the white space after the last one is dropped.
    """
    end = position = output.seek(0, os.SEEK_END)  # end: after the last separator
    blank = True  # from there on
    for text, ended in read_pieces(path, reading.text_field):
        position += output.write(text + SEPARATOR if ended else text)
        blank = blank and not text.strip()
        found.has_text = found.has_text or not blank
        if ended:
            end, blank, found.is_separated = position, True, True
        on_bytes(len(text))
    if not reading.is_last and blank:
        output.seek(end)
        output.truncate()
    elif not reading.is_last:
        output.write(SEPARATOR)


def split_file(
    path: Path,
    reading: Reading,
    train: BinaryIO,
    valid: BinaryIO,
    found: Found,
    on_bytes: OnBytes,
) -> None:
    """Append about `valid_fraction` of the documents of `path` to `valid`, the rest to `train`.

    A document belongs to validation if the first 8 bytes of the sha256 of its text without white
    space, read as a fraction of 2**64, are below `valid_fraction`: neither the order of the files
    nor their number matters, and equal documents stay together. After a file before others, both
    outputs end with a separator, unless they are empty.
    """
    splitter = _Splitter(train, valid, reading.valid_fraction, found)
    for text, ended in read_pieces(path, reading.text_field):
        splitter.write(text)
        if ended:
            splitter.end_document(SEPARATOR)
            found.is_separated = True
        on_bytes(len(text))
    splitter.end_document(b"")
    if not reading.is_last:
        _separate(train)
        _separate(valid)


def require_two_sides(
    train: BinaryIO, valid: BinaryIO, valid_fraction: float, found: Found
) -> None:
    """If hashing left one side empty, cut the validation share from the end.

    That is so for few documents, or for one text without separators. Raises ValueError if there is
    too little text for two sides.
    """
    if found.num_valid in (0, found.num_documents):
        _move(valid, 0, train)
        _cut_from_end(train, valid, valid_fraction, found.num_documents)


class _Splitter:
    """Writes documents of any length to train, then moves those for validation to valid."""

    def __init__(
        self, train: BinaryIO, valid: BinaryIO, valid_fraction: float, found: Found
    ) -> None:
        self.train = train
        self.valid = valid
        self.valid_fraction = valid_fraction
        self.found = found
        self.train.seek(0, os.SEEK_END)
        self.start_document()

    def start_document(self) -> None:
        self.start = self.train.tell()
        self.digest = hashlib.sha256()
        self.blank = True

    def write(self, text: bytes) -> None:
        self.train.write(text)
        # without white space: CRLF or an extra newline does not make a different document
        inked = text.translate(None, WHITESPACE)
        self.digest.update(inked)
        self.blank = self.blank and not inked

    def end_document(self, separator: bytes) -> None:
        """Close the document with `separator`; drop it if it has no text."""
        if self.blank:
            self.train.seek(self.start)
            self.train.truncate()
        else:
            self.train.write(separator)
            self.found.has_text = True
            self.found.num_documents += 1
            if int.from_bytes(self.digest.digest()[:8], "big") < self.valid_fraction * 2**64:
                self.found.num_valid += 1
                _move(self.train, self.start, self.valid)
        self.start_document()


def _separate(file: BinaryIO) -> None:
    """End `file` with a separator, unless it has one there or is empty."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 64))
    if size and not file.read().rstrip().endswith(SEPARATOR):
        file.write(SEPARATOR)


def _move(source: BinaryIO, start: int, target: BinaryIO) -> None:
    """Move the bytes of `source` after offset `start` to the end of `target`."""
    source.seek(start)
    target.seek(0, os.SEEK_END)
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
    source.seek(start)
    source.truncate()


def _cut_from_end(
    train: BinaryIO, valid: BinaryIO, valid_fraction: float, num_documents: int
) -> None:
    """Move about the last `valid_fraction` of the bytes of `train` to `valid`, cut at a boundary.

    The boundary is the end of a document or a line if one is within one more share, or
    MAX_REACH_BYTES, else a space, else the start of a UTF-8 character.
    """
    size = train.seek(0, os.SEEK_END)
    end = _end_of_text(train, size)
    share = max(1, round(valid_fraction * end))
    target = end - share
    reach = min(share, MAX_REACH_BYTES)
    start = max(0, target - max(BOUNDARY_REACH_BYTES, reach))
    train.seek(start)
    block = train.read(target + len(SEPARATOR) - 1 - start)
    cut = start + _boundary(block, target - start, reach)
    train.seek(0)
    if not train.read(min(cut, CHUNK_BYTES)).strip():
        raise ValueError(
            f"corpus: {end} bytes of text are too few to split; add text, or name a validation "
            "file in corpus.valid"
        )
    _move(train, cut, valid)
    logger.info(
        "corpus: hashing cannot split %d document(s): the last %d bytes are the validation text",
        num_documents,
        size - cut,
    )


def _end_of_text(file: BinaryIO, size: int) -> int:
    """Return the offset of the end of the last document, without separators and white space."""
    start = max(0, size - CHUNK_BYTES)
    file.seek(start)
    tail = file.read().rstrip()
    while tail.endswith(SEPARATOR):
        tail = tail.removesuffix(SEPARATOR).rstrip()
    return start + len(tail)


def _boundary(block: bytes, target: int, reach: int) -> int:
    """Return the index of `block`, at most `reach` before `target`, where a text may be cut."""
    # the block extends past the target, so that no cut falls inside a separator
    found = block.rfind(SEPARATOR, max(0, target - max(reach, len(SEPARATOR))))
    if found >= 0:
        return found + len(SEPARATOR)
    for mark, near in ((b"\n", reach), (b" ", BOUNDARY_REACH_BYTES)):
        found = block.rfind(mark, max(0, target - near), target)
        if found >= 0:
            return found + 1
    for index in range(target, max(target - 4, -1), -1):
        if block[index] & 0xC0 != 0x80:  # not the second or a later byte of a character
            return index
    return target
