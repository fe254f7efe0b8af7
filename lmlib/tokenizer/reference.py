"""Byte-level BPE in plain Python: the reference that the fast kernels must agree with.

Source: Sennrich, Haddow & Birch 2016, arXiv:1508.07909, over bytes as in Radford et al. 2019.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise

import regex

from lmlib.tokenizer.characters import for_regex
from lmlib.tokenizer.patterns import PATTERNS, find_pattern
from lmlib.tokenizer.splitting import Splitter

Pair = tuple[bytes, bytes]


@lru_cache(maxsize=32)
def compile_pattern(pattern: str) -> "regex.Pattern[str]":
    """Return the compiled expression of a named or custom pattern."""
    return regex.compile(find_pattern(pattern).split)


def pre_tokens(text: str, pattern: str) -> Iterator[str]:
    """Yield the pre-tokens of a text without special tokens; joined, they are the text.

    Text that a custom pattern does not match becomes a pre-token too, so that nothing is lost.
    """
    start = 0
    searched = for_regex(text) if pattern in PATTERNS else text
    for match in compile_pattern(pattern).finditer(searched):
        first, end = match.span()
        if start < first:
            yield text[start:first]
        if first < end:
            yield text[first:end]
        start = end
    if start < len(text):
        yield text[start:]


def count_pre_tokens(data: bytes, splitter: Splitter) -> Counter[bytes]:
    """Return how often each pre-token occurs outside special tokens."""
    counts: Counter[str] = Counter()
    for piece, is_special in splitter.parts(data.decode("utf-8", "surrogateescape")):
        if not is_special:
            counts.update(pre_tokens(piece, splitter.pattern))
    return Counter({w.encode("utf-8", "surrogateescape"): n for w, n in counts.items()})


class _Candidate:
    """A pair in the heap; more frequent pairs come first, ties go to the greater pair of bytes."""

    __slots__ = ("count", "pair")

    def __init__(self, count: int, pair: Pair) -> None:
        self.count = count
        self.pair = pair

    def __lt__(self, other: "_Candidate") -> bool:
        return (self.count, self.pair) > (other.count, other.pair)


def learn_merges(
    word_counts: Mapping[bytes, int],
    num_merges: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[Pair]:
    """Return the merges in the order learnt; fewer than `num_merges` if no pair is left.

    Counts are updated, not recomputed: only words with the merged pair are touched. The heap is
    lazy: an entry whose count has changed is pushed again, with the new count, when it is popped.
    """
    words = [[bytes([byte]) for byte in word] for word in word_counts]
    word_count = list(word_counts.values())
    pair_count: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_count[pair] += word_count[index]
            words_with[pair].add(index)
    heap = [_Candidate(count, pair) for pair, count in pair_count.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        best = heapq.heappop(heap)
        count = pair_count[best.pair]
        if count != best.count:
            if count > 0:
                heapq.heappush(heap, _Candidate(count, best.pair))
            continue
        merges.append(best.pair)
        touched: set[Pair] = set()
        for index in words_with.pop(best.pair):
            word = words[index]
            for pair in pairwise(word):
                pair_count[pair] -= word_count[index]
            word = words[index] = merge_pair(word, best.pair)
            for pair in pairwise(word):
                pair_count[pair] += word_count[index]
                words_with[pair].add(index)
                touched.add(pair)
        # Only pairs with the new token can be new; the count of any other can only have fallen.
        token = best.pair[0] + best.pair[1]
        for pair in touched:
            if token in pair:
                heapq.heappush(heap, _Candidate(pair_count[pair], pair))
        if on_progress:
            on_progress(len(merges))
    return merges


def merge_pair(word: list[bytes], pair: Pair) -> list[bytes]:
    """Return the word with every occurrence of the pair joined, from left to right."""
    merged: list[bytes] = []
    at = 0
    while at < len(word):
        if at + 1 < len(word) and (word[at], word[at + 1]) == pair:
            merged.append(word[at] + word[at + 1])
            at += 2
        else:
            merged.append(word[at])
            at += 1
    return merged


MergeTable = Mapping[tuple[int, int], tuple[int, int]]  # (left id, right id) -> (rank, merged id)


def apply_merges(ids: list[int], merges: MergeTable) -> list[int]:
    """Return the ids after repeatedly merging the leftmost pair of lowest rank."""
    ids = list(ids)
    while True:
        ranked = [(merges[pair], at) for at, pair in enumerate(pairwise(ids)) if pair in merges]
        if not ranked:
            return ids
        (_, merged), at = min(ranked)
        ids[at : at + 2] = [merged]


def apply_merges_long(ids: list[int], merges: MergeTable) -> list[int]:
    """Return the same as `apply_merges` in O(n log n), with a heap of pairs over a linked list."""
    ids = list(ids)
    before = list(range(-1, len(ids) - 1))
    after = [*range(1, len(ids)), -1]
    heap: list[tuple[int, int, int, int, int]] = []  # rank, place, left, right, merged

    def push(at: int) -> None:
        if at >= 0 and after[at] >= 0:
            pair = ids[at], ids[after[at]]
            if pair in merges:
                rank, merged = merges[pair]
                heapq.heappush(heap, (rank, at, *pair, merged))

    for at in range(len(ids)):
        push(at)
    while heap:
        _, at, left, right, merged = heapq.heappop(heap)
        following = after[at]
        if ids[at] != left or following < 0 or ids[following] != right:
            continue  # a neighbour was merged in the meantime
        ids[at], ids[following] = merged, -1
        after[at] = after[following]
        if after[at] >= 0:
            before[after[at]] = at
        push(before[at])
        push(at)
    return [token for token in ids if token >= 0]
