"""The fast path: NumPy arrays around the kernels, which are compiled once and then cached.

Numba is imported only when a text is large enough to pay for it.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np
import regex
from numpy.typing import NDArray

from lmlib.tokenizer.splitting import Splitter

logger = logging.getLogger(__name__)

ENGINE_MIN_BYTES = 1 << 22  # below, plain Python is done before the kernels are read from the disk
ENGINE_PATTERNS = {"gpt2": 0, "cl100k": 1}  # as numbered in kernels.py
WHOLE = 2  # kernels.WHOLE: do not split at all

# Cached pre-tokens of one thread: 2**17 entries of 32 bytes with half of them used, and 8 bytes
# and 4 ids for each on average. Larger tables fall out of the caches of the CPU.
CACHE_ENTRIES = 1 << 17
CACHE_BYTES = 1 << 19
CACHE_IDS = 1 << 18

ANNOUNCE_AFTER_S = 2.0  # reading cached kernels takes less, compiling them more
POLL_S = 0.1


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


def add_up(parts: list[WordCounts], use_engine: bool) -> WordCounts:
    """Return the words of all parts, equal ones added up."""
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = np.concatenate([part.data for part in parts])
    joined = WordCounts(data, starts, np.concatenate([part.counts for part in parts]))
    if not use_engine:
        return WordCounts.from_dict(joined.to_dict())
    segments = np.stack([starts[:-1], starts[1:]], axis=1)
    return _count(load(), joined.data, segments, joined.counts, WHOLE)


def _count(
    kernels: ModuleType,
    data: NDArray[np.uint8],
    segments: NDArray[np.int64],
    weights: NDArray[np.int64],
    pattern: int,
) -> WordCounts:
    """Return the distinct pre-tokens of the segments, see `kernels.count_words`."""
    words, starts, counts = kernels.count_words(data, segments, weights, char_classes(), pattern)
    return WordCounts(words, starts, counts)


@lru_cache(maxsize=1)
def char_classes() -> NDArray[np.uint8]:
    r"""Return the class of every character: 0 other, 1 \p{L}, 2 \p{N}, 3 \s, as `regex` has it."""
    classes = np.zeros(0x110000, dtype=np.uint8)
    every_character = "".join(map(chr, range(0x110000)))
    for number, expression in ((1, r"\p{L}+"), (2, r"\p{N}+"), (3, r"\s+")):
        for run in regex.finditer(expression, every_character):
            classes[run.start() : run.end()] = number
    return classes


_load_lock = threading.Lock()


def load() -> ModuleType:
    """Return the kernels, compiled; the first time on a machine this takes some seconds."""
    with _load_lock:
        return _load()


@lru_cache(maxsize=1)
def _load() -> ModuleType:
    notice = threading.Timer(
        ANNOUNCE_AFTER_S,
        logger.warning,
        ["compiling the tokenizer's kernels, once; later runs read them from the disk"],
    )
    notice.daemon = True
    notice.start()
    try:
        from lmlib.tokenizer import kernels

        # One call of each kernel with the types used below compiles it, or reads it.
        text = np.frombuffer(b"ab ab", dtype=np.uint8)
        pieces = np.array([[0, 5]], dtype=np.int64)
        words = _count(kernels, text, pieces, np.ones(1, dtype=np.int64), WHOLE)
        kernels.learn_merges(
            words.data,
            words.starts,
            words.counts,
            np.empty((1, 2), np.int32),
            np.zeros(2, np.int64),
        )
        Encoder._from_kernels(kernels, "gpt2", list(range(256)), {(97, 98): (0, 256)}, {}).encode(
            b"ab ab", Splitter("gpt2", [])
        )
    finally:
        notice.cancel()
    return kernels


def text_segments(
    data: bytes, splitter: Splitter, special_ids: Mapping[str, int] | None = None
) -> NDArray[np.int64]:
    """Return (n, 3): start and end of each stretch of text, and the special id after it or -1."""
    rows = []
    start = 0
    if splitter.special_bytes:
        ids = {token.encode(): token_id for token, token_id in (special_ids or {}).items()}
        for match in splitter.special_bytes.finditer(data):
            rows.append((start, match.start(), ids.get(match[0], -1)))
            start = match.end()
    rows.append((start, len(data), -1))
    return np.array(rows, dtype=np.int64)


def count_words(data: bytes, splitter: Splitter) -> WordCounts:
    """Return how often each pre-token occurs outside of special tokens."""
    segments = np.ascontiguousarray(text_segments(data, splitter)[:, :2])
    weights = np.ones(len(segments), dtype=np.int64)
    text = np.frombuffer(data, dtype=np.uint8)
    pattern = ENGINE_PATTERNS[splitter.pattern]
    return _count(load(), text, segments, weights, pattern)


def learn_merges(
    words: WordCounts, num_merges: int, on_progress: Callable[[int], None] | None = None
) -> list[tuple[bytes, bytes]]:
    """Return the merges in the order learnt; fewer than asked when no pair is left."""
    if words.num_bytes >= 1 << 31:
        raise ValueError(
            f"the distinct pre-tokens have {words.num_bytes} bytes; the limit is 2**31 - 1: "
            "train on a part of the corpus."
        )
    kernels = load()
    pairs = np.empty((num_merges, 2), dtype=np.int32)
    progress = np.zeros(2, dtype=np.int64)
    # In a thread of its own, so that Ctrl-C works and progress can be told.
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(
            kernels.learn_merges, words.data, words.starts, words.counts, pairs, progress
        )
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


class _Cache:
    """The pre-tokens that one thread has met, as `kernels.encode_words` keeps them."""

    def __init__(self) -> None:
        self.entries = np.zeros((CACHE_ENTRIES, 4), dtype=np.int64)
        self.words = np.empty(CACHE_BYTES, dtype=np.uint8)
        self.word_ids = np.empty(CACHE_IDS, dtype=np.int32)
        self.used = np.zeros(3, dtype=np.int64)


class Encoder:
    """The tables of one tokenizer for the kernels; its `encode` may run in several threads.

    byte_ids     the id of each of the 256 bytes
    merges       (left id, right id) -> (rank, merged id)
    special_ids  special token -> id
    """

    def __init__(
        self,
        pattern: str,
        byte_ids: list[int],
        merges: Mapping[tuple[int, int], tuple[int, int]],
        special_ids: Mapping[str, int],
    ) -> None:
        self._set_up(load(), pattern, byte_ids, merges, special_ids)

    @classmethod
    def _from_kernels(cls, kernels: ModuleType, *args: object) -> "Encoder":
        encoder = cls.__new__(cls)
        encoder._set_up(kernels, *args)  # type: ignore[arg-type]
        return encoder

    def _set_up(
        self,
        kernels: ModuleType,
        pattern: str,
        byte_ids: list[int],
        merges: Mapping[tuple[int, int], tuple[int, int]],
        special_ids: Mapping[str, int],
    ) -> None:
        self._kernels = kernels
        self._pattern = ENGINE_PATTERNS[pattern]
        self._byte_ids = np.array(byte_ids, dtype=np.int32)
        self._special_ids = dict(special_ids)
        size = 1 << max(4, (2 * len(merges)).bit_length())  # at most half full
        self._keys = np.full(size, -1, dtype=np.int64)
        self._values = np.zeros(size, dtype=np.int64)
        rows = [(*pair, *found) for pair, found in merges.items()]
        kernels.fill_merges(np.array(rows, dtype=np.int64).reshape(-1, 4), self._keys, self._values)
        self._idle_caches: list[_Cache] = []  # append and pop are atomic

    def encode(self, data: bytes, splitter: Splitter) -> NDArray[np.uint32]:
        """Return the ids of UTF-8, or of any bytes."""
        segments = text_segments(data, splitter, self._special_ids)
        out = np.empty(len(data), dtype=np.uint32)
        try:
            cache = self._idle_caches.pop()
        except IndexError:
            cache = _Cache()
        written = self._kernels.encode_words(
            np.frombuffer(data, dtype=np.uint8),
            segments,
            char_classes(),
            self._pattern,
            self._byte_ids,
            self._keys,
            self._values,
            cache.entries,
            cache.words,
            cache.word_ids,
            cache.used,
            out,
        )
        self._idle_caches.append(cache)
        return out[:written]
