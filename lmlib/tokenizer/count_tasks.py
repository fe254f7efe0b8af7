"""Tasks of workers that count pre-tokens: a part of a corpus, or a text that the worker opens."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from lmlib.tokenizer import engine
from lmlib.tokenizer.counting import WordCounter, WordCounts
from lmlib.tokenizer.parts import Part, counted_bytes, sampled_ranges, share_of_text, spread
from lmlib.tokenizer.paths import CorpusFile, CorpusText, read_range
from lmlib.tokenizer.reference import count_pre_tokens
from lmlib.tokenizer.splitting import FindCut, Splitter, file_chunks
from lmlib.tokenizer.workers import explained, map_in_order


class PlainCounter:
    """A `WordCounter` without kernels, for any pattern."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()

    def add_text(self, data: bytes, splitter: Splitter) -> None:
        """Add the pre-tokens of a text outside special tokens."""
        self._counts.update(count_pre_tokens(data, splitter))

    def add_words(self, words: WordCounts) -> None:
        """Add words that were counted elsewhere."""
        self._counts.update(words.to_dict())

    def words(self) -> WordCounts:
        """Return the words counted so far."""
        return WordCounts.from_dict(self._counts)


def new_counter(use_engine: bool) -> WordCounter | PlainCounter:
    """Return an empty table of pre-tokens."""
    return WordCounter() if use_engine else PlainCounter()


@dataclass(frozen=True)
class Counting:
    """How to count: with kernels or without, and how much of a file at a time."""

    splitter: Splitter
    use_engine: bool
    chunk_bytes: int

    @property
    def find_cut(self) -> FindCut:
        """Return the function that finds cuts."""
        if self.use_engine:
            return partial(engine.find_cut, self.splitter)
        return self.splitter.find_cut

    def ranges(self, file: CorpusFile, share: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of a file, or those of a sample of `share` bytes unless that is 0."""
        if share:
            return sampled_ranges(file, share, self.splitter, self.chunk_bytes, self.find_cut)
        return file_chunks(file, self.splitter, self.chunk_bytes, self.find_cut)


@dataclass(frozen=True)
class Counted:
    """The pre-tokens of a text, or of a sample of it.

    size       of the text, in bytes
    num_bytes  that were counted
    start      of the text
    """

    size: int
    num_bytes: int
    words: WordCounts
    start: bytes


@runtime_checkable
class StartKeeper(Protocol):
    """A `CorpusText` that wants its first bytes, wherever it is opened."""

    @property
    def start_bytes(self) -> int:
        """Return how many of them."""
        ...

    def keep_start(self, start: bytes) -> None:
        """Take these or more."""
        ...


def count_chunk(splitter: Splitter, use_engine: bool, part: Part) -> tuple[int, WordCounts]:
    """Return the number of bytes and the pre-tokens of one part of a corpus."""
    counter = new_counter(use_engine)
    data = part.read()
    counter.add_text(data, splitter)
    return len(data), counter.words()


def count_text(counting: Counting, text: CorpusText, share: int, start_bytes: int) -> Counted:
    """Open a text and return its pre-tokens, or those of a sample of `share` bytes unless 0."""
    counter = new_counter(counting.use_engine)
    num_bytes = 0
    with text.open() as file:
        for start, end in counting.ranges(file, share):
            counter.add_text(read_range(file, start, end), counting.splitter)
            num_bytes += end - start
        size = file.stat().st_size
        start = read_range(file, 0, min(start_bytes, size))
        return Counted(size, num_bytes, counter.words(), start)


def count_on(
    executor: Executor,
    counting: Counting,
    texts: Sequence[CorpusText],
    sample_bytes: int,
    num_workers: int,
) -> Iterator[tuple[int, WordCounts]]:
    """Yield numbers of bytes and their pre-tokens; workers open each text that is not in place.

    Texts in place are cut here, and read by workers part by part. A sample has the bytes that
    `corpus_ranges` gives it. How much of a text it takes depends on the sizes of those before,
    which are known once they are counted. Until then they are taken to be large enough, so that the
    next ones can begin; a text for which that was wrong is counted a second time.
    """
    order = list(spread(len(texts)) if sample_bytes else range(len(texts)))
    waiting: dict[int, tuple[int, Future[Counted]]] = {}  # by number: share and result

    def submit(number: int, share: int) -> Future[Counted]:
        text = texts[order[number]]
        start_bytes = text.start_bytes if isinstance(text, StartKeeper) else 0
        with explained():
            return executor.submit(count_text, counting, text, share, start_bytes)

    missing = sample_bytes
    try:
        for number, index in enumerate(order):
            if sample_bytes and missing <= 0:
                return
            expected = missing
            for later in range(number, min(number + 2 * num_workers, len(texts))):
                share = share_of_text(expected, later, len(texts)) if sample_bytes else 0
                if sample_bytes and expected <= 0:
                    break
                if later not in waiting and not texts[order[later]].is_in_place:
                    waiting[later] = share, submit(later, share)
                expected -= min(share, texts[order[later]].num_bytes or share)
            share = share_of_text(missing, number, len(texts)) if sample_bytes else 0
            if number in waiting:
                earlier, future = waiting.pop(number)
                with explained():
                    counted = future.result()
                if share != earlier and counted.size > min(share, earlier):
                    with explained():
                        counted = submit(number, share).result()
                if isinstance(text := texts[index], StartKeeper):
                    text.keep_start(counted.start)
                yield counted.num_bytes, counted.words
                missing -= counted_bytes(share, counted.size, counted.num_bytes)
                continue
            with texts[index].open() as file:
                tasks = (
                    (counting.splitter, counting.use_engine, Part(file, *ends))
                    for ends in counting.ranges(file, share)
                )
                taken = 0
                for result in map_in_order(executor, count_chunk, tasks, num_workers):
                    taken += result[0]
                    yield result
                missing -= counted_bytes(share, file.stat().st_size, taken)
    finally:
        for _, future in waiting.values():
            future.cancel()
