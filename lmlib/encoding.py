"""Texts to shards of token ids, of which only those whose text has changed are made again."""

import errno
import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from lmlib.digests import SUMS
from lmlib.files import naming, replacing, sha256_file, sync
from lmlib.params import Count, check_bounds
from lmlib.separator import SEPARATOR, separator_id
from lmlib.shards import (
    FORMAT,
    INDEX,
    Shard,
    SourceText,
    TokenIndex,
    read_index,
    read_shard,
    shard_name,
    write_index,
)
from lmlib.states import lock_of
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.codec import npy_header
from lmlib.tokens import TokenInfo, blocks, last_id, read_tokens

logger = logging.getLogger(__name__)

# Bytes of text for each id that a shard may have. English has more than 4 bytes a token with large
# vocabularies and 3.9 with 4,096; a piece that has more ids than a shard may is written twice.
BYTES_PER_TOKEN = 3
ENDING_BYTES = 1 << 12  # of a text, in which its last separator should be
JOURNAL = "finished.jsonl"

Ending = Literal["own", "added", "none"]
OnProgress = Callable[[str, int, int], None]  # ("encode", bytes done, total bytes)


@dataclass(frozen=True)
class EncodeParams:
    """The section `encode` of params.yaml.

    shard_tokens:  the most ids that a file may have; it changes the files, and nothing else
    """

    shard_tokens: Count

    def __post_init__(self) -> None:
        check_bounds(self)


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
class TextFile:
    """A text in a plain file."""

    path: Path
    digest: str | None = None

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.path.name

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size

    def open(self) -> AbstractContextManager[Path]:
        """Return a context with its path."""
        return nullcontext(self.path)


def encode_texts(
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    texts: Sequence[Text],
    folder: Path,
    workshop: Path,
    params: EncodeParams,
    on_progress: OnProgress | None = None,
) -> TokenIndex:
    """Write the ids of texts, one after the other, as shards with an index; return the index.

    Each text is encoded on its own, and gets a separator at its end if another text follows and it
    does not end with one. White space may come after that: texts that end with the separator alone
    have the ids of the joined text. A shard has ids of one text: of a piece of it, whose ends are
    safe cuts, or of a part of such a piece, if that has too many ids. So the shards depend only on
    texts, tokenizer and `shard_tokens`. What is appended to a text changes its last shards, and
    another text changes only its own.

    Shards in `folder` whose text, tokenizer and `shard_tokens` are the same are kept, if their
    digests are still right. New ones are made in the folder `workshop`, where they stay if the work
    is interrupted, and are found the next time. At the end they replace the old ones: the folder
    then holds the shards, the index and its digest, and nothing else. If that is interrupted the
    folder is refused, and the next time puts it right.

    Raises OSError, which names the file, if one cannot be read or written.
    """
    with _locked(workshop):
        encoder = _Encoder(tokenizer, tokenizer_sha256, folder, workshop, params, on_progress)
        total = sum(text.num_bytes or 0 for text in texts)
        records, made = [], []
        for number, text in enumerate(texts):
            record, shards = encoder.encode(text, number == len(texts) - 1, total)
            records.append(record)
            made += shards
        index = encoder.index(records, made)
        _put_in_place(index, made, folder, workshop)
        shutil.rmtree(workshop)
    return index


@contextmanager
def _locked(workshop: Path) -> Iterator[None]:
    """Lock the folder in which shards are made; remove it if it is empty."""
    workshop.mkdir(parents=True, exist_ok=True)
    with lock_of(workshop):
        workshop.mkdir(exist_ok=True)  # another process may have finished with it
        try:
            yield
        finally:
            with suppress(OSError):  # it holds shards for the next time, or is gone
                workshop.rmdir()


@dataclass(frozen=True)
class _Made:
    """A shard, and where it is now."""

    shard: Shard
    path: Path


class _Encoder:
    """Encodes texts to shards, and finds those that are there already."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokenizer_sha256: str,
        folder: Path,
        workshop: Path,
        params: EncodeParams,
        on_progress: OnProgress | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.tokenizer_sha256 = tokenizer_sha256
        self.workshop = workshop
        self.shard_tokens = params.shard_tokens
        self.on_progress = on_progress
        self.num_workers: int | None = None  # threads or processes; None: one for each core
        self.separator_id = separator_id(tokenizer.special_ids)
        self.done = 0  # bytes
        self.count = 0  # of shards
        self._old = _old_index(folder)
        # by the digest of the piece; a piece may have several parts, and occur several times
        self._known: dict[str, list[_Made]] = {}
        for made in (*_finished(workshop), *_listed(folder, self._old)):
            self._known.setdefault(made.shard.source[:64], []).append(made)

    def encode(self, text: Text, is_last: bool, total: int) -> tuple[SourceText, list[_Made]]:
        """Return the record of a text and its shards, which are kept, found or made."""
        known = self._unopened(text, is_last)
        if known is None:
            with text.open() as path:
                known = self._opened(text, path, is_last, total)
        self._report(known[0].bytes, total)
        self.done += known[0].bytes
        return known

    def _report(self, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress("encode", self.done + done, max(total, self.done + done))

    def _unopened(self, text: Text, is_last: bool) -> tuple[SourceText, list[_Made]] | None:
        """Return a text's record and shards of the last time, if its digest says that it is equal.

        None if it has no digest, another one, or shards that are missing or damaged.
        """
        old = self._old
        if (
            text.digest is None
            or old is None
            or (old.info.tokenizer_sha256, old.shard_tokens)
            != (self.tokenizer_sha256, self.shard_tokens)
        ):
            return None
        first = 0
        for record in old.texts:
            sources = [shard.source for shard in old.shards[first : first + record.shards]]
            first += record.shards
            same_end = record.separator in ("own", "none" if is_last else "added")
            if record.digest != text.digest or not same_end:
                continue
            made = [found for source in sources if (found := self._claim(source))]
            if len(made) == len(sources):
                self.count += len(made)
                return replace(record, name=text.name), made
            for each in made:  # the pieces whose shards are whole need no encoding
                self._known[each.shard.source[:64]].append(each)
        return None

    def _opened(
        self, text: Text, path: Path, is_last: bool, total: int
    ) -> tuple[SourceText, list[_Made]]:
        size = path.stat().st_size
        ending = _ending(path, size, is_last)
        piece_bytes = BYTES_PER_TOKEN * self.shard_tokens
        made: list[_Made] = []
        for start, end in self.tokenizer.file_pieces(path, piece_bytes):
            suffix = SEPARATOR if ending == "added" and end == size else ""
            made += self.encode_piece(path, start, end, suffix, total)
        return SourceText(text.name, size, text.digest, ending, len(made)), made

    def encode_piece(
        self, path: Path, start: int, end: int, suffix: str, total: int
    ) -> list[_Made]:
        """Return the shards of a piece of text, which are kept, found or made."""
        source = self._digest(path, start, end, suffix)
        made = self._claim_piece(source)
        if made is None:
            self._report(start, total)
            made = self._make(path, start, end, suffix, source, total)
        self.count += len(made)
        return made

    def _digest(self, path: Path, start: int, end: int, suffix: str) -> str:
        """Return the digest of all that the ids of a piece of text depend on."""
        settings = (FORMAT, self.tokenizer_sha256, self.shard_tokens, suffix)
        digest = hashlib.sha256(json.dumps(settings).encode())
        with path.open("rb") as file:
            file.seek(start)
            while start < end and (data := file.read(min(1 << 20, end - start))):
                digest.update(data)
                start += len(data)
        return digest.hexdigest()

    def _claim_piece(self, piece: str) -> list[_Made] | None:
        """Return the shards of a piece, if all of them are there and undamaged."""
        for known in self._known.get(piece, []):
            _, _, number_of_parts = known.shard.source.partition("/")
            sources = _sources(piece, int(number_of_parts or 1))
            made = [found for source in sources if (found := self._claim(source))]
            return made if len(made) == len(sources) else None
        return None

    def _claim(self, source: str) -> _Made | None:
        """Return an undamaged shard made from `source`, at most once, or None."""
        candidates = self._known.get(source[:64], [])
        for made in [each for each in candidates if each.shard.source == source]:
            candidates.remove(made)
            if made.path.is_file() and sha256_file(made.path) == made.shard.sha256:
                return made
        return None

    def _make(
        self, path: Path, start: int, end: int, suffix: str, source: str, total: int
    ) -> list[_Made]:
        """Encode a piece of text, as one shard or several of about the same size."""

        def on_progress(_kind: str, done: int, _of: int) -> None:
            self._report(start + done, total)

        tokenizer, whole = self.tokenizer, self.workshop / f"{source[:16]}.npy"
        count = tokenizer.encode_file(
            path,
            whole,
            num_workers=self.num_workers,
            on_progress=on_progress,
            start=start,
            end=end,
        )
        ids = read_tokens(whole)
        ending = np.array(tokenizer.encode(suffix), dtype=ids.dtype)
        length = count + len(ending)
        number_of_parts = -(-length // self.shard_tokens)
        made = []
        for number, part in enumerate(_sources(source, number_of_parts)):
            target = self.workshop / f"{source[:16]}-{self.count + number:05d}.npy"
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

    def _finish(self, path: Path, source: str) -> _Made:
        """Return a new shard, and note it in the journal."""
        ids = read_tokens(path)
        documents = largest = 0
        for block in blocks(ids):
            documents += int(np.count_nonzero(block == self.separator_id))
            largest = max(largest, int(block.max()))
        shard = Shard(shard_name(0), len(ids), documents, largest, sha256_file(path), source)
        made = _Made(shard, path)
        _note(made)
        return made

    def index(self, texts: Sequence[SourceText], made: Sequence[_Made]) -> TokenIndex:
        """Return the index of shards in this order."""
        return make_index(
            self.tokenizer,
            self.tokenizer_sha256,
            self.shard_tokens,
            texts,
            [replace(each.shard, file=shard_name(n)) for n, each in enumerate(made)],
            last_inked(self.tokenizer, [each.path for each in made]),
        )


def last_inked(tokenizer: Tokenizer, paths: Sequence[Path]) -> int | None:
    """Return the last id in shards that is not white space; None if there is none."""
    blank_ids = {i for i, token in tokenizer.vocab.items() if not token.strip()}
    return last_id((read_tokens(path) for path in reversed(paths)), blank_ids)


def make_index(
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    shard_tokens: int,
    texts: Sequence[SourceText],
    shards: Sequence[Shard],
    last: int | None,
    store: str = "",
) -> TokenIndex:
    """Return the index of shards; `last` is the last of all ids that is not white space."""
    separator = separator_id(tokenizer.special_ids)
    tokens = sum(shard.tokens for shard in shards)
    documents = sum(shard.documents for shard in shards) + int(last not in (None, separator))
    info = TokenInfo(
        tokens=tokens,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer_sha256,
        source_bytes=sum(
            text.bytes + len(SEPARATOR) * (text.separator == "added") for text in texts
        ),
        documents=min(tokens, 1) if separator is None else documents,
        separator_id=separator,
    )
    dtype = "uint16" if tokenizer.dtype is np.uint16 else "uint32"
    return TokenIndex(info, dtype, shard_tokens, tuple(texts), tuple(shards), store)


def _ending(path: Path, size: int, is_last: bool) -> Ending:
    """Return how a text ends: with a separator of its own, with one to add, or with none."""
    with path.open("rb") as file:
        file.seek(max(0, size - ENDING_BYTES))
        if file.read().rstrip().endswith(SEPARATOR.encode()):
            return "own"
    return "none" if is_last or not size else "added"


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


# -- what is there


def _old_index(folder: Path) -> TokenIndex | None:
    """Return the index of the last time; None if there is none, or none that can be read."""
    if not (folder / INDEX).exists():
        return None
    try:
        return read_index(folder)
    except (OSError, ValueError) as error:
        logger.warning("%s; all texts are encoded again", error)
        return None


def _listed(folder: Path, index: TokenIndex | None) -> list[_Made]:
    """Return the shards in an index."""
    return [_Made(shard, folder / shard.file) for shard in (index.shards if index else ())]


def _note(made: _Made) -> None:
    """Note a shard in the workshop in its journal."""
    journal = made.path.with_name(JOURNAL)
    line = json.dumps({"at": made.path.name, "shard": asdict(made.shard)})
    with naming(journal), journal.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _finished(workshop: Path) -> list[_Made]:
    """Return the shards that the journal of an interrupted run lists."""
    journal = workshop / JOURNAL
    if not journal.is_file():
        return []
    found = []
    # a line without its end is one in which the process died
    for line in journal.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            values = json.loads(line)
            shard = read_shard(values["shard"], str(journal))
            found.append(_Made(shard, workshop / Path(values["at"]).name))
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s: a line is damaged (%s); its shard is made again", journal, error)
    return found


# -- the end


def _put_in_place(index: TokenIndex, made: Sequence[_Made], folder: Path, workshop: Path) -> None:
    """Give the shards their places in the folder, and remove all else from it.

    At any time each shard is where the journal or an index lists it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / shard.file for shard in index.shards]
    paths = []
    for each, target in zip(made, targets, strict=True):
        if each.path.parent == folder and each.path != target:  # another may need its place
            moved = replace(each, path=workshop / f"{secrets.token_hex(8)}.npy")
            _note(moved)
            _move(each.path, moved.path)
            paths.append(moved.path)
        else:
            paths.append(each.path)
    for path, target in zip(paths, targets, strict=True):
        if path != target:
            sync(path)
    write_index(folder, index)
    for path, target in zip(paths, targets, strict=True):
        if path != target:
            _move(path, target)
    wanted = {*(target.name for target in targets), INDEX, SUMS}
    remove_others(folder, wanted)


def remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove everything from a folder but the files and folders with these names."""
    for path in folder.iterdir():
        if path.name in wanted:
            continue
        logger.info("%s: removed, since it is not part of %s", path, folder)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _move(path: Path, target: Path) -> None:
    """Move a file to `target`, which may be on another disk, and replace what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as (part,):
            shutil.copyfile(path, part)
        path.unlink()
