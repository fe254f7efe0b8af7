"""The shards of a folder of tokens as one array, whose files are opened where they are used."""

import os
import resource
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from lmlib.files import sha256_file
from lmlib.redaction import redact
from lmlib.store import ShardCache
from lmlib.tokens.ids import Tokens, blocks, read_tokens
from lmlib.tokens.index import INDEX, Shard, TokenIndex, read_index

# No more shards than this are compared with their digests when they are opened; see `open_tokens`.
CHECKED_BYTES, CHECKED_SHARDS = 1 << 30, 100
MAX_FILES = 1024  # open at a time


def check_shards(folder: Path, index: TokenIndex) -> None:
    """Read all shards; raise an error that names the first one that is not what the index says.

    Not for shards of a store, which are compared with their digests when they are fetched.
    """
    for shard in index.shards:
        path = folder / shard.file
        tokens = open_shard(path, index, shard)
        if sha256_file(path) != shard.sha256:
            raise ValueError(
                f"{path}: damaged, or changed since it was written: {INDEX} has another digest; "
                "restore it, or encode the texts again"
            )
        largest = max(int(block.max()) for block in blocks(tokens))
        if largest != shard.largest_id:
            raise ValueError(
                f"{path}: holds token id {largest}, but {INDEX} says that the largest is "
                f"{shard.largest_id}"
            )


def open_shard(path: Path, index: TokenIndex, shard: Shard) -> np.ndarray:
    """Return the ids of a shard as a memory map, once its header and size agree with its record.

    Raises FileNotFoundError if the file is missing, ValueError if it is another one.
    """
    tokens = read_tokens(path)
    if len(tokens) != shard.tokens or tokens.dtype != index.dtype:
        raise ValueError(
            f"{path}: holds {len(tokens)} tokens of {tokens.dtype}, but {INDEX} says "
            f"{shard.tokens} of {index.dtype}"
        )
    return tokens


def open_tokens(folder: str | Path, cache: str | Path | None = None) -> tuple[TokenIndex, Tokens]:
    """Return the index of a folder and its ids as one array: of one shard, a memory map of it.

    Up to CHECKED_BYTES in CHECKED_SHARDS files, all are read and compared with their digests. Of
    more, each shard is compared with its record when it is first used, by header and size: the
    windows of a batch come from shards all over, and reading these would stop a run for minutes.
    `encode` reads all of them, and `check_shards` does on demand.

    The shards of a store are fetched to the folder `cache` when they are first used, and compared
    with their digests. Raises ValueError if there are any and no `cache` is given.
    """
    folder = Path(folder)
    index = read_index(folder)
    if index.store:
        if cache is None:
            raise ValueError(
                f"{folder}: its shards are in {redact(index.store)}; name a folder of this machine "
                "for those in use, with cache="
            )
        return index, ShardedTokens(folder, index, cache=ShardCache(index.store, Path(cache)))
    if is_checked(index):
        check_shards(folder, index)
    if len(index.shards) == 1:
        return index, open_shard(folder / index.shards[0].file, index, index.shards[0])
    return index, ShardedTokens(folder, index)


def is_checked(index: TokenIndex) -> bool:
    """Return whether `open_tokens` compares all shards with their digests."""
    return not index.store and index.nbytes <= CHECKED_BYTES and len(index.shards) <= CHECKED_SHARDS


class ShardedTokens:
    """The ids of all shards as one read-only array, of which an index or a slice can be taken.

    A slice is read from the files when it is taken. They are not mapped into memory: a map reads
    far more around a place than a window needs, and ends the process where a file has become
    shorter. At most `max_files` are open at a time, by default MAX_FILES or a quarter of those that
    this process may open: those that were used last. Not for several threads at once.
    """

    def __init__(
        self,
        folder: Path,
        index: TokenIndex,
        max_files: int | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        self.cache = cache
        self.folder = folder
        self.index = index
        self.dtype = np.dtype(index.dtype)
        self.nbytes = index.nbytes
        self.max_files = max_files or default_max_files()
        self._starts = [0, *accumulate(shard.tokens for shard in index.shards)]
        # of each open shard, its descriptor and the size of its header
        self._files: OrderedDict[int, tuple[int, int]] = OrderedDict()
        weakref.finalize(self, _close, self._files)

    def __reduce__(self) -> tuple:
        return (ShardedTokens, (self.folder, self.index, self.max_files, self.cache))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, key: int | np.integer | slice) -> Any:
        if not isinstance(key, slice):
            at = range(len(self))[key]
            return self[at : at + 1][0]
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise ValueError(f"a slice of shards with the step {step}; only 1 is possible")
        parts = list(self._parts(start, stop))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype=dtype)

    def _parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the ids from `start` to `stop`, shard by shard."""
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            first, end = self._starts[shard : shard + 2]
            yield self._read(shard, start - first, min(stop, end) - first)
            start, shard = end, shard + 1

    def _read(self, number: int, start: int, stop: int) -> np.ndarray:
        """Return ids of one shard."""
        descriptor, header = self._file(number)
        size, offset = self.dtype.itemsize * (stop - start), header + self.dtype.itemsize * start
        content = os.pread(descriptor, size, offset)
        while len(content) < size:  # the system reads at most 2 GiB at a time
            more = os.pread(descriptor, size - len(content), offset + len(content))
            if not more:
                path = self._path(self.index.shards[number])
                raise ValueError(f"{path}: has become shorter while it was in use")
            content += more
        return np.frombuffer(content, self.dtype)

    def _path(self, shard: Shard) -> Path:
        """Return the file of a shard, fetched if it is in a store."""
        if self.cache is None:
            return self.folder / shard.file
        return self.cache.path(shard.file, shard.sha256)

    def _file(self, number: int) -> tuple[int, int]:
        """Return the descriptor of a shard, and the size of its header."""
        known = self._files.get(number)
        if known is not None:
            self._files.move_to_end(number)
            return known
        while len(self._files) >= self.max_files:
            os.close(self._files.popitem(last=False)[1][0])
        shard = self.index.shards[number]
        path = self._path(shard)
        ids = open_shard(path, self.index, shard)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._files[number] = descriptor, os.fstat(descriptor).st_size - ids.nbytes
        return self._files[number]


def _close(files: OrderedDict[int, tuple[int, int]]) -> None:
    while files:
        os.close(files.popitem()[1][0])


def default_max_files() -> int:
    """Return how many shards to keep open, so that other files can still be opened."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_FILES
    return max(1, min(MAX_FILES, allowed // 4))
