"""Turn corpus files into the two texts: copy them, or split them by a hash of each document."""

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from lmlib.corpus.documents import SEPARATOR, read_pieces
from lmlib.monitoring.progress import OnBytes

CHUNK_BYTES = 1 << 20
MAX_REACH_BYTES = 1 << 26  # how far back a cut looks for the end of a document or a line
BOUNDARY_REACH_BYTES = 1 << 16  # how far back a cut looks for a space
WHITESPACE = b" \t\n\r\v\f"

logger = logging.getLogger(__name__)


def copy_files(paths: Iterable[Path], text_field: str, output: Path, on_bytes: OnBytes) -> None:
    """Write the documents of `paths` to `output`; a single text file is copied byte for byte.

    Raises ValueError if they contain only white space.
    """
    paths = list(paths)
    blank, separated = True, False
    with output.open("w+b") as file:
        for path in paths:
            _separate(file)
            for text, ended in read_pieces(path, text_field):
                file.write(text + SEPARATOR if ended else text)
                blank, separated = blank and not text.strip(), separated or ended
                on_bytes(len(text))
    _check_found(not blank, separated, paths)


def split_files(
    paths: Iterable[Path],
    text_field: str,
    valid_fraction: float,
    train_path: Path,
    valid_path: Path,
    on_bytes: OnBytes,
) -> None:
    """Write about `valid_fraction` of the documents of `paths` to `valid_path`, the rest to train.

    A document belongs to validation if the first 8 bytes of the sha256 of its text without white
    space, read as a fraction of 2**64, are below `valid_fraction`: neither the order of the files
    nor their number matters, and equal documents stay together. If that leaves one side empty (few
    documents, or one text without separators), the validation share is cut from the end. Raises
    ValueError if there is too little text for two sides.
    """
    paths = list(paths)
    with train_path.open("w+b") as train, valid_path.open("w+b") as valid:
        splitter = _Splitter(train, valid, valid_fraction)
        separated = False
        for path in paths:
            _separate(train)
            splitter.start_document()
            for text, ended in read_pieces(path, text_field):
                splitter.write(text)
                if ended:
                    splitter.end_document(SEPARATOR)
                    separated = True
                on_bytes(len(text))
            splitter.end_document(b"")
        _check_found(splitter.num_documents > 0, separated, paths)
        if splitter.num_valid in (0, splitter.num_documents):
            _move(valid, 0, train)
            _cut_from_end(train, valid, valid_fraction, splitter.num_documents)


class _Splitter:
    """Writes documents of any length to train, then moves those for validation to valid."""

    def __init__(self, train: BinaryIO, valid: BinaryIO, valid_fraction: float) -> None:
        self.train = train
        self.valid = valid
        self.valid_fraction = valid_fraction
        self.num_documents = 0
        self.num_valid = 0
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
            self.num_documents += 1
            if int.from_bytes(self.digest.digest()[:8], "big") < self.valid_fraction * 2**64:
                self.num_valid += 1
                _separate(self.valid)
                _move(self.train, self.start, self.valid)
        self.start_document()


def _check_found(found: bool, separated: bool, paths: list[Path]) -> None:
    names = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
    if not found:
        raise ValueError(f"corpus: there is no text in {names}; name files that contain some")
    if not separated:
        logger.info(
            "corpus: no %s in %s: each file counts as one document", SEPARATOR.decode(), names
        )


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
