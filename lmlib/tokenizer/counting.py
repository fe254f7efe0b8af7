"""Count the pre-tokens of texts with the kernels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmlib.native import address_of, record
from lmlib.tokenizer.engine import TextRules, check_size, load, padded
from lmlib.tokenizer.kernels.records import COUNT, PADDING, TABLE
from lmlib.tokenizer.splitting import Splitter

FIRST_ROWS, FIRST_ARENA = 1 << 14, 1 << 14  # of a table: rows, and bytes for long words


@dataclass(frozen=True)
class WordCounts:
    """Distinct pre-tokens ("words") and how often each occurs.

    data     (bytes,) uint8: the words, one after the other
    starts   (words + 1,) int64: where each begins in `data`, then the end
    counts   (words,) int64
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def num_bytes(self) -> int:
        """The total length of all words in bytes."""
        return len(self.data)

    @property
    def longest(self) -> int:
        """The length of the longest word in bytes."""
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
        """Return the words as a dict; the counts of equal words are added up."""
        data = self.data.tobytes()
        starts = self.starts.tolist()
        counts: dict[bytes, int] = {}
        for start, end, count in zip(starts[:-1], starts[1:], self.counts.tolist(), strict=True):
            word = data[start:end]
            counts[word] = counts.get(word, 0) + count
        return counts


class WordCounter:
    """A table of pre-tokens and their counts; only one thread at a time may add to it."""

    def __init__(self) -> None:
        self._kernels = load()
        self._rows = np.zeros(FIRST_ROWS, COUNT)
        self._arena = np.empty(FIRST_ARENA, np.uint8)
        self._table = record(
            TABLE,
            rows=self._rows,
            num_rows=FIRST_ROWS,
            arena=self._arena,
            arena_size=FIRST_ARENA,
        )

    def __len__(self) -> int:
        return int(self._table["num_words"][0])

    def add_text(self, data: bytes, splitter: Splitter) -> None:
        """Add the pre-tokens of a text outside special tokens."""
        check_size(int(self._table["arena_used"][0]) + len(data))
        rules, text = TextRules.of(splitter), padded(data)
        ends = np.empty(len(data), dtype=np.int32)

        def count(start: int) -> int:
            return self._kernels.count_text(
                address_of(text),
                start,
                len(data),
                rules.classes,
                rules.pattern,
                rules.special,
                address_of(ends),
                address_of(self._table),
            )

        self._count_all(count, len(data))

    def add_words(self, words: WordCounts) -> None:
        """Add words that were counted elsewhere."""
        check_size(int(self._table["arena_used"][0]) + words.num_bytes)
        text = np.concatenate([words.data, np.zeros(PADDING, np.uint8)])
        starts, counts = words.starts.astype(np.int32), np.ascontiguousarray(words.counts)

        def count(first: int) -> int:
            return self._kernels.count_words(
                address_of(text),
                address_of(starts),
                address_of(counts),
                first,
                len(words),
                address_of(self._table),
            )

        self._count_all(count, len(words))

    def _count_all(self, count: Callable[[int], int], last: int) -> None:
        """Call count(done), which returns the new `done`, and make room until that is `last`."""
        done = 0
        while (done := count(done)) < last:
            self._make_room()

    def _make_room(self) -> None:
        """Enlarge the part of the table that is full."""
        table = self._table[0]
        if table["arena_needed"] > table["arena_size"]:
            arena = np.empty(2 * int(table["arena_needed"]), np.uint8)
            arena[: table["arena_used"]] = self._arena[: table["arena_used"]]
            self._arena = arena
            table["arena"], table["arena_size"] = address_of(arena), len(arena)
        else:
            rows = np.zeros(2 * len(self._rows), COUNT)
            self._kernels.copy_rows(
                address_of(self._rows), len(self._rows), address_of(rows), len(rows)
            )
            self._rows = rows
            table["rows"], table["num_rows"] = address_of(rows), len(rows)

    def words(self) -> WordCounts:
        """Return the words counted so far."""
        table = self._table[0]
        data = np.empty(int(table["num_bytes"]), np.uint8)
        starts = np.empty(len(self) + 1, np.int64)
        counts = np.empty(len(self), np.int64)
        self._kernels.list_words(
            address_of(self._table), address_of(data), address_of(starts), address_of(counts)
        )
        return WordCounts(data, starts, counts)
