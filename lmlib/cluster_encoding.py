"""Texts to shards on a cluster: workers open the texts, encode them and write the shards.

A task is a text, or a piece of a large text in place. The caller gets the records of shards and
writes the index. All files have the same bits as those of `lmlib.encoding.encode_texts`.
"""

import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lmlib.digests import SUMS
from lmlib.encoding import (
    BYTES_PER_TOKEN,
    EncodeParams,
    OnProgress,
    Text,
    _Encoder,
    _ending,
    _finished,
    _locked,
    _Made,
    _note,
    _old_index,
    _put_in_place,
    last_inked,
    make_index,
    remove_others,
)
from lmlib.separator import SEPARATOR
from lmlib.shards import INDEX, SourceText, TokenIndex, read_shard, shard_name, write_index
from lmlib.store import Store, write_record
from lmlib.threads import ThreadPool
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.codec import npy_header
from lmlib.tokenizer.workers import count_workers, map_in_order

AHEAD = 4  # times two tasks for each worker are under way: their results are small


@dataclass(frozen=True)
class Job:
    """What all tasks need.

    folder       of the shards of the last time
    workshop     the folder where new ones wait, unless they go to a store
    store        its address, or ""
    num_workers  threads or processes of one task; None: one for each core
    """

    tokenizer: Tokenizer
    tokenizer_sha256: str
    params: EncodeParams
    folder: Path
    workshop: Path
    store: str
    num_workers: int | None


@dataclass(frozen=True)
class Task:
    """The text with this number, or the bytes from `start` to `end` of a text in place.

    suffix   follows these bytes
    """

    number: int
    text: Text
    is_last: bool
    start: int = 0
    end: int | None = None  # None: all of the text
    suffix: str = ""


@dataclass(frozen=True)
class Done:
    """What a task has made.

    num_bytes  of the text, or of the piece of it
    record     of the text; None for a piece
    last       of the ids, the last one that is not white space; None if there is none
    """

    number: int
    num_bytes: int
    record: SourceText | None
    made: list[_Made]
    last: int | None


def encode_texts_on(
    executor: Executor | None,
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    texts: Sequence[Text],
    folder: Path,
    workshop: Path,
    params: EncodeParams,
    *,
    store: str = "",
    on_progress: OnProgress | None = None,
) -> TokenIndex:
    """Write the ids of texts as `encode_texts` does, with the workers of an executor.

    Without a `store`, workers write to `workshop`, which they see under the same path, and the
    shards are moved to `folder` at the end. Otherwise they write to the store, and `folder` gets
    the index alone; nothing is ever removed from a store. Without an executor this process is the
    worker.

    Shards that are there already are not made again: those of the last time, and those that workers
    finished before an interruption. A text whose `num_bytes` is known is a file that all workers
    see; another one is opened by the worker that encodes it.

    Raises what `encode_texts` raises, ConnectionError if the store cannot be used, and what the
    executor raises.
    """
    with _locked(workshop), _pool(executor) as pool:
        num_workers = None if executor is None else 1
        places = folder.absolute(), workshop.absolute()
        job = Job(tokenizer, tokenizer_sha256, params, *places, store, num_workers)
        records: dict[int, SourceText] = {}
        made: list[_Made] = []
        noted = {each.path.name for each in _finished(workshop)}
        total, done, last = sum(text.num_bytes or 0 for text in texts), 0, None
        tasks = ((job, task) for task in _tasks(job, texts, records))
        for result in map_in_order(pool, run_task, tasks, AHEAD * count_workers(pool)):
            record = result.record or records[result.number]
            shards = record.shards if result.record else record.shards + len(result.made)
            records[result.number] = replace(record, shards=shards)
            for each in result.made:
                if each.path.parent == job.workshop and each.path.name not in noted:
                    noted.add(each.path.name)
                    _note(each)
            made += result.made
            last = last if result.last is None else result.last
            done += result.num_bytes
            if on_progress:
                on_progress("encode", done, max(total, done))

        def index(made: list[_Made], names: list[str]) -> TokenIndex:
            shards = [
                replace(each.shard, file=name) for each, name in zip(made, names, strict=True)
            ]
            in_order = [records[number] for number in range(len(texts))]
            return make_index(
                tokenizer, tokenizer_sha256, params.shard_tokens, in_order, shards, last, store
            )

        if store:
            listing = index(made, [each.shard.file for each in made])
            folder.mkdir(parents=True, exist_ok=True)
            write_index(folder, listing)
            remove_others(folder, {INDEX, SUMS})
        else:
            made = _each_its_own(made, job.workshop)
            listing = index(made, [shard_name(number) for number in range(len(made))])
            _put_in_place(listing, made, job.folder, job.workshop)
        shutil.rmtree(workshop, ignore_errors=True)  # a doubled task may still write there
    return listing


def _pool(executor: Executor | None) -> AbstractContextManager[Executor]:
    return ThreadPool(1) if executor is None else nullcontext(executor)


def _tasks(job: Job, texts: Sequence[Text], records: dict[int, SourceText]) -> Iterator[Task]:
    """Yield the tasks, in order; add to `records` those of texts in pieces, without shards."""
    old = _old_index(job.folder)
    listed = {record.digest for record in old.texts} if old else set()
    piece_bytes = BYTES_PER_TOKEN * job.params.shard_tokens
    for number, text in enumerate(texts):
        whole = Task(number, text, number == len(texts) - 1)
        size = text.num_bytes
        if size is None or size <= piece_bytes or (text.digest and text.digest in listed):
            yield whole
            continue
        with text.open() as path:
            path = path.absolute()
            ending = _ending(path, size, whole.is_last)
            records[number] = SourceText(text.name, size, text.digest, ending, 0)
            for start, end in job.tokenizer.file_pieces(path, piece_bytes):
                suffix = SEPARATOR if ending == "added" and end == size else ""
                yield replace(whole, start=start, end=end, suffix=suffix)


def run_task(job: Job, task: Task) -> Done:
    """Return what a worker makes of a text, or of a piece of it."""
    store = Store(job.store or str(job.workshop))
    with store.scratch() as scratch:
        encoder = _Worker(job, store, scratch)
        if task.end is None:
            record, made = encoder.encode(task.text, task.is_last, 0)
            num_bytes = record.bytes
        else:
            with task.text.open() as path:
                made = encoder.encode_piece(path, task.start, task.end, task.suffix, 0)
            record, num_bytes = None, task.end - task.start
        return Done(task.number, num_bytes, record, made, encoder.last(made))


class _Worker(_Encoder):
    """Encodes texts on a worker, and puts the shards into a store, or into the workshop.

    A piece that was made before has a record there.
    """

    def __init__(self, job: Job, store: Store, scratch: Path) -> None:
        super().__init__(
            job.tokenizer, job.tokenizer_sha256, job.folder, job.workshop, job.params, None
        )
        self.num_workers = job.num_workers
        self.workshop = scratch
        self.store = store
        self._last: dict[str, int | None] = {}  # by piece, of those with a record

    def last(self, made: Sequence[_Made]) -> int | None:
        """Return the last id in shards that is not white space; None if there is none."""
        if self.store.folder is not None:
            return last_inked(self.tokenizer, [each.path for each in made])
        for each in reversed(made):
            piece = each.shard.source[:64]
            if piece not in self._last:
                self._recorded(piece)
            if (last := self._last.get(piece)) is not None:
                return last
        return None

    def _claim_piece(self, piece: str) -> list[_Made] | None:
        return super()._claim_piece(piece) or self._recorded(piece)

    def _claim(self, source: str) -> _Made | None:
        if self.store.folder is not None:
            return super()._claim(source)
        for made in self._known.get(source[:64], []):
            if made.shard.source == source and self._is_stored(made):
                return made
        return None

    def _recorded(self, piece: str) -> list[_Made] | None:
        """Return the shards of a piece that has a record, if all of them are there."""
        name = f"pieces/{piece}.json"
        content = self.store.read(name)
        if content is None:
            return None
        values = json.loads(content)
        where = self.store.path_of(name)
        shards = [read_shard(each, f"{where}: shards") for each in values["shards"]]
        made = [_Made(shard, self._path(shard.file)) for shard in shards]
        self._last[piece] = values["last"]
        return made if all(map(self._is_stored, made)) else None

    def _is_stored(self, made: _Made) -> bool:
        """Return whether a shard is in the store, with the right size."""
        size = len(npy_header(self.tokenizer.dtype, made.shard.tokens))
        size += made.shard.tokens * np.dtype(self.tokenizer.dtype).itemsize
        return self.store.size(made.shard.file) == size

    def _path(self, name: str) -> Path:
        return (self.store.folder or Path()) / name

    def _make(
        self, path: Path, start: int, end: int, suffix: str, source: str, total: int
    ) -> list[_Made]:
        made = super()._make(path, start, end, suffix, source, total)
        last = last_inked(self.tokenizer, [each.path for each in made])
        named = []
        for each in made:
            name = f"{each.shard.sha256}.npy"
            self.store.put(each.path, name)
            named.append(_Made(replace(each.shard, file=name), self._path(name)))
        values = {"last": last, "shards": [asdict(each.shard) for each in named]}
        write_record(self.store, self.workshop, f"pieces/{source}.json", values)
        self._last[source] = last
        return named


def _each_its_own(made: Sequence[_Made], workshop: Path) -> list[_Made]:
    """Return the shards, with copies of those that are the same file as one before."""
    taken: set[Path] = set()
    own = []
    for each in made:
        if each.path in taken:  # equal pieces of text
            copy = replace(each, path=workshop / f"{secrets.token_hex(8)}.npy")
            shutil.copyfile(each.path, copy.path)
            _note(copy)
            own.append(copy)
        else:
            own.append(each)
        taken.add(each.path)
    return own
