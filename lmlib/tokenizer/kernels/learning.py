"""Learn merges from counted words.

reference.py has the same algorithm in plain Python: repeatedly turn the most frequent pair of
neighbouring tokens into a token; ties go to the greater pair of bytes. What makes it fast:

- Counts are updated, not recomputed. A merge makes no pairs except with the new token, so the count
  of any other pair can only fall: a pair too rare to be merged stays too rare.
- The changes of a merge are added up in one row for each neighbouring token, so that the table of
  pairs is looked up once for each distinct neighbour and not once for each place.
- A place in a word takes 8 bytes, next to its neighbours. This matters because the kernels spend
  more time waiting for memory, and for unpredictable branches, than computing.

Time is O(n log n) and memory O(n) for words of n bytes in total, be they one word or a million.

Places   A pair arises only when the younger of its tokens does, so its places are collected once,
         from left to right. A place can lose the pair, but never gets it back. There is one for
         each two neighbours at first, and each merge of two tokens makes two places at most: 3n
         are enough for n bytes.
Heap     It has the pairs that occur `level` times or more, each once; when it is empty, the level
         is halved. After its entry is made, the count of a pair only falls. So if the count of the
         first entry is still right, its pair is merged; if not, the entry is moved down, or removed
         until the level is low enough.
Rare     Pairs below `threshold` are not in the table. When the level has come down to it and the
         heap is empty, the threshold is lowered and the pairs in the words, as merged so far, are
         counted again.
"""

import numpy as np

from lmlib.native.compiling import kernel, part, view
from lmlib.tokenizer.kernels.records import (
    CELL,
    ENDED,
    ENTRY,
    NEEDS_ROOM,
    NEIGHBOUR,
    PAIR,
    REACHED,
    STATE,
    TOKEN,
)

EDGE = -1  # in place of a token, between two words

# The counts of successive merges never rise, and each merge shortens the text by its count, so the
# count of the last one is at most about length / merges. In real texts it is about a hundredth of
# that, so pairs rarer than a 128th of it are left out at first. If they are needed, the threshold
# is divided by EASIER.
RARE = 128
EASIER = 16

ZERO = np.int64(0)  # to Numba a plain 0 is a type of its own: one more version to compile
MOST = np.int64(1 << 62)  # more than any count
AFTER, BOTH = np.bool_(False), np.bool_(True)  # which neighbours: not a plain False, as above


# -- words


@part
def lay_out(data, starts, cells, tokens):
    """Write the words as bytes into the cells, and an offset of each byte value into the tokens."""
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
    """Sort the places of all tokens by token, stably; those of t begin at first[t].

    first    (tokens + 1,) int64, overwritten
    places   (at least the number of tokens in the cells,) int32, overwritten
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
    """Merge a pair wherever it still occurs; move these places to the front, return their number.

    `left` began at each of the places. If it was merged since, its cell has the longer token, or an
    edge if it became the right part, so it is enough to look at the cells of both tokens. They are
    read first, without a branch, so that the processor waits for many of them at once.
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
    """Count the neighbours of a token at the places; return the number of distinct ones.

    both    whether to count the tokens before it too, except itself: it is counted as the one after
    near    (2 * tokens,) NEIGHBOUR, zeros: row y for y after the token, tokens + x for x before it
    met     (2 * tokens + 1,) int64: receives the rows that are no longer zero
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
    """Write the places of the pairs that `enter_pairs` has entered, each at its cursor."""
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


# -- the table of pairs


@part
def find_slot(slots, pairs, left, right):
    """Return the slot of a pair, or the free slot where it belongs."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    slot = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (len(slots) - 1)
    while slots[slot]:
        pair = slots[slot] - 1
        if pairs[pair].left == left and pairs[pair].right == right:
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@kernel
def fill_slots(states):
    """Enter all pairs into the slots, which are zeros; return 0."""
    state = view(states, 1, STATE)[0]
    slots, pairs = view(state.slots, 2 * state.room, np.int32), view(state.pairs, state.room, PAIR)
    for pair in range(state.num_pairs):
        left, right = np.int64(pairs[pair].left), np.int64(pairs[pair].right)
        slots[find_slot(slots, pairs, left, right)] = pair + 1
    return ZERO


@part
def enter_pairs(state, slots, pairs, token, near, met, threshold, num_tokens):
    """Enter the frequent pairs of a token with its neighbours `met`; there is room for all.

    In `near` the number of places becomes a cursor into `places`, or -1 if the pair is too rare.
    """
    num_pairs, num_places = state.num_pairs, state.num_places
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
    state.num_pairs, state.num_places = num_pairs, num_places


@part
def lower_counts(slots, pairs, left, right, token, near, met, num_tokens):
    """Subtract from the pairs of `left` and `right` what is now counted for pairs of the token."""
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
    """Return whether an entry precedes another: it is more frequent, or its bytes are greater."""
    if entry.count != other.count:
        return entry.count > other.count
    pair, other_pair = pairs[entry.pair], pairs[other.pair]
    if pair.left != other_pair.left:
        return compare_tokens(tokens[pair.left], tokens[other_pair.left], data) > 0
    return compare_tokens(tokens[pair.right], tokens[other_pair.right], data) > 0


@part
def swap(heap, one, other):
    """Swap two entries."""
    heap[one].count, heap[other].count = heap[other].count, heap[one].count
    heap[one].pair, heap[other].pair = heap[other].pair, heap[one].pair


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
def push_pairs(heap, state, pairs, first, least, below, tokens, data):
    """Push the pairs with number >= `first` and least <= count < below."""
    size = state.heap_size
    for pair in range(first, state.num_pairs):
        if least <= pairs[pair].count < below:
            at = size
            heap[at].count, heap[at].pair = pairs[pair].count, pair
            while at and comes_first(heap[at], heap[(at - 1) // 2], pairs, tokens, data):
                swap(heap, at, (at - 1) // 2)
                at = (at - 1) // 2
            size += 1
    state.heap_size = size


# -- learning


@part
def count_byte_pairs(state, slots, pairs, data, starts, counts, places):
    """Enter the pairs of bytes, counted in a 256 x 256 table; there is room for all."""
    square = view(state.square, (256, 256), NEIGHBOUR)
    for word in range(len(counts)):
        for i in range(starts[word], starts[word + 1] - 1):
            square[data[i], data[i + 1]].count += counts[word]
            square[data[i], data[i + 1]].places += 1
    met = view(state.met, 256, np.int64)
    for left in range(256):
        num_met = ZERO
        for right in range(256):
            met[num_met] = right
            num_met += square[left, right].places > 0
        enter_pairs(
            state, slots, pairs, left, square[left], met[:num_met], state.threshold, len(square)
        )
    for word in range(len(counts)):
        for i in range(starts[word], starts[word + 1] - 1):
            cursor = square[data[i], data[i + 1]].places
            if cursor >= 0:
                places[cursor] = i + word + 1  # `word + 1` edges are before it
                square[data[i], data[i + 1]].places += 1


@part
def count_pairs(state, slots, pairs, cells, tokens, counts, threshold, near, met, places):
    """Rebuild the table from the words as they are now; return whether there was room.

    Pairs are counted by their left token, at the places of one token after the other.
    """
    num_tokens = 256 + state.learnt
    slots[:] = 0
    state.num_pairs = state.num_places = ZERO
    first = view(state.first, num_tokens + 1, np.int64)
    by_token = places[2 * len(places) // 3 :]  # a third that is not in use yet
    sort_places(cells, tokens, first, by_token)
    for token in range(num_tokens):
        here = by_token[first[token] : first[token + 1]]
        num_met = add_up_neighbours(cells, tokens, counts, here, token, AFTER, near, met)
        is_room = state.num_pairs + num_met <= len(pairs)
        if is_room:
            enter_pairs(state, slots, pairs, token, near, met[:num_met], threshold, len(tokens))
            collect_places(cells, tokens, here, token, AFTER, near, places)
        for row in met[:num_met]:
            near[row].count = near[row].places = 0
        if not is_room:
            return False
    return True


@kernel
def begin(states):
    """Prepare to learn: lay out the words and count the pairs of bytes; return 0."""
    state = view(states, 1, STATE)[0]
    starts = view(state.starts, state.num_words + 1, np.int64)
    counts = view(state.counts, state.num_words, np.int64)
    data = view(state.data, starts[state.num_words], np.uint8)
    places = view(state.places, state.num_places_in_all, np.int32)
    slots, pairs = view(state.slots, 2 * state.room, np.int32), view(state.pairs, state.room, PAIR)
    tokens = view(state.tokens, 256 + state.wanted, TOKEN)
    lay_out(data, starts, view(state.cells, state.num_cells, CELL), tokens)
    total = 0.0  # a float does not overflow
    for word in range(state.num_words):
        total += counts[word] * np.float64(starts[word + 1] - starts[word])
    state.threshold = max(1, np.int64(total / (RARE * max(1, state.wanted))))
    state.level = MOST
    state.num_pairs = state.num_places = state.heap_size = state.learnt = ZERO
    count_byte_pairs(state, slots, pairs, data, starts, counts, places)
    return ZERO


@kernel
def learn(states, until):
    """Learn merges until there are `until`; return REACHED, ENDED (no pair is left) or NEEDS_ROOM.

    After NEEDS_ROOM, enlarge `pairs`, `slots` and `heap`, call `fill_slots`, and call this again.
    """
    state = view(states, 1, STATE)[0]
    starts = view(state.starts, state.num_words + 1, np.int64)
    counts = view(state.counts, state.num_words, np.int64)
    data = view(state.data, starts[state.num_words], np.uint8)
    merges = view(state.merges, (state.wanted, 2), np.int32)
    cells = view(state.cells, state.num_cells, CELL)
    places = view(state.places, state.num_places_in_all, np.int32)
    tokens = view(state.tokens, 256 + state.wanted, TOKEN)
    near = view(state.near, 2 * len(tokens), NEIGHBOUR)
    met = view(state.met, 2 * len(tokens) + 1, np.int64)
    slots, pairs = view(state.slots, 2 * state.room, np.int32), view(state.pairs, state.room, PAIR)
    heap = view(state.heap, state.room, ENTRY)
    while state.learnt < until:
        if not state.heap_size:
            if state.level == state.threshold:
                if state.threshold == 1:
                    return np.int64(ENDED)
                lower = max(1, state.threshold // EASIER)
                if not count_pairs(
                    state, slots, pairs, cells, tokens, counts, lower, near, met, places
                ):
                    return np.int64(NEEDS_ROOM)
                state.threshold = lower
            below, state.level = state.level, max(state.level // 2, state.threshold)
            push_pairs(heap, state, pairs, ZERO, state.level, below, tokens, data)
            continue
        token = 256 + state.learnt
        if state.num_pairs + 2 * (token + 1) > state.room:  # a merge can make that many
            return np.int64(NEEDS_ROOM)

        best, count = heap[0].pair, heap[0].count
        now = pairs[best].count
        if state.level <= now < count:
            heap[0].count = now
        else:
            state.heap_size -= 1
            heap[0] = heap[state.heap_size]
        sift_down(heap, state.heap_size, pairs, tokens, data)
        if now < count:
            continue

        left, right = np.int64(pairs[best].left), np.int64(pairs[best].right)
        merges[state.learnt, 0], merges[state.learnt, 1] = left, right
        state.learnt += 1
        tokens[token].length = tokens[left].length + tokens[right].length
        here = places[pairs[best].first : pairs[best].stop]
        here = here[: merge_places(cells, tokens, here, left, right, token)]
        tokens[token].start = here[0] - cells[here[0]].word - 1

        num_met = add_up_neighbours(cells, tokens, counts, here, token, BOTH, near, met)
        lower_counts(slots, pairs, left, right, token, near, met[:num_met], len(tokens))
        pairs[best].count = 0

        num_pairs = state.num_pairs
        enter_pairs(state, slots, pairs, token, near, met[:num_met], state.threshold, len(tokens))
        if state.num_pairs > num_pairs:
            collect_places(cells, tokens, here, token, BOTH, near, places)
            push_pairs(heap, state, pairs, num_pairs, state.level, MOST, tokens, data)
        for row in met[:num_met]:
            near[row].count = near[row].places = 0
    return np.int64(REACHED)
