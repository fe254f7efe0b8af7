"""Encode and decode with the kernels: the tables of one tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlib.native import address_of, record
from lmlib.tokenizer.engine import TextRules, check_size, load, padded
from lmlib.tokenizer.kernels.records import JOB, PADDING, ROOM_BYTES
from lmlib.tokenizer.paths import CorpusFile, read_into
from lmlib.tokenizer.splitting import Splitter

# Rows of a tokenizer's cache, 32 bytes each. A cache that lost MAX_LOST words is replaced.
CACHE_ROWS = 1 << 19
MAX_LOST = CACHE_ROWS // 4
KEPT_BYTES = 1 << 21  # of text for which a thread keeps room
FREE = (1 << 64) - 1  # key of a free row in the table of merges


class Cache:
    """The ids of pre-tokens seen before, shared by all threads; see JOB."""

    def __init__(self) -> None:
        memory = np.zeros(32 * CACHE_ROWS + 128, dtype=np.uint8)
        start = -address_of(memory) % 128  # align four rows with two lines of the processor's cache
        self.rows = memory[start : start + 32 * CACHE_ROWS]
        self.lost = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True)
class Tables:
    """What texts are encoded with: splitting rules, the ids of special tokens, the cache."""

    rules: TextRules
    special_ids: NDArray[np.uint32]
    cache: Cache

    def fields(self) -> dict[str, int]:
        """Return the fields of a JOB."""
        return {
            "classes": self.rules.classes,
            "pattern": self.rules.pattern,
            "special": self.rules.special,
            "special_ids": address_of(self.special_ids),
            "rows": address_of(self.cache.rows),
            "num_rows": len(self.cache.rows) // 32,
            "lost": address_of(self.cache.lost),
        }


class Workspace:
    """The buffers that one thread at a time encodes with: texts, their pre-tokens and their ids.

    Its `job` encodes a single text, from 0 to starts[1], and is reused for the next one.
    """

    def __init__(self, **fields: NDArray[Any] | int) -> None:
        self.tables: Tables | None = None
        self.room = np.zeros(ROOM_BYTES, dtype=np.uint8)
        self.starts, self.id_starts = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self.job = record(
            JOB,
            room=self.room,
            starts=self.starts,
            id_starts=self.id_starts,
            num_texts=1,
            **fields,
        )
        self.address = address_of(self.job)
        self.make_room(1 << 10)

    def use(self, tables: Tables) -> None:
        """Encode with these tables from now on."""
        if self.tables is not tables:
            self.tables = tables
            for name, value in tables.fields().items():
                self.job[name] = value

    def make_room(self, size: int) -> None:
        """Allocate buffers for texts of `size` bytes in total."""
        self.size = size
        self.data = np.empty(size + PADDING, dtype=np.uint8)
        self.text = self.data.data  # faster to write to than through NumPy
        self.ends = np.empty(size, dtype=np.int32)
        self.ids = np.empty(size + 8, dtype=np.uint32)
        self.job["text"], self.job["ends"] = address_of(self.data), address_of(self.ends)
        self.job["ids"] = address_of(self.ids)


class Encoder:
    """The tables of one tokenizer for the kernels; its methods may run in several threads.

    byte_ids     the id of each of the 256 bytes
    merges       (left id, right id) -> (rank, merged id); ids up to ENGINE_MAX_ID
    special_ids  special token -> id
    """

    def __init__(
        self,
        byte_ids: Sequence[int],
        merges: Mapping[tuple[int, int], tuple[int, int]],
        special_ids: Mapping[str, int],
    ) -> None:
        self._kernels = load()
        self._special_ids = special_ids
        self._byte_ids = np.array(byte_ids, dtype=np.uint32)
        pairs, ranks = (
            np.fromiter(chain.from_iterable(rows), np.int64, 2 * len(merges)).reshape(-1, 2)
            for rows in (merges.keys(), merges.values())
        )
        found = np.hstack([pairs, ranks])
        size = 1 << max(4, (2 * len(merges)).bit_length())
        self._merges = np.full((size, 2), FREE, dtype=np.uint64)
        self._kernels.fill_merges(address_of(found), len(found), address_of(self._merges), size)
        self._cache = Cache()
        self._tables: dict[Splitter, Tables] = {}
        self._idle: list[Workspace] = []  # append and pop are atomic

    def encode(self, data: bytes, splitter: Splitter) -> list[int]:
        """Return the ids of bytes, which need not be valid UTF-8."""
        space = self._workspace(len(data), splitter)
        space.text[: len(data)] = data
        ids = self._encode_one(space, len(data)).tolist()
        self._give_back(space)
        return ids

    def encode_many(
        self, texts: Sequence[bytes], splitter: Splitter, dtype: type[np.unsignedinteger]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Return the ids of all texts, the offset at which those of each begin, and the end."""
        starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        id_starts = np.empty_like(starts)
        size = int(starts[-1])
        space = self._workspace(size, splitter)
        space.text[:size] = b"".join(texts)
        job = space.job.copy()
        job["starts"], job["num_texts"] = address_of(starts), len(texts)
        job["id_starts"] = address_of(id_starts)
        ids = self._encode(space, address_of(job)).astype(dtype)
        self._give_back(space)
        return ids, id_starts

    def encode_range(
        self,
        file: CorpusFile,
        start: int,
        end: int,
        splitter: Splitter,
        dtype: type[np.unsignedinteger],
    ) -> NDArray[np.unsignedinteger]:
        """Return the ids of a byte range of a file."""
        size = end - start
        space = self._workspace(size, splitter)
        read_into(file, start, space.text[:size])
        ids = self._encode_one(space, size).astype(dtype)
        self._give_back(space)
        return ids

    def _workspace(self, size: int, splitter: Splitter) -> Workspace:
        """Return a workspace with room for texts of `size` bytes in total."""
        check_size(size)
        try:
            space = self._idle.pop()
        except IndexError:
            space = Workspace(
                byte_ids=self._byte_ids,
                merges=self._merges,
                num_merge_rows=len(self._merges),
            )
        if space.size < size:
            space.make_room(1 << (size - 1).bit_length())
        space.use(self._tables_for(splitter))
        return space

    def _tables_for(self, splitter: Splitter) -> Tables:
        """Return the tables for a splitter, built again only when the cache has been replaced."""
        cache = self._cache
        if cache.lost[0] > MAX_LOST:
            self._cache, self._tables = Cache(), {}
            cache = self._cache
        tables = self._tables.get(splitter)
        if tables is None or tables.cache is not cache:
            ids = [self._special_ids[token] for token in splitter.special_tokens]
            tables = Tables(TextRules.of(splitter), np.array(ids, dtype=np.uint32), cache)
            self._tables[splitter] = tables
        return tables

    def _encode_one(self, space: Workspace, size: int) -> NDArray[np.uint32]:
        """Return the ids of the text in a workspace, as a view of its memory."""
        space.starts[1] = size
        return self._encode(space, space.address)

    def _encode(self, space: Workspace, job: int) -> NDArray[np.uint32]:
        """Run the JOB at an address; return its ids, as a view of the workspace."""
        num_ids = self._kernels.encode_texts(job)
        if num_ids < 0:
            raise MemoryError("no memory to merge a long pre-token")
        return space.ids[:num_ids]

    def _give_back(self, space: Workspace) -> None:
        if space.size > KEPT_BYTES:
            space.make_room(KEPT_BYTES)
        if space.tables is not None and space.tables.cache is not self._cache:
            space.tables = None  # it would keep a cache that is no longer used
        self._idle.append(space)


class TokenTable:
    """The bytes of every token, one after the other."""

    def __init__(self, vocab: Mapping[int, bytes]) -> None:
        self._kernels = load()
        self._places = np.full((max(vocab, default=-1) + 1, 2), -1, dtype=np.int64)
        sizes = [len(token) for token in vocab.values()]
        self._places[list(vocab), 0] = np.cumsum([0, *sizes])[:-1]
        self._places[list(vocab), 1] = sizes
        self._tokens = padded(b"".join(vocab.values()))

    def decode(self, ids: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
        """Return the bytes of the tokens, or None if an id is unknown."""
        ids = np.ascontiguousarray(ids)
        given = address_of(ids), len(ids)
        places = address_of(self._places), len(self._places)
        size = self._kernels.decoded_size(*given, *places)
        if size < 0:
            return None
        out = np.empty(size + 8, dtype=np.uint8)
        self._kernels.decode(*given, address_of(self._tokens), *places, address_of(out))
        return out[:size]
