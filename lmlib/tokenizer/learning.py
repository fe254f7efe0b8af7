"""Learn merges from counted words: Numba kernels, compiled once and then read from the disk.

What is computed stands in reference.py: again and again the most frequent pair of neighbouring
tokens becomes a token; ties go to the greater pair of bytes. What makes it fast:

- Counts are updated, not recomputed. A merge makes no pairs but with the new token, so the count
  of any other pair can only fall: a pair too rare to be merged is too rare for good.
- What a merge changes is added up in one row for each neighbouring token, so that the table of
  pairs is asked once for each distinct neighbour and not once for each place.
- A place in a word is 8 bytes and has its neighbours beside it. The kernels wait for memory, and
  for branches that cannot be foreseen, longer than they compute.

Time is n log n and memory linear in the bytes of the words, be it one word or a million.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

# One cell for each byte of the words, and an edge before, between and after the words. A token
# stands in the cell of its first byte and in that of its last; the cells between are not read.
CELL = np.dtype([("token", np.int32), ("word", np.int32)])
EDGE = -1

# Where in `data` the bytes of a token are found
TOKEN = np.dtype([("start", np.int32), ("length", np.int32)])

# A pair, how often it occurs, and the range in `places` with the cells of `left` where it was seen
PAIR = np.dtype(
    [
        *[("left", np.int32), ("right", np.int32), ("count", np.int64)],
        *[("first", np.int64), ("stop", np.int64)],
    ]
)

# What is added up for one neighbour: occurrences in the text, and places in the distinct words
NEIGHBOUR = np.dtype([("count", np.int64), ("places", np.int64)])

# In the heap: a pair, and the count that it had at the time
ENTRY = np.dtype([("count", np.int64), ("pair", np.int64)])

# The counts of the merges never rise, and each merge takes its count from the length of the text:
# the last one counts about length / merges at most. In texts it is some hundredth of that, so pairs
# rarer than a 128th are left out at first; if they are needed, those above a 16th of it join.
RARE = 128
EASIER = 16

ZERO = np.int64(0)  # a plain 0 is a type of its own to Numba: one more version to compile
MOST = np.int64(1 << 62)  # more than any count
AFTER, BOTH = np.bool_(False), np.bool_(True)  # which neighbours: likewise not a plain False

kernel = njit(nogil=True, cache=True, error_model="numpy")
# What `learn` is made of: to be callable from Python too would take longer to compile.
INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**INNER, nogil=True, error_model="numpy")


def learn_merges(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    merges: NDArray[np.int32],
    progress: NDArray[np.int64],
) -> int:
    """Learn merges from distinct words; return how many there were.

    data      (bytes,) uint8, read-only: the words, one after the other
    starts    (words + 1,) int64: where each begins in `data`, and the end
    counts    (words,) int64: how often each occurs, at least once, less than 2**62 in all
    merges    (wanted, 2) int32, filled with pairs of ids; merge k makes id 256 + k
    progress  (2,) int64: [0] tells other threads how many are learnt, [1] = 1 stops

    Raises ValueError when bytes and words together are more than 2**31 - 2.
    """
    num_cells = len(data) + len(starts)
    if num_cells >= 1 << 31:  # places are int32
        raise ValueError(
            f"the distinct words have {len(data)} bytes in {len(counts)} words; together the limit "
            "is 2**31 - 2: train on a part of the corpus."
        )
    # NumPy asks for huge pages, Numba does not: to touch memory anew is a fifth of the time then.
    cells = np.empty(num_cells, CELL)
    places = np.empty(3 * len(data), np.int32)  # as many as can be, see `learn`
    return learn(data, starts, counts, merges, progress, cells, places)


# -- words


@part
def lay_out(data, starts, cells, tokens):
    """Write the words as bytes into the cells, and where each byte is found into the tokens."""
    at = 0
    for word in range(len(starts) - 1):
        cells[at].token = EDGE
        at += 1
        for i in range(starts[word], starts[word + 1]):
            cells[at].token, cells[at].word = data[i], word
            tokens[data[i]].start, tokens[data[i]].length = i, 1
            at += 1
    cells[at].token = EDGE


@part
def sort_places(cells, tokens, first, places):
    """Sort the places of all tokens by token, in order; those of t begin at first[t].

    first   (tokens + 1,) int64, overwritten;  places: (at least as many as tokens in cells,) int32
    """
    for token in range(len(first)):
        first[token] = 0
    for fill in range(2):  # count, then fill
        i = 1
        while i < len(cells):
            token = cells[i].token
            if token == EDGE:
                i += 1
                continue
            if fill:
                places[first[token]] = i
            first[token] += 1
            i += tokens[token].length
        start = ZERO
        for token in range(len(first)):
            end = first[token] if fill else start + first[token]
            first[token] = start
            start = end


@part
def merge_places(cells, tokens, places, left, right, token):
    """Merge a pair wherever it still stands; return how many such places are now in front.

    `left` began at each of the places. If it became a part of a longer token, that one stands in
    its cell, or an edge where it became the right part, so the two cells tell. They are read first,
    without a branch, so that the processor waits for many of them at once.
    """
    left_length = np.int64(tokens[left].length)
    length = np.int64(tokens[token].length)
    found = 0
    for k in range(len(places)):
        i = np.int64(places[k])
        places[found] = i
        found += (cells[i].token == left) & (cells[i + left_length].token == right)
    merged = 0
    for k in range(found):
        i = np.int64(places[k])
        if left == right and (cells[i].token != left or cells[i + left_length].token != right):
            continue  # in "aaa" the second "aa" is gone
        cells[i + left_length].token = EDGE
        cells[i].token = token
        cells[i + length - 1].token = token
        places[merged] = i
        merged += 1
    return merged


@part
def add_up_neighbours(cells, tokens, counts, places, token, both, near, met):
    """Count the neighbours of a token at the places; return how many distinct ones it met.

    both    whether to count the tokens before it too, save the token itself: that is counted after
    near    (2 * tokens,) NEIGHBOUR, zeros: row y for y after the token, tokens + x for x before it
    met     (2 * tokens + 1,) int64: filled with the rows that are no longer zero
    """
    length = np.int64(tokens[token].length)
    num_met = 0
    for place in places:
        i = np.int64(place)
        count = counts[cells[i].word]
        after = np.int64(cells[i + length].token)
        if after != EDGE:
            met[num_met] = after
            num_met += near[after].places == 0
            near[after].places += 1
            near[after].count += count
        before = np.int64(cells[i - 1].token)
        if both and before != EDGE and before != token:
            row = before + len(tokens)
            met[num_met] = row
            num_met += near[row].places == 0
            near[row].places += 1
            near[row].count += count
    return num_met


@part
def collect_places(cells, tokens, places, token, both, near, collected):
    """Write down the places of the pairs that `enter_pairs` has taken, each at its cursor."""
    length = np.int64(tokens[token].length)
    for place in places:
        i = np.int64(place)
        after = np.int64(cells[i + length].token)
        if after != EDGE and near[after].places >= 0:
            collected[near[after].places] = i
            near[after].places += 1
        before = np.int64(cells[i - 1].token)
        if both and before != EDGE and before != token:
            row = before + len(tokens)
            if near[row].places >= 0:
                collected[near[row].places] = i - tokens[before].length
                near[row].places += 1


# -- the table of pairs: (slots, pairs, number of pairs, number of places)
# slots   (n,) int32, found by hash: pair + 1, or 0 where free;  pairs: (n / 2,) PAIR


@part
def find_slot(slots, pairs, left, right):
    """Return the slot of a pair, or the free one where it belongs."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    slot = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (len(slots) - 1)
    while slots[slot]:
        pair = slots[slot] - 1
        if pairs[pair].left == left and pairs[pair].right == right:
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@part
def make_table(pairs, num_pairs, num_places, room):
    """Return a table of the pairs there are, with space for `room` of them or more."""
    size = 1 << 12
    while size < room:
        size *= 2
    slots = np.zeros(2 * size, np.int32)
    larger: Any = np.empty(size, PAIR)
    for pair in range(num_pairs):
        larger[pair] = pairs[pair]
        left, right = np.int64(pairs[pair].left), np.int64(pairs[pair].right)
        slots[find_slot(slots, larger, left, right)] = pair + 1
    return slots, larger, num_pairs, num_places


@part
def enter_pairs(table, token, near, met, threshold, num_tokens):
    """Enter the frequent pairs of a token and the neighbours it met; return the larger table.

    In `near` the number of places becomes a cursor into `places`, or -1 where the pair is too rare.
    """
    slots, pairs, num_pairs, num_places = table
    if num_pairs + len(met) > len(pairs):
        slots, pairs, _, _ = make_table(pairs, num_pairs, num_places, num_pairs + len(met))
    for row in met:
        number = near[row].places
        near[row].places = -1
        if near[row].count >= threshold:
            left, right = (token, row) if row < num_tokens else (row - num_tokens, token)
            near[row].places = num_places
            pairs[num_pairs].left, pairs[num_pairs].right = left, right
            pairs[num_pairs].count = near[row].count
            pairs[num_pairs].first, pairs[num_pairs].stop = num_places, num_places + number
            slots[find_slot(slots, pairs, left, right)] = num_pairs + 1
            num_pairs += 1
            num_places += number
    return slots, pairs, num_pairs, num_places


@part
def lower_counts(slots, pairs, left, right, token, near, met, num_tokens):
    """Take from the pairs of `left` and `right` what their neighbours now have with the token."""
    for row in met:
        if row >= num_tokens:  # (x, left) became (x, token)
            slot = find_slot(slots, pairs, row - num_tokens, left)
        elif row == token:  # (right, left) became (token, token)
            slot = find_slot(slots, pairs, right, left)
        else:  # (right, y) became (token, y)
            slot = find_slot(slots, pairs, right, row)
        if slots[slot]:
            pairs[slots[slot] - 1].count -= near[row].count


# -- the heap of pairs


@part
def compare_tokens(token, other, data):
    """Return the sign of comparing the bytes of two tokens."""
    for k in range(min(token.length, other.length)):
        difference = np.int64(data[token.start + k]) - np.int64(data[other.start + k])
        if difference:
            return difference
    return np.int64(token.length) - np.int64(other.length)


@part
def comes_first(entry, other, pairs, tokens, data):
    """Tell whether an entry is merged before another: more frequent, or greater in bytes."""
    if entry.count != other.count:
        return entry.count > other.count
    pair, other_pair = pairs[entry.pair], pairs[other.pair]
    if pair.left != other_pair.left:
        return compare_tokens(tokens[pair.left], tokens[other_pair.left], data) > 0
    return compare_tokens(tokens[pair.right], tokens[other_pair.right], data) > 0


@part
def swap(heap, at, other):
    """Swap two entries."""
    heap[at].count, heap[other].count = heap[other].count, heap[at].count
    heap[at].pair, heap[other].pair = heap[other].pair, heap[at].pair


@part
def sift_down(heap, size, pairs, tokens, data):
    """Move the first entry down to its place."""
    at, child = ZERO, ZERO + 1
    while child < size:
        if child + 1 < size and comes_first(heap[child + 1], heap[child], pairs, tokens, data):
            child += 1
        if not comes_first(heap[child], heap[at], pairs, tokens, data):
            break
        swap(heap, at, child)
        at, child = child, 2 * child + 1


@part
def push_pairs(heap, size, table, first, least, below, tokens, data):
    """Push the pairs from `first` on with least <= count < below; return (heap, its size)."""
    _, pairs, stop, _ = table
    for pair in range(first, stop):
        if least <= pairs[pair].count < below:
            if size == len(heap):
                larger: Any = np.empty(2 * size, ENTRY)
                for k in range(size):
                    larger[k] = heap[k]
                heap = larger
            at = size
            heap[at].count, heap[at].pair = pairs[pair].count, pair
            while at and comes_first(heap[at], heap[(at - 1) // 2], pairs, tokens, data):
                swap(heap, at, (at - 1) // 2)
                at = (at - 1) // 2
            size += 1
    return heap, size


# -- the whole


@part
def count_byte_pairs(data, starts, counts, threshold, places):
    """Return the table of the pairs of bytes, counted in a square."""
    square: Any = np.zeros((256, 256), NEIGHBOUR)
    for word in range(len(counts)):
        for i in range(starts[word], starts[word + 1] - 1):
            square[data[i], data[i + 1]].count += counts[word]
            square[data[i], data[i + 1]].places += 1
    table = make_table(np.empty(0, PAIR), ZERO, ZERO, ZERO)
    met = np.empty(256, np.int64)
    for left in range(256):
        num_met = 0
        for right in range(256):
            met[num_met] = right
            num_met += square[left, right].places > 0
        table = enter_pairs(table, left, square[left], met[:num_met], threshold, len(square))
    for word in range(len(counts)):
        for i in range(starts[word], starts[word + 1] - 1):
            cursor = square[data[i], data[i + 1]].places
            if cursor >= 0:
                places[cursor] = i + word + 1  # so many edges stand before it
                square[data[i], data[i + 1]].places += 1
    return table


@part
def count_pairs(cells, tokens, num_tokens, counts, threshold, near, met, places):
    """Return the table of the pairs in the words as they are now.

    The pairs that begin with a token are counted at its places, for one token after the other.
    """
    table = make_table(np.empty(0, PAIR), ZERO, ZERO, ZERO)
    first = np.empty(num_tokens + 1, np.int64)
    by_token = places[2 * len(places) // 3 :]  # a third that is not in use yet
    sort_places(cells, tokens, first, by_token)
    for token in range(num_tokens):
        here = by_token[first[token] : first[token + 1]]
        num_met = add_up_neighbours(cells, tokens, counts, here, token, AFTER, near, met)
        table = enter_pairs(table, token, near, met[:num_met], threshold, len(tokens))
        collect_places(cells, tokens, here, token, AFTER, near, places)
        for row in met[:num_met]:
            near[row].count = near[row].places = 0
    return table


@kernel
def learn(data, starts, counts, merges, progress, cells, places):
    """Do what `learn_merges` says, with cells and places to work in.

    Places   A pair arises only when the younger of its tokens does, so its places are collected
             once, from left to right. A place can lose the pair, but never gets it back. There is
             one for each two neighbours at first, and each merge of two tokens makes two places
             at most: 3n are enough for n bytes.
    Heap     It holds the pairs that occur `level` times or more; when it is empty, the level is
             halved. A count only falls once its entry is made. So if the count of the first entry
             is still right, its pair is merged; if not, the entry is moved down, or left out
             until the level is as low.
    Rare     Pairs below `threshold` are not in the table. When the level is down there and the
             heap empty, the threshold is lowered and the words, as they are then, counted anew.
    """
    wanted = len(merges)
    tokens: Any = np.zeros(256 + wanted, TOKEN)
    lay_out(data, starts, cells, tokens)
    near: Any = np.zeros(2 * len(tokens), NEIGHBOUR)
    met = np.empty(len(near) + 1, np.int64)
    total = 0.0  # a float does not overflow
    for word in range(len(counts)):
        total += counts[word] * np.float64(starts[word + 1] - starts[word])
    threshold = max(1, np.int64(total / (RARE * max(1, wanted))))
    level = MOST
    heap, heap_size = np.empty(1 << 10, ENTRY), ZERO
    table = count_byte_pairs(data, starts, counts, threshold, places)
    learnt = 0
    while learnt < wanted and not progress[1]:
        slots, pairs, num_pairs, _ = table
        if not heap_size:
            if level == threshold:
                if threshold == 1:
                    break
                threshold = max(1, threshold // EASIER)
                table = count_pairs(
                    cells, tokens, 256 + learnt, counts, threshold, near, met, places
                )
            below, level = level, max(level // 2, threshold)
            heap, heap_size = push_pairs(heap, ZERO, table, ZERO, level, below, tokens, data)
            continue

        best, count = heap[0].pair, heap[0].count
        now = pairs[best].count
        if level <= now < count:
            heap[0].count = now
        else:
            heap_size -= 1
            heap[0] = heap[heap_size]
        sift_down(heap, heap_size, pairs, tokens, data)
        if now < count:
            continue

        token, left, right = 256 + learnt, np.int64(pairs[best].left), np.int64(pairs[best].right)
        merges[learnt, 0], merges[learnt, 1] = left, right
        learnt += 1
        progress[0] = learnt
        tokens[token].length = tokens[left].length + tokens[right].length
        here = places[pairs[best].first : pairs[best].stop]
        here = here[: merge_places(cells, tokens, here, left, right, token)]
        tokens[token].start = here[0] - cells[here[0]].word - 1

        num_met = add_up_neighbours(cells, tokens, counts, here, token, BOTH, near, met)
        lower_counts(slots, pairs, left, right, token, near, met[:num_met], len(tokens))
        pairs[best].count = 0

        table = enter_pairs(table, token, near, met[:num_met], threshold, len(tokens))
        if table[2] > num_pairs:
            collect_places(cells, tokens, here, token, BOTH, near, places)
            heap, heap_size = push_pairs(
                heap, heap_size, table, num_pairs, level, MOST, tokens, data
            )
        for row in met[:num_met]:
            near[row].count = near[row].places = 0
    return learnt
