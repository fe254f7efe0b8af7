"""The fast path: NumPy arrays around the kernels, which are compiled once and then cached.

Numba is imported only when there is enough text to pay for it.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from lmlib.threads import ThreadPool
from lmlib.tokenizer.characters import char_classes
from lmlib.tokenizer.paths import CorpusFile, read_into
from lmlib.tokenizer.splitting import Splitter

logger = logging.getLogger(__name__)

ENGINE_MIN_BYTES = 1 << 22  # below, plain Python is done before the kernels are read from the disk
MAX_BYTES = 1 << 30  # of a text, and of the long words of one counter: places are 32 bits wide
ENGINE_MAX_ID = (1 << 20) - 1  # tables have a row for each id
ENGINE_PATTERNS = {"gpt2": 0, "cl100k": 1, "o200k": 2}  # as numbered in kernels.py
PADDING = 64  # kernels.PADDING: bytes that may be read behind a text

# Cached pre-tokens of one tokenizer, 32 bytes each, and how many more make a fresh start worth it.
CACHE_ROWS = 1 << 19
MAX_LOST = CACHE_ROWS // 4
KEPT_BYTES = 1 << 21  # of text for which a thread keeps room

POLL_S = 0.1

# Address space that loading takes: Numba and LLVM, and what they need to compile the kernels.
LOADING_BYTES = 1 << 30
TABLES_BYTES = 1 << 26  # the same for the tables and the cache of one tokenizer


# -- getting ready

_load_lock = threading.RLock()
_kernels: ModuleType | None = None
_cannot_load = False


def is_loaded() -> bool:
    """Whether the kernels are there, so that a short text can use them too."""
    return _kernels is not None


def pays(num_bytes: int) -> bool:
    """Whether the kernels are loaded, or so much text repays loading them, which then is done."""
    return is_loaded() or (num_bytes >= ENGINE_MIN_BYTES and try_load())


def try_load() -> bool:
    """Load the kernels unless they are; return False where that cannot be done.

    Where memory is limited it is not tried: LLVM ends the process when it gets none, and plain
    Python gives the same results with little.
    """
    global _cannot_load
    if is_loaded():
        return True
    if _cannot_load or not fits(LOADING_BYTES):
        return False
    try:
        load()
    except (MemoryError, ImportError, OSError, SystemError) as error:
        _cannot_load = True  # half-imported packages would fail in other ways at the next try
        logger.warning("the tokenizer's kernels cannot be loaded (%r): plain Python is used", error)
        return False
    return True


def fits(num_bytes: int) -> bool:
    """Whether the limits of this process let it have so much more memory (Linux; else True)."""
    if sys.platform != "linux":
        return True
    import resource  # Unix alone has it

    try:
        # in pages: the whole, ..., data and stack
        whole, *_, data, _ = map(int, Path("/proc/self/statm").read_text().split())
    except (MemoryError, OSError):
        return False
    for limit, used in ((resource.RLIMIT_AS, whole), (resource.RLIMIT_DATA, data)):
        most, _ = resource.getrlimit(limit)
        free = most - used * resource.getpagesize()
        if most != resource.RLIM_INFINITY and free < num_bytes:
            return False
    return True


def load() -> ModuleType:
    """Return the kernels, compiled; the first time on a machine this takes half a minute."""
    global _kernels
    with _load_lock:
        if _kernels is None:
            with _announcing("split, count and encode"):
                from lmlib.tokenizer import kernels

                assert ENGINE_PATTERNS == {
                    "gpt2": kernels.GPT2,
                    "cl100k": kernels.CL100K,
                    "o200k": kernels.O200K,
                }
                assert kernels.PADDING == PADDING
                # One use of each kernel with the types used below compiles it, or reads it.
                encoder = Encoder("gpt2", list(range(256)), {(97, 98): (0, 256)}, {}, kernels)
                encoder.encode(b"ab ab", Splitter("gpt2", []))
                TokenTable({0: b"a"}, kernels).decode(np.zeros(1, np.uint32))
                counter = WordCounter(kernels)
                counter.add_text(b"ab", Splitter("gpt2", []))
                counter.add_words(counter.words())
            _kernels = kernels
            find_cut(Splitter("gpt2", []), b"ab", 0, 2)
        return _kernels


@contextmanager
def _announcing(purpose: str) -> Iterator[None]:
    """Say what takes so long when Numba compiles kernels: when it finds none on the disk."""
    from numba.core import event

    class Notice(event.Listener):
        is_said = False

        def on_start(self, event: object) -> None:
            if not self.is_said:
                logger.warning("compiling the kernels that %s, once: some seconds", purpose)
            self.is_said = True

        def on_end(self, event: object) -> None:
            pass

    with event.install_listener("numba:compile", Notice()):
        yield


def padded(data: bytes) -> NDArray[np.uint8]:
    """Return the bytes, with room behind them for loads that go too far.

    Raises ValueError for more than MAX_BYTES.
    """
    check_size(len(data))
    array = np.empty(len(data) + PADDING, dtype=np.uint8)
    array[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return array


def check_size(num_bytes: int) -> None:
    """Raise ValueError for a text in which places would not fit into 32 bits."""
    if num_bytes > MAX_BYTES:
        raise ValueError(
            f"{num_bytes:,} bytes of text in one piece, the limit is {MAX_BYTES:,}: cut it up, or "
            "use smaller chunks, encode_file or encode_iterable. (A file is not cut inside of a "
            "pre-token, such as a run of spaces.)"
        )


SpecialTable = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]


@lru_cache(maxsize=32)
def special_table(tokens: tuple[bytes, ...]) -> SpecialTable:
    """Return (data, starts, heads) of special tokens, as kernels.py has it."""
    data = padded(b"".join(tokens))
    starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    heads = np.array(sorted({token[0] for token in tokens}), dtype=np.uint8)
    return data, starts, heads


def find_cut(splitter: Splitter, data: bytes, first: int, last: int) -> int:
    """Return what `splitter.find_cut(data, first, last)` does, or another place as good."""
    return load().find_cut(
        padded(data),
        first,
        last,
        len(data),
        char_classes(),
        ENGINE_PATTERNS[splitter.pattern],
        special_table(splitter.special_bytes),
    )


# -- counting and learning


@dataclass(frozen=True)
class WordCounts:
    """Distinct pre-tokens ("words") and how often each occurs.

    data     (bytes,) uint8, read-only: the words, one after the other
    starts   (words + 1,) int64: where each begins in `data`, and the end
    counts   (words,) int64
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.data.setflags(write=False)  # to Numba, writable arrays would be another type

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def num_bytes(self) -> int:
        """Bytes of all words together."""
        return len(self.data)

    @property
    def longest(self) -> int:
        """Bytes of the longest word."""
        return int(np.diff(self.starts).max(initial=0))

    @staticmethod
    def from_dict(counts: Mapping[bytes, int]) -> "WordCounts":
        """Return the words of a dict."""
        return WordCounts(
            np.frombuffer(b"".join(counts), dtype=np.uint8),
            np.cumsum([0, *map(len, counts)], dtype=np.int64),
            np.array(list(counts.values()), dtype=np.int64),
        )

    def to_dict(self) -> dict[bytes, int]:
        """Return the words as a dict; equal words are added up."""
        data = self.data.tobytes()
        starts = self.starts.tolist()
        counts: dict[bytes, int] = {}
        for start, end, count in zip(starts[:-1], starts[1:], self.counts.tolist(), strict=True):
            word = data[start:end]
            counts[word] = counts.get(word, 0) + count
        return counts


class WordCounter:
    """A table of pre-tokens and how often each was seen, to which one thread at a time adds."""

    def __init__(self, kernels: ModuleType | None = None) -> None:
        self._kernels = kernels or load()
        self._rows = np.zeros((1 << 14, 4), dtype=np.uint64)
        self._arena = np.empty(1 << 14, dtype=np.uint8)
        self._used = np.zeros(2, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._used[0])

    def add_text(self, data: bytes, splitter: Splitter) -> None:
        """Add the pre-tokens of a text outside of special tokens."""
        check_size(int(self._used[1]) + len(data))
        self._rows, self._arena = self._kernels.count_text(
            padded(data),
            len(data),
            char_classes(),
            ENGINE_PATTERNS[splitter.pattern],
            special_table(splitter.special_bytes),
            np.empty(len(data), dtype=np.int32),
            self._rows,
            self._arena,
            self._used,
        )

    def add_words(self, words: WordCounts) -> None:
        """Add words that were counted elsewhere."""
        check_size(int(self._used[1]) + words.num_bytes)
        self._rows, self._arena = self._kernels.count_pieces(
            np.concatenate([words.data, np.zeros(PADDING, np.uint8)]),
            0,
            words.starts[1:].astype(np.int32),
            len(words),
            words.counts,
            self._rows,
            self._arena,
            self._used,
        )

    def words(self) -> WordCounts:
        """Return what was counted."""
        return WordCounts(*self._kernels.list_words(self._rows, self._arena, self._used))


def learn_merges(
    words: WordCounts, num_merges: int, on_progress: Callable[[int], None] | None = None
) -> list[tuple[bytes, bytes]]:
    """Return the merges in the order learnt; fewer than asked when no pair is left."""
    learn = load_learning()
    pairs = np.empty((num_merges, 2), dtype=np.int32)
    progress = np.zeros(2, dtype=np.int64)
    # In a thread of its own, so that Ctrl-C works and progress can be told.
    with ThreadPool(1) as thread:
        future = thread.submit(learn, words.data, words.starts, words.counts, pairs, progress)
        try:
            while True:
                try:
                    num_learnt = future.result(timeout=POLL_S)
                    break
                except FutureTimeout:
                    if on_progress:
                        on_progress(int(progress[0]))
        except BaseException:
            progress[1] = 1
            raise
    if on_progress:
        on_progress(num_learnt)
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    for left, right in pairs[:num_learnt].tolist():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return merges


@lru_cache(maxsize=1)
def load_learning() -> Callable[..., int]:
    """Return the compiled kernel that learns merges; only training needs it."""
    with _announcing("learn merges"):
        from lmlib.tokenizer.learning import learn_merges as learn

        words = WordCounts.from_dict({b"ab": 1})
        pairs, progress = np.empty((1, 2), np.int32), np.zeros(2, np.int64)
        learn(words.data, words.starts, words.counts, pairs, progress)
    return learn


# -- encoding and decoding


def _empty_cache() -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return rows and lost, as in `encode_texts`; four rows are two lines of the CPU's caches."""
    memory = np.zeros(32 * CACHE_ROWS + 128, dtype=np.uint8)
    start = -memory.ctypes.data % 128
    rows = memory[start : start + 32 * CACHE_ROWS].view(np.uint64).reshape(CACHE_ROWS, 4)
    return rows, np.zeros(1, dtype=np.int64)


class _Workspace:
    """What one thread at a time encodes with: room for a text, its pre-tokens and its ids."""

    def __init__(self, num_queues: int, kernels: ModuleType) -> None:
        self.room = np.zeros(kernels.ROOM_BYTES, dtype=np.uint8)
        self.queues = np.full((num_queues, 2), -1, dtype=np.int32)
        self.make_room(1 << 10)

    def make_room(self, size: int) -> None:
        """Have room for texts of `size` bytes in all."""
        self.size = size
        self.data = np.empty(size + PADDING, dtype=np.uint8)
        self.text = self.data.data  # to write to, faster than through NumPy
        self.ends = np.empty(size, dtype=np.int32)
        self.out = np.empty(size + 8, dtype=np.uint32)


class Encoder:
    """The tables of one tokenizer for the kernels; its methods may run in several threads.

    byte_ids     the id of each of the 256 bytes
    merges       (left id, right id) -> (rank, merged id); ids up to ENGINE_MAX_ID
    special_ids  special token -> id
    """

    def __init__(
        self,
        pattern: str,
        byte_ids: Sequence[int],
        merges: Mapping[tuple[int, int], tuple[int, int]],
        special_ids: Mapping[str, int],
        kernels: ModuleType | None = None,
    ) -> None:
        self._kernels = kernels or load()
        self._pattern = ENGINE_PATTERNS[pattern]
        self._special_ids = special_ids
        self._byte_ids = np.array(byte_ids, dtype=np.uint32)
        size = 1 << max(4, (2 * len(merges)).bit_length())
        self._merges = np.full((size, 2), self._kernels.ALL, dtype=np.uint64)
        pairs, ranks = (
            np.fromiter(chain.from_iterable(rows), np.int64, 2 * len(merges)).reshape(-1, 2)
            for rows in (merges.keys(), merges.values())
        )
        self._kernels.fill_merges(np.hstack([pairs, ranks]), self._merges)
        self._num_queues = int(ranks[:, 0].max(initial=0)) + 1
        self._cache = _empty_cache()
        self._idle: list[_Workspace] = []  # append and pop are atomic
        self._tables: dict[tuple[bytes, ...], tuple[SpecialTable, NDArray[np.uint32]]] = {}

    def encode(self, data: bytes, splitter: Splitter) -> list[int]:
        """Return the ids of UTF-8, or of any bytes."""
        space = self._workspace(len(data))
        space.text[: len(data)] = data
        ids = self._run(space, np.array((0, len(data))), splitter)[0].tolist()
        self._give_back(space)
        return ids

    def encode_many(
        self, texts: Sequence[bytes], splitter: Splitter, dtype: type[np.unsignedinteger]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Return the ids of all texts, and where those of each begin, and the end."""
        starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        size = int(starts[-1])
        space = self._workspace(size)
        space.text[:size] = b"".join(texts)
        ids, id_starts = self._run(space, starts, splitter)
        ids = ids.astype(dtype)
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
        space = self._workspace(size)
        read_into(file, start, space.text[:size])
        ids = self._run(space, np.array((0, size)), splitter)[0].astype(dtype)
        self._give_back(space)
        return ids

    def _workspace(self, size: int) -> _Workspace:
        """Return a workspace with room for a text of so many bytes."""
        check_size(size)
        try:
            space = self._idle.pop()
        except IndexError:
            space = _Workspace(self._num_queues, self._kernels)
        if space.size < size:
            space.make_room(1 << (size - 1).bit_length())
        return space

    def _give_back(self, space: _Workspace) -> None:
        if space.size > KEPT_BYTES:
            space.make_room(KEPT_BYTES)
        self._idle.append(space)

    def _run(
        self, space: _Workspace, starts: NDArray[np.int64], splitter: Splitter
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the ids, which lie in the workspace, and where those of each text begin."""
        tokens = splitter.special_bytes
        if tokens not in self._tables:
            ids = [self._special_ids[token] for token in splitter.special_tokens]
            self._tables[tokens] = special_table(tokens), np.array(ids, dtype=np.uint32)
        special, special_ids = self._tables[tokens]
        cache = self._cache
        if cache[1][0] > MAX_LOST:
            self._cache = cache = _empty_cache()
        id_starts = np.empty(len(starts), dtype=np.int64)
        self._kernels.encode_texts(
            space.data,
            starts,
            char_classes(),
            self._pattern,
            special,
            special_ids,
            (self._byte_ids, self._merges, space.queues),
            (*cache, space.room),
            space.ends,
            space.out,
            id_starts,
        )
        return space.out[: id_starts[-1]], id_starts


class TokenTable:
    """The bytes of every token, side by side."""

    def __init__(self, vocab: Mapping[int, bytes], kernels: ModuleType | None = None) -> None:
        self._kernels = kernels or load()
        self._places = np.full((max(vocab, default=-1) + 1, 2), -1, dtype=np.int64)
        sizes = [len(token) for token in vocab.values()]
        self._places[list(vocab), 0] = np.cumsum([0, *sizes])[:-1]
        self._places[list(vocab), 1] = sizes
        self._tokens = padded(b"".join(vocab.values()))

    def decode(self, ids: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
        """Return the bytes of the tokens, or None where an id is none."""
        size = self._kernels.decoded_size(ids, self._places)
        if size < 0:
            return None
        out = np.empty(size + 8, dtype=np.uint8)
        self._kernels.decode(ids, self._tokens, self._places, out)
        return out[:size]
