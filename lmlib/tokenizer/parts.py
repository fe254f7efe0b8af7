"""The parts of a corpus that workers take: all of its texts, or a sample of them.

A sample is about `sample_bytes` of the corpus, spread evenly over its texts and within each. Which
bytes it has depends on the texts, the splitter and `sample_bytes` alone.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from lmlib.threads import entered_ahead
from lmlib.tokenizer.paths import CorpusFile, CorpusText, read_range
from lmlib.tokenizer.splitting import FindCut, Splitter, file_chunks, file_cut

SAMPLED_TEXTS = 16  # a sample comes from this many texts, if they are large enough
PIECE_BYTES = 1 << 20  # of a sample, at most
PIECES = 16  # in a text, if they are not longer than that


@dataclass(frozen=True)
class Part:
    """A byte range of a file that stays, or the bytes of one that does not."""

    file: CorpusFile | None = None
    start: int = 0
    end: int = 0
    data: bytes = b""

    def read(self) -> bytes:
        """Return the bytes."""
        return self.data if self.file is None else read_range(self.file, self.start, self.end)


def corpus_ranges(
    texts: list[CorpusText],
    splitter: Splitter,
    chunk_bytes: int,
    find_cut: FindCut,
    sample_bytes: int,
) -> Generator[Part]:
    """Yield the parts of the texts, or of a sample unless `sample_bytes` is 0, cut safely.

    find_cut(data, first, last) returns an offset at which to cut a part of a file, or -1.
    """
    if sample_bytes:
        ranges = _sampled(texts, splitter, chunk_bytes, find_cut, sample_bytes)
    else:
        ranges = _all(texts, splitter, chunk_bytes, find_cut)
    for text, file, start, end in ranges:
        if text.is_in_place:
            yield Part(file, start, end)
        else:  # the file is removed before a worker can read it
            yield Part(data=read_range(file, start, end))


Range = tuple[CorpusText, CorpusFile, int, int]


def _all(
    texts: list[CorpusText], splitter: Splitter, chunk_bytes: int, find_cut: FindCut
) -> Iterator[Range]:
    with closing(entered_ahead(text.open() for text in texts)) as files:
        for text, file in zip(texts, files, strict=True):
            for start, end in file_chunks(file, splitter, chunk_bytes, find_cut):
                yield text, file, start, end


def _sampled(
    texts: list[CorpusText],
    splitter: Splitter,
    chunk_bytes: int,
    find_cut: FindCut,
    sample_bytes: int,
) -> Iterator[Range]:
    """Yield ranges of a sample: of each text its share of what is missing, while any is."""
    missing = sample_bytes
    for number, index in enumerate(spread(len(texts))):
        if missing <= 0:
            return
        text = texts[index]
        share = share_of_text(missing, number, len(texts))
        taken = 0
        with text.open() as file:
            for start, end in sampled_ranges(file, share, splitter, chunk_bytes, find_cut):
                taken += end - start
                yield text, file, start, end
            missing -= counted_bytes(share, file.stat().st_size, taken)


def share_of_text(missing: int, number: int, num_texts: int) -> int:
    """Return how many of the `missing` bytes come from the text with this number in the order."""
    return -(-missing // max(1, min(num_texts, SAMPLED_TEXTS) - number))


def counted_bytes(share: int, size: int, taken: int) -> int:
    """Return how many of the missing bytes a text of `size` bytes gave; `taken` were taken.

    The few bytes by which cuts miss the share do not count: so the share of the next text is known
    before this one is read. Where cuts are rare, as with patterns of one's own, all bytes do.
    """
    return taken if taken > 2 * share else min(share, size)


def sampled_ranges(
    file: CorpusFile, share: int, splitter: Splitter, chunk_bytes: int, find_cut: FindCut
) -> Iterator[tuple[int, int]]:
    """Yield ranges of about `share` bytes of a file together, or all of it if that is less."""
    size = file.stat().st_size
    if size <= share:
        return file_chunks(file, splitter, chunk_bytes, find_cut)
    return _pieces(file, size, share, splitter)


def _pieces(
    file: CorpusFile, size: int, num_bytes: int, splitter: Splitter
) -> Iterator[tuple[int, int]]:
    """Yield ranges of about `num_bytes` of a file together, at equal distances.

    The plain `find_cut`: the kernels may find other cuts, and a sample has the same bytes with and
    without them.
    """
    count = max(min(PIECES, num_bytes), -(-num_bytes // PIECE_BYTES))
    done = 0
    for number in range(count):
        first = number * size // count
        start, end = (
            file_cut(file, target, size, splitter.reach_bytes, splitter.find_cut) if target else 0
            for target in (first, first + num_bytes // count)
        )
        start = max(start, done)
        if start < end:
            yield start, end
            done = end


def spread(count: int) -> list[int]:
    """Return 0 to `count` - 1 in an order of which every beginning is spread evenly.

    The bits of the numbers are counted from the other end (van der Corput's sequence): 0 4 2 6 1 5
    3 7.
    """
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{n:0{bits}b}"[::-1], 2) for n in range(1 << bits))
    return [n for n in reversed_bits if n < count]
