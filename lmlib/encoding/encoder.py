"""One text to shards, of which those that are there already are found again."""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from lmlib.encoding.params import EncodeParams
from lmlib.encoding.workshop import Made, note, noted
from lmlib.files import replacing, sha256_file
from lmlib.separator import SEPARATOR, ends_with_separator, separator_id
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.codec import npy_header
from lmlib.tokenizer.workers import OnProgress
from lmlib.tokens.ids import blocks, last_id, read_tokens
from lmlib.tokens.index import (
    FORMAT,
    INDEX,
    Ending,
    Shard,
    SourceText,
    TokenIndex,
    read_index,
    shard_name,
)

logger = logging.getLogger(__name__)

# Bytes of text for each id that a shard may have. English has more than 4 bytes a token with large
# vocabularies and 3.9 with 4,096; a piece that has more ids than a shard may is written twice.
BYTES_PER_TOKEN = 3


class Text(Protocol):
    """A text to encode, with documents between separators.

    name:       for people
    num_bytes:  its size, where that is known before it is opened
    digest:     of its bytes, where that is known before it is opened: a text whose digest is that
                of the last time is then not opened
    """

    @property
    def name(self) -> str:
        """Return the name."""
        ...

    @property
    def num_bytes(self) -> int | None:
        """Return the size, or None."""
        ...

    @property
    def digest(self) -> str | None:
        """Return the digest, or None."""
        ...

    def open(self) -> AbstractContextManager[Path]:
        """Return a context in which the text is a plain file."""
        ...


@dataclass(frozen=True)
class Job:
    """What all texts of a folder need.

    folder       of the shards of the last time
    workshop     the folder where new ones wait, unless they go to a store
    store        its address, or ""
    num_workers  threads or processes for one text; None: one for each core
    """

    tokenizer: Tokenizer
    tokenizer_sha256: str
    params: EncodeParams
    folder: Path
    workshop: Path
    store: str = ""
    num_workers: int | None = None

    @property
    def piece_bytes(self) -> int:
        """Return how long a piece of text may be, in bytes."""
        return BYTES_PER_TOKEN * self.params.shard_tokens

    def old_index(self) -> TokenIndex | None:
        """Return the index of the last time; None if there is none, or none that can be read."""
        if not (self.folder / INDEX).exists():
            return None
        try:
            return read_index(self.folder)
        except (OSError, ValueError) as error:
            logger.warning("%s; all texts are encoded again", error)
            return None


@dataclass(frozen=True)
class Encoded:
    """The records of all texts, their shards, and the last id that is not white space, or None."""

    texts: list[SourceText]
    made: list[Made]
    last: int | None


class Encoder:
    """Encodes texts to shards in the folder `place`, and finds those that are there already."""

    def __init__(
        self, job: Job, on_progress: OnProgress | None = None, place: Path | None = None
    ) -> None:
        self.job = job
        self.tokenizer = job.tokenizer
        self.place = place or job.workshop
        self.on_progress = on_progress
        self.separator_id = separator_id(job.tokenizer.special_ids)
        self.done = 0  # bytes
        self.count = 0  # of shards
        self.old = job.old_index()
        # by the digest of the piece; a piece may have several parts, and occur several times
        self.known: dict[str, list[Made]] = {}
        listed = [
            Made(each, job.folder / each.file) for each in (self.old.shards if self.old else ())
        ]
        for made in (*noted(job.workshop), *listed):
            self.known.setdefault(made.shard.source[:64], []).append(made)

    def encode(self, text: Text, is_last: bool, total: int) -> tuple[SourceText, list[Made]]:
        """Return the record of a text and its shards, which are kept, found or made."""
        encoded = self._unopened(text, is_last)
        if encoded is None:
            with text.open() as path:
                encoded = self._opened(text, path, is_last, total)
        self._report(encoded[0].bytes, total)
        self.done += encoded[0].bytes
        return encoded

    def encode_piece(self, path: Path, start: int, end: int, suffix: str, total: int) -> list[Made]:
        """Return the shards of a piece of text, which are kept, found or made."""
        source = self._digest(path, start, end, suffix)
        made = self.claim_piece(source)
        if made is None:
            self._report(start, total)
            made = self.make(path, start, end, suffix, source, total)
        self.count += len(made)
        return made

    def claim_piece(self, piece: str) -> list[Made] | None:
        """Return the shards of a piece, if all of them are there and undamaged."""
        for known in self.known.get(piece, []):
            _, _, number_of_parts = known.shard.source.partition("/")
            sources = _sources(piece, int(number_of_parts or 1))
            made = [found for source in sources if (found := self.claim(source))]
            return made if len(made) == len(sources) else None
        return None

    def claim(self, source: str) -> Made | None:
        """Return an undamaged shard made from `source`, at most once, or None."""
        candidates = self.known.get(source[:64], [])
        for made in [each for each in candidates if each.shard.source == source]:
            candidates.remove(made)
            if made.path.is_file() and sha256_file(made.path) == made.shard.sha256:
                return made
        return None

    def make(
        self, path: Path, start: int, end: int, suffix: str, source: str, total: int
    ) -> list[Made]:
        """Encode a piece of text, as one shard or several of about the same size."""

        def on_progress(_kind: str, done: int, _of: int) -> None:
            self._report(start + done, total)

        tokenizer, whole = self.tokenizer, self.place / f"{source[:16]}.npy"
        count = tokenizer.encode_file(
            path,
            whole,
            num_workers=self.job.num_workers,
            on_progress=on_progress,
            start=start,
            end=end,
        )
        ids = read_tokens(whole)
        ending = np.array(tokenizer.encode(suffix), dtype=ids.dtype)
        length = count + len(ending)
        number_of_parts = -(-length // self.job.params.shard_tokens)
        made = []
        for number, part in enumerate(_sources(source, number_of_parts)):
            target = self.place / f"{source[:16]}-{self.count + number:05d}.npy"
            if number_of_parts == 1 and not suffix:
                whole.replace(target)
            else:
                first, last = (length * n // number_of_parts for n in (number, number + 1))
                _write(
                    target, ids[first:last], ending[max(0, first - count) : max(0, last - count)]
                )
            made.append(self._finish(target, part))
        whole.unlink(missing_ok=True)
        return made

    def _report(self, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress("encode", self.done + done, max(total, self.done + done))

    def _unopened(self, text: Text, is_last: bool) -> tuple[SourceText, list[Made]] | None:
        """Return a text's record and shards of the last time, if its digest says that it is equal.

        None if it has no digest, another one, or shards that are missing or damaged.
        """
        old, job = self.old, self.job
        if (
            text.digest is None
            or old is None
            or (old.info.tokenizer_sha256, old.shard_tokens)
            != (job.tokenizer_sha256, job.params.shard_tokens)
        ):
            return None
        first = 0
        for record in old.texts:
            sources = [shard.source for shard in old.shards[first : first + record.shards]]
            first += record.shards
            same_end = record.separator in ("own", "none" if is_last else "added")
            if record.digest != text.digest or not same_end:
                continue
            made = [found for source in sources if (found := self.claim(source))]
            if len(made) == len(sources):
                self.count += len(made)
                return replace(record, name=text.name), made
            for each in made:  # the pieces whose shards are whole need no encoding
                self.known[each.shard.source[:64]].append(each)
        return None

    def _opened(
        self, text: Text, path: Path, is_last: bool, total: int
    ) -> tuple[SourceText, list[Made]]:
        size = path.stat().st_size
        ending = ending_of(path, is_last)
        made: list[Made] = []
        for start, end in self.tokenizer.file_pieces(path, self.job.piece_bytes):
            suffix = SEPARATOR if ending == "added" and end == size else ""
            made += self.encode_piece(path, start, end, suffix, total)
        return SourceText(text.name, size, text.digest, ending, len(made)), made

    def _digest(self, path: Path, start: int, end: int, suffix: str) -> str:
        """Return the digest of all that the ids of a piece of text depend on."""
        settings = (FORMAT, self.job.tokenizer_sha256, self.job.params.shard_tokens, suffix)
        digest = hashlib.sha256(json.dumps(settings).encode())
        with path.open("rb") as file:
            file.seek(start)
            while start < end and (data := file.read(min(1 << 20, end - start))):
                digest.update(data)
                start += len(data)
        return digest.hexdigest()

    def _finish(self, path: Path, source: str) -> Made:
        """Return a new shard, and note it in the journal."""
        ids = read_tokens(path)
        documents = largest = 0
        for block in blocks(ids):
            documents += int(np.count_nonzero(block == self.separator_id))
            largest = max(largest, int(block.max()))
        shard = Shard(shard_name(0), len(ids), documents, largest, sha256_file(path), source)
        made = Made(shard, path)
        note(made)
        return made


def ending_of(path: Path, is_last: bool) -> Ending:
    """Return how a text ends: with a separator of its own, with one to add, or with none."""
    if ends_with_separator(path):
        return "own"
    return "none" if is_last or not path.stat().st_size else "added"


def last_inked(tokenizer: Tokenizer, paths: Sequence[Path]) -> int | None:
    """Return the last id in shards that is not white space; None if there is none."""
    blank_ids = {i for i, token in tokenizer.vocab.items() if not token.strip()}
    return last_id((read_tokens(path) for path in reversed(paths)), blank_ids)


def _sources(piece: str, number_of_parts: int) -> list[str]:
    """Return the sources of the shards of a piece: its digest, and which part of it they have."""
    if number_of_parts == 1:
        return [piece]
    return [f"{piece} {number}/{number_of_parts}" for number in range(1, number_of_parts + 1)]


def _write(path: Path, *arrays: np.ndarray) -> None:
    """Write ids as `Tokenizer.encode_file` does."""
    with replacing(path, durable=False) as (part,), part.open("wb") as output:
        output.write(npy_header(arrays[0].dtype.type, sum(map(len, arrays))))
        for array in arrays:
            output.write(array.data)
