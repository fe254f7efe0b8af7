"""Texts to shards by workers, which open the texts, encode them and write the shards.

A task is a text, or a piece of a large text in place. The caller gets the records of shards alone.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lmlib.encoding.encoder import Encoded, Encoder, Job, Text, ending_of, last_inked
from lmlib.encoding.workshop import Made, note, noted
from lmlib.separator import SEPARATOR
from lmlib.store import Store, write_record
from lmlib.tokenizer.codec import npy_header
from lmlib.tokenizer.workers import OnProgress, count_workers, map_in_order
from lmlib.tokens.index import SourceText, read_shard

AHEAD = 4  # times two tasks for each worker are under way: their results are small


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
    made: list[Made]
    last: int | None


def encode_with(
    executor: Executor, job: Job, texts: Sequence[Text], on_progress: OnProgress | None
) -> Encoded:
    """Return what the workers of an executor make of texts, in order.

    Shards are in the job's workshop, or in its store. Those that are there already are not made
    again: those of the last time, and those that workers finished before an interruption.
    """
    records: dict[int, SourceText] = {}
    made: list[Made] = []
    in_journal = {each.path.name for each in noted(job.workshop)}
    total, done, last = sum(text.num_bytes or 0 for text in texts), 0, None
    tasks = ((job, task) for task in _tasks(job, texts, records))
    for result in map_in_order(executor, run_task, tasks, AHEAD * count_workers(executor)):
        record = result.record or records[result.number]
        shards = record.shards if result.record else record.shards + len(result.made)
        records[result.number] = replace(record, shards=shards)
        for each in result.made:
            if each.path.parent == job.workshop and each.path.name not in in_journal:
                in_journal.add(each.path.name)
                note(each)
        made += result.made
        last = last if result.last is None else result.last
        done += result.num_bytes
        if on_progress:
            on_progress("encode", done, max(total, done))
    return Encoded([records[number] for number in range(len(texts))], made, last)


def _tasks(job: Job, texts: Sequence[Text], records: dict[int, SourceText]) -> Iterator[Task]:
    """Yield the tasks, in order; add to `records` those of texts in pieces, without shards."""
    old = job.old_index()
    listed = {record.digest for record in old.texts} if old else set()
    for number, text in enumerate(texts):
        whole = Task(number, text, number == len(texts) - 1)
        size = text.num_bytes
        if size is None or size <= job.piece_bytes or (text.digest and text.digest in listed):
            yield whole
            continue
        with text.open() as path:
            path = path.absolute()
            ending = ending_of(path, whole.is_last)
            records[number] = SourceText(text.name, size, text.digest, ending, 0)
            for start, end in job.tokenizer.file_pieces(path, job.piece_bytes):
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


class _Worker(Encoder):
    """Encodes texts on a worker, and puts the shards into a store, or into the workshop.

    A piece that was made before has a record there.
    """

    def __init__(self, job: Job, store: Store, scratch: Path) -> None:
        super().__init__(job, place=scratch)
        self.store = store
        self._last: dict[str, int | None] = {}  # by piece, of those with a record

    def last(self, made: Sequence[Made]) -> int | None:
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

    def claim_piece(self, piece: str) -> list[Made] | None:
        """Return the shards of a piece, if all of them are there and undamaged."""
        return super().claim_piece(piece) or self._recorded(piece)

    def claim(self, source: str) -> Made | None:
        """Return an undamaged shard made from `source`, or None."""
        if self.store.folder is not None:
            return super().claim(source)
        for made in self.known.get(source[:64], []):
            if made.shard.source == source and self._is_stored(made):
                return made
        return None

    def make(
        self, path: Path, start: int, end: int, suffix: str, source: str, total: int
    ) -> list[Made]:
        """Encode a piece of text, put its shards into the store, and write a record of them."""
        made = super().make(path, start, end, suffix, source, total)
        last = last_inked(self.tokenizer, [each.path for each in made])
        named = []
        for each in made:
            name = f"{each.shard.sha256}.npy"
            self.store.put(each.path, name)
            named.append(Made(replace(each.shard, file=name), self._path(name)))
        values = {"last": last, "shards": [asdict(each.shard) for each in named]}
        write_record(self.store, self.place, f"pieces/{source}.json", values)
        self._last[source] = last
        return named

    def _recorded(self, piece: str) -> list[Made] | None:
        """Return the shards of a piece that has a record, if all of them are there."""
        name = f"pieces/{piece}.json"
        content = self.store.read(name)
        if content is None:
            return None
        values = json.loads(content)
        where = self.store.path_of(name)
        shards = [read_shard(each, f"{where}: shards") for each in values["shards"]]
        made = [Made(shard, self._path(shard.file)) for shard in shards]
        self._last[piece] = values["last"]
        return made if all(map(self._is_stored, made)) else None

    def _is_stored(self, made: Made) -> bool:
        """Return whether a shard is in the store, with the right size."""
        size = len(npy_header(self.tokenizer.dtype, made.shard.tokens))
        size += made.shard.tokens * np.dtype(self.tokenizer.dtype).itemsize
        return self.store.size(made.shard.file) == size

    def _path(self, name: str) -> Path:
        return (self.store.folder or Path()) / name
