"""Numba kernels of byte-level BPE: split, count, learn, encode. No Python object per token.

They hold no lock (`nogil`), so that threads use every core, and are compiled at the first call
and then read from the disk (`cache`). What they compute is written plainly in reference.py. Arrays
are copied by loops: assigning one slice to another takes seconds more to compile.
"""

import numpy as np
from numba import njit

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3  # the classes of characters that patterns know
GPT2, CL100K, WHOLE = 0, 1, 2  # how to split a segment; WHOLE: not at all

NO_MERGE = (1 << 63) - 1  # greater than every (rank << 32 | merged id)
SHORT = 64  # pre-tokens up to this many bytes are merged in a small array, longer ones by a heap
LOW_32 = 0xFFFFFFFF

kernel = njit(nogil=True, cache=True, error_model="numpy")


# -- splitting


@kernel
def char_at(data, i, stop, classes):
    """Return (class, width in bytes) of the character at i; a byte that is no UTF-8 is OTHER."""
    b = data[i]
    if b < 0x80:
        return classes[b], 1
    left = stop - i
    if 0xC2 <= b <= 0xDF and left > 1:
        c = data[i + 1]
        if c & 0xC0 == 0x80:
            return classes[(np.int64(b) & 0x1F) << 6 | c & 0x3F], 2
    elif 0xE0 <= b <= 0xEF and left > 2:
        c, d = data[i + 1], data[i + 2]
        # E0 80..9F would be overlong, ED A0..BF are the surrogates
        if (
            c & 0xC0 == 0x80
            and d & 0xC0 == 0x80
            and not (b == 0xE0 and c < 0xA0)
            and not (b == 0xED and c > 0x9F)
        ):
            return classes[(np.int64(b) & 0x0F) << 12 | (np.int64(c) & 0x3F) << 6 | d & 0x3F], 3
    elif 0xF0 <= b <= 0xF4 and left > 3:
        c, d, e = data[i + 1], data[i + 2], data[i + 3]
        # F0 80..8F would be overlong, F4 90..BF lies beyond U+10FFFF
        if (
            c & 0xC0 == 0x80
            and d & 0xC0 == 0x80
            and e & 0xC0 == 0x80
            and not (b == 0xF0 and c < 0x90)
            and not (b == 0xF4 and c > 0x8F)
        ):
            high = (np.int64(b) & 0x07) << 18 | (np.int64(c) & 0x3F) << 12
            return classes[high | (np.int64(d) & 0x3F) << 6 | e & 0x3F], 4
    return classes[0], 1  # U+0000 is OTHER


@kernel
def run_end(data, i, stop, classes, wanted):
    """Return where the run of characters of one class ends that goes on at i."""
    while i < stop:
        found, width = char_at(data, i, stop, classes)
        if found != wanted:
            break
        i += width
    return i


@kernel
def spaces_end(data, i, stop, classes):
    r"""Return the end of `\s+(?!\S)|\s+` at white space i: all of it but one before other text."""
    last = i
    j = i
    while j < stop:
        found, width = char_at(data, j, stop, classes)
        if found != SPACE:
            return last if last > i else j
        last = j
        j += width
    return stop


@kernel
def contraction_end(data, i, stop, ignore_case):
    """Return the end of 's 'd 'm 't 'll 've 're at apostrophe i, or i when there is none."""
    fold = 0x20 if ignore_case else 0
    if i + 1 < stop:
        c = data[i + 1] | fold
        if c == 0x73 or c == 0x64 or c == 0x6D or c == 0x74:
            return i + 2
        if i + 2 < stop:
            d = data[i + 2] | fold
            if (c == 0x6C and d == 0x6C) or (c == 0x76 and d == 0x65) or (c == 0x72 and d == 0x65):
                return i + 3
            # U+017F, the long s, is an s to whoever ignores case
            if ignore_case and data[i + 1] == 0xC5 and data[i + 2] == 0xBF:
                return i + 3
    return i


@kernel
def gpt2_end(data, i, stop, classes):
    """Return the end of the pre-token of the GPT-2 pattern that begins at i."""
    if data[i] == 0x27:
        end = contraction_end(data, i, stop, False)
        if end > i:
            return end
    found, width = char_at(data, i, stop, classes)
    if found != SPACE:
        return run_end(data, i + width, stop, classes, found)
    if data[i] == 0x20 and i + 1 < stop:
        after, width = char_at(data, i + 1, stop, classes)
        if after != SPACE:
            return run_end(data, i + 1 + width, stop, classes, after)
    return spaces_end(data, i, stop, classes)


@kernel
def cl100k_end(data, i, stop, classes):
    """Return the end of the pre-token of the cl100k pattern that begins at i."""
    b = data[i]
    if b == 0x27:
        end = contraction_end(data, i, stop, True)
        if end > i:
            return end
    found, width = char_at(data, i, stop, classes)
    j = i + width
    if found == LETTER:
        return run_end(data, j, stop, classes, LETTER)
    after, after_width = OTHER, 0
    if j < stop:
        after, after_width = char_at(data, j, stop, classes)
    if found == NUMBER:
        digits = 1
        while digits < 3 and j < stop:
            after, after_width = char_at(data, j, stop, classes)
            if after != NUMBER:
                break
            j += after_width
            digits += 1
        return j
    if after_width and after == LETTER and b != 0x0A and b != 0x0D:
        return run_end(data, j + after_width, stop, classes, LETTER)
    if found == OTHER or (b == 0x20 and after_width and after == OTHER):
        j = run_end(data, j, stop, classes, OTHER)
        while j < stop and (data[j] == 0x0A or data[j] == 0x0D):
            j += 1
        return j
    end = run_end(data, j, stop, classes, SPACE)
    if end == stop:
        return stop
    for k in range(end - 1, i - 1, -1):
        if data[k] == 0x0A or data[k] == 0x0D:
            return k + 1
    return spaces_end(data, i, stop, classes)


@kernel
def pre_token_end(data, i, stop, classes, pattern):
    """Return the end of the pre-token that begins at i < stop."""
    if pattern == GPT2:
        return gpt2_end(data, i, stop, classes)
    if pattern == CL100K:
        return cl100k_end(data, i, stop, classes)
    return stop


# -- hashing


@kernel
def hash_bytes(data, start, end):
    """Return a 64-bit hash (FNV-1a, then mixed so that the low bits depend on all)."""
    h = np.uint64(0xCBF29CE484222325)
    for i in range(start, end):
        h = (h ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


@kernel
def equal_bytes(data, start, other, other_start, length):
    """Tell whether two stretches of bytes are the same."""
    for k in range(length):  # noqa: SIM110 - Numba has no generators in `all`
        if data[start + k] != other[other_start + k]:
            return False
    return True


@kernel
def pair_hash(left, right):
    """Return a hash of two token ids; its high half is the better one, shifted down."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    return np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32))


@kernel
def grown(array, needed):
    """Return the array with room for `needed` items, at least doubled when it must grow."""
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, 2 * len(array)), array.dtype)
    for k in range(len(array)):
        larger[k] = array[k]
    return larger


# -- counting


@kernel
def count_words(data, segments, weights, classes, pattern):
    """Count the pre-tokens of `data` in the segments.

    data      (bytes,) uint8
    segments  (n, 2) int64, start and end of each stretch of text between special tokens
    weights   (n,) int64, what one occurrence in the segment counts
    Returns   (arena, starts, counts): the distinct words one after the other, as in WordCounts.
    """
    slots = np.zeros(1 << 12, np.int32)  # word number + 1, or 0 where free
    hashes = np.empty(1 << 11, np.uint64)
    starts = np.zeros((1 << 11) + 1, np.int64)
    counts = np.empty(1 << 11, np.int64)
    arena = np.empty(1 << 14, np.uint8)
    num_words = 0
    for segment in range(len(segments)):
        i, stop = segments[segment, 0], segments[segment, 1]
        while i < stop:
            end = pre_token_end(data, i, stop, classes, pattern)
            length = end - i
            h = hash_bytes(data, i, end)
            slot = np.int64(h) & (len(slots) - 1)
            while slots[slot]:
                word = slots[slot] - 1
                if (
                    hashes[word] == h
                    and starts[word + 1] - starts[word] == length
                    and equal_bytes(data, i, arena, starts[word], length)
                ):
                    break
                slot = (slot + 1) & (len(slots) - 1)
            if slots[slot]:
                counts[slots[slot] - 1] += weights[segment]
            else:
                used = starts[num_words]
                arena = grown(arena, used + length)
                for k in range(length):
                    arena[used + k] = data[i + k]
                starts = grown(starts, num_words + 2)
                starts[num_words + 1] = used + length
                hashes = grown(hashes, num_words + 1)
                hashes[num_words] = h
                counts = grown(counts, num_words + 1)
                counts[num_words] = weights[segment]
                num_words += 1
                slots[slot] = num_words
                if 2 * num_words > len(slots):
                    slots = np.zeros(2 * len(slots), np.int32)
                    for word in range(num_words):
                        slot = np.int64(hashes[word]) & (len(slots) - 1)
                        while slots[slot]:
                            slot = (slot + 1) & (len(slots) - 1)
                        slots[slot] = word + 1
            i = end
    return arena[: starts[num_words]], starts[: num_words + 1], counts[:num_words]


# -- learning


@kernel
def compare_tokens(token, other, token_data, token_starts):
    """Return the sign of comparing the bytes of two tokens."""
    start, other_start = token_starts[token], token_starts[other]
    length = token_starts[token + 1] - start
    other_length = token_starts[other + 1] - other_start
    for k in range(min(length, other_length)):
        difference = np.int64(token_data[start + k]) - np.int64(token_data[other_start + k])
        if difference:
            return difference
    return length - other_length


@kernel
def comes_first(count, pair, other_count, other, pairs, token_data, token_starts):
    """Tell whether a pair is merged before another: more frequent, or greater in bytes."""
    if count != other_count:
        return count > other_count
    if pairs[pair, 0] != pairs[other, 0]:
        return compare_tokens(pairs[pair, 0], pairs[other, 0], token_data, token_starts) > 0
    return compare_tokens(pairs[pair, 1], pairs[other, 1], token_data, token_starts) > 0


@kernel
def sift_down(heap, at, size, pairs, token_data, token_starts):
    """Move the heap entry at `at` down to its place. Heap: (n, 2) int64 of count and pair."""
    count, pair = heap[at, 0], heap[at, 1]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and comes_first(
            heap[child + 1, 0],
            heap[child + 1, 1],
            heap[child, 0],
            heap[child, 1],
            pairs,
            token_data,
            token_starts,
        ):
            child += 1
        if not comes_first(
            heap[child, 0], heap[child, 1], count, pair, pairs, token_data, token_starts
        ):
            break
        heap[at, 0], heap[at, 1] = heap[child, 0], heap[child, 1]
        at = child
    heap[at, 0], heap[at, 1] = count, pair


@kernel
def push_pair(heap, size, count, pair, pairs, token_data, token_starts):
    """Add an entry to a heap that has room for it."""
    at = size
    while at:
        parent = (at - 1) // 2
        if not comes_first(
            count, pair, heap[parent, 0], heap[parent, 1], pairs, token_data, token_starts
        ):
            break
        heap[at, 0], heap[at, 1] = heap[parent, 0], heap[parent, 1]
        at = parent
    heap[at, 0], heap[at, 1] = count, pair


@kernel
def find_pair(slots, pairs, left, right):
    """Return the number of a pair, or -1 - slot with the free slot where it belongs."""
    slot = pair_hash(left, right) & (len(slots) - 1)
    while slots[slot]:
        pair = slots[slot] - 1
        if pairs[pair, 0] == left and pairs[pair, 1] == right:
            return np.int64(pair)
        slot = (slot + 1) & (len(slots) - 1)
    return -1 - slot


@kernel
def grown_rows(array, needed):
    """Return the two-column array with room for `needed` rows."""
    if needed <= len(array):
        return array
    larger = np.empty((max(needed, 2 * len(array)), 2), array.dtype)
    for k in range(len(array)):
        larger[k, 0], larger[k, 1] = array[k, 0], array[k, 1]
    return larger


@kernel
def learn_merges(data, starts, counts, merges, progress):
    """Learn merges from distinct words; return how many there were.

    data, starts, counts  the words, as in WordCounts
    merges                (wanted, 2) int32, filled with pairs of ids; merge k makes id 256 + k
    progress              (2,) int64: [0] tells the caller how many are learnt, [1] = 1 stops

    Each word is a linked list of tokens over its bytes, and each pair knows the places where it
    was seen. Pairs with the token 256 + k arise only while merge k is applied, from left to
    right, so the places of a pair are collected once, in order, and checked when they are used:
    a place can lose its pair, but never get the same one back. For the same reason a count only
    falls once it is in the heap, and an entry that is out of date is put back when it comes up.
    Time and memory grow with n log n for n bytes of distinct words.
    """
    size = len(data)
    tokens = np.empty(size, np.int32)  # -1 where a token was merged into the one before
    before = np.empty(size, np.int32)
    after = np.empty(size, np.int32)
    word_at = np.empty(size, np.int32)
    for word in range(len(counts)):
        first, stop = starts[word], starts[word + 1]
        for i in range(first, stop):
            tokens[i] = data[i]
            before[i], after[i] = i - 1, i + 1
            word_at[i] = word
        before[first] = -1
        after[stop - 1] = -1

    wanted = len(merges)
    token_starts = np.empty(256 + wanted + 1, np.int64)
    token_data = np.empty(256, np.uint8)
    for byte in range(256):
        token_data[byte] = byte
        token_starts[byte] = byte
    token_starts[256] = 256

    slots = np.zeros(1 << 12, np.int32)  # pair number + 1, or 0 where free
    pairs = np.empty((1 << 11, 2), np.int32)
    pair_counts = np.empty(1 << 11, np.int64)
    places_start = np.empty((1 << 11) + 1, np.int64)  # into `places`
    num_pairs = 0
    places = np.empty(max(size, 1), np.int32)
    num_places = 0
    heap = np.empty((1 << 11, 2), np.int64)
    heap_size = 0

    # The pairs that arise in this round: (number, place), in order of place
    new_pairs = np.empty((max(size, 1), 2), np.int32)
    num_new = 0

    best = np.int64(-1)
    learnt = -1  # round -1 enters the pairs of bytes, round k the pairs with token 256 + k
    while True:
        first_new = num_pairs
        num_new = 0
        if learnt < 0:
            seen = size
            left = right = token = 0
            best_start = 0
        else:
            if learnt == wanted or progress[1]:
                return learnt
            best = np.int64(-1)
            while heap_size:
                count, pair = heap[0, 0], heap[0, 1]
                if pair_counts[pair] == count:
                    best = pair
                    heap_size -= 1
                    heap[0, 0], heap[0, 1] = heap[heap_size, 0], heap[heap_size, 1]
                elif pair_counts[pair] > 0:
                    heap[0, 0] = pair_counts[pair]
                else:
                    heap_size -= 1
                    heap[0, 0], heap[0, 1] = heap[heap_size, 0], heap[heap_size, 1]
                if heap_size:
                    sift_down(heap, 0, heap_size, pairs, token_data, token_starts)
                if best >= 0:
                    break
            if best < 0:
                return learnt
            left, right, token = pairs[best, 0], pairs[best, 1], 256 + learnt
            merges[learnt, 0], merges[learnt, 1] = left, right
            end = token_starts[token]
            for part in (left, right):
                length = token_starts[part + 1] - token_starts[part]
                token_data = grown(token_data, end + length)
                for k in range(length):
                    token_data[end + k] = token_data[token_starts[part] + k]
                end += length
            token_starts[token + 1] = end
            best_start = places_start[best]
            seen = places_start[best + 1] - best_start
            pair_counts[best] = 0

        for k in range(seen):
            if learnt < 0:
                i = k
                first_place, last_place = i, i
            else:
                i = places[best_start + k]
                j = after[i]
                if tokens[i] != left or j < 0 or tokens[j] != right:
                    continue
                weight = counts[word_at[i]]
                h, m = before[i], after[j]
                # The pairs with the neighbours go; `best` itself is already at 0 and stays there.
                if h >= 0:
                    pair = find_pair(slots, pairs, tokens[h], left)
                    if pair != best:
                        pair_counts[pair] -= weight
                if m >= 0:
                    pair = find_pair(slots, pairs, right, tokens[m])
                    if pair != best:
                        pair_counts[pair] -= weight
                    before[m] = i
                tokens[i], tokens[j] = token, -1
                after[i] = m
                first_place = h if h >= 0 else i
                last_place = i
            # The pairs that begin at `first_place` and at `last_place` are new.
            at = first_place
            while True:
                if after[at] >= 0:
                    here, there = tokens[at], tokens[after[at]]
                    pair = find_pair(slots, pairs, here, there)
                    if pair < 0:
                        slot = -1 - pair
                        pair = num_pairs
                        num_pairs += 1
                        pairs = grown_rows(pairs, num_pairs)
                        pairs[pair, 0], pairs[pair, 1] = here, there
                        pair_counts = grown(pair_counts, num_pairs)
                        pair_counts[pair] = 0
                        places_start = grown(places_start, num_pairs + 1)
                        places_start[pair + 1] = 0  # counts the places until the round ends
                        slots[slot] = num_pairs
                        if 2 * num_pairs > len(slots):
                            slots = np.zeros(2 * len(slots), np.int32)
                            for known in range(num_pairs):
                                slot = find_pair(slots, pairs, pairs[known, 0], pairs[known, 1])
                                slots[-1 - slot] = known + 1
                    pair_counts[pair] += counts[word_at[at]]
                    places_start[pair + 1] += 1
                    new_pairs = grown_rows(new_pairs, num_new + 1)
                    new_pairs[num_new, 0], new_pairs[num_new, 1] = pair, at
                    num_new += 1
                if at == last_place:
                    break
                at = last_place

        # Sort the new places by pair (a counting sort, which keeps their order).
        places = grown(places, num_places + num_new)
        cursor = np.empty(num_pairs - first_new, np.int64)
        for pair in range(first_new, num_pairs):
            cursor[pair - first_new] = num_places
            num_places += places_start[pair + 1]
            places_start[pair + 1] = num_places
        for k in range(num_new):
            pair = new_pairs[k, 0] - first_new
            places[cursor[pair]] = new_pairs[k, 1]
            cursor[pair] += 1
        if first_new == 0:
            places_start[0] = 0
        heap = grown_rows(heap, heap_size + num_pairs - first_new)
        for pair in range(first_new, num_pairs):
            if pair_counts[pair] > 0:
                push_pair(heap, heap_size, pair_counts[pair], pair, pairs, token_data, token_starts)
                heap_size += 1
        learnt += 1
        progress[0] = learnt


# -- encoding


@kernel
def fill_merges(rows, keys, values):
    """Enter rows of (left, right, rank, merged) into the hash table that `find_merge` reads."""
    for k in range(len(rows)):
        slot = pair_hash(rows[k, 0], rows[k, 1]) & (len(keys) - 1)
        while keys[slot] >= 0:
            slot = (slot + 1) & (len(keys) - 1)
        keys[slot] = rows[k, 0] << 32 | rows[k, 1]
        values[slot] = rows[k, 2] << 32 | rows[k, 3]


@kernel
def find_merge(left, right, keys, values):
    """Return rank << 32 | merged id for two neighbours, or NO_MERGE."""
    key = np.int64(left) << 32 | np.int64(right)
    slot = pair_hash(left, right) & (len(keys) - 1)
    while keys[slot] != key:
        if keys[slot] < 0:
            return NO_MERGE
        slot = (slot + 1) & (len(keys) - 1)
    return values[slot]


@kernel
def merge_short(ids, n, found, keys, values):
    """Merge ids[:n] in place, trying every pair again after each merge; return the new n."""
    for k in range(n - 1):
        found[k] = find_merge(ids[k], ids[k + 1], keys, values)
    while n > 1:
        best = 0
        for k in range(1, n - 1):
            if found[k] < found[best]:
                best = k
        if found[best] == NO_MERGE:
            break
        ids[best] = found[best] & LOW_32
        n -= 1
        for k in range(best + 1, n):
            ids[k] = ids[k + 1]
            found[k] = found[k + 1]
        if best + 1 < n:
            found[best] = find_merge(ids[best], ids[best + 1], keys, values)
        if best:
            found[best - 1] = find_merge(ids[best - 1], ids[best], keys, values)
    return n


@kernel
def sift_key(heap, at, size):
    """Move the key at `at` of a min-heap down to its place."""
    key = heap[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key


@kernel
def merge_long(ids, n, keys, values):
    """Do the same in n log n steps: a heap of rank << 32 | place over a linked list."""
    before = np.empty(n, np.int32)
    after = np.empty(n, np.int32)
    for k in range(n):
        before[k], after[k] = k - 1, k + 1
    after[n - 1] = -1
    heap = np.empty(2 * n, np.int64)  # each merge takes one key out and puts at most two in
    size = 0
    for k in range(n - 1):
        found = find_merge(ids[k], ids[k + 1], keys, values)
        if found != NO_MERGE:
            heap[size] = found >> 32 << 32 | k
            size += 1
    for k in range(size // 2 - 1, -1, -1):
        sift_key(heap, k, size)
    while size:
        key = heap[0]
        size -= 1
        heap[0] = heap[size]
        sift_key(heap, 0, size)
        i = key & LOW_32
        j = after[i]
        if ids[i] < 0 or j < 0:
            continue
        found = find_merge(ids[i], ids[j], keys, values)
        if found >> 32 != key >> 32:
            continue  # a neighbour was merged in the meantime
        ids[i], ids[j] = found & LOW_32, -1
        after[i] = after[j]
        if after[i] >= 0:
            before[after[i]] = i
        for at in (np.int64(before[i]), i):
            if at >= 0 and after[at] >= 0:
                found = find_merge(ids[at], ids[after[at]], keys, values)
                if found != NO_MERGE:
                    place = size
                    size += 1
                    heap[place] = found >> 32 << 32 | at
                    while place and heap[(place - 1) // 2] > heap[place]:
                        parent = (place - 1) // 2
                        heap[place], heap[parent] = heap[parent], heap[place]
                        place = parent
    kept = 0
    for k in range(n):
        if ids[k] >= 0:
            ids[kept] = ids[k]
            kept += 1
    return kept


@kernel
def encode_words(
    data, segments, classes, pattern, byte_ids, keys, values, entries, words, word_ids, used, out
):
    """Encode `data`; return the number of ids written to `out`.

    segments   (n, 3) int64: start and end of a stretch of text, and the id of the special token
               after it, or -1
    byte_ids   (256,) int32, the id of each byte;  keys, values: the merges, see `fill_merges`
    out        (at least as many as bytes,) uint32

    The cache of pre-tokens, kept by the caller from call to call:
    entries    (slots, 4) int64: hash, start in `words`, length, start << 8 | number in `word_ids`
    words      (bytes,) uint8;  word_ids (ids,) int32
    used       (3,) int64: entries, bytes of `words`, ids of `word_ids` in use
    """
    written = 0
    ids = np.empty(SHORT, np.int32)
    found = np.empty(SHORT, np.int64)
    mask = len(entries) - 1
    for segment in range(len(segments)):
        i, stop = segments[segment, 0], segments[segment, 1]
        while i < stop:
            end = pre_token_end(data, i, stop, classes, pattern)
            length = end - i
            if length > SHORT:
                long_ids = np.empty(length, np.int32)
                for k in range(length):
                    long_ids[k] = byte_ids[data[i + k]]
                n = merge_long(long_ids, length, keys, values)
                for k in range(n):
                    out[written + k] = long_ids[k]
                written += n
                i = end
                continue
            h = np.int64(hash_bytes(data, i, end))
            slot = h & mask
            while entries[slot, 2]:
                if (
                    entries[slot, 0] == h
                    and entries[slot, 2] == length
                    and equal_bytes(data, i, words, entries[slot, 1], length)
                ):
                    break
                slot = (slot + 1) & mask
            if entries[slot, 2]:
                start, n = entries[slot, 3] >> 8, entries[slot, 3] & 0xFF
                for k in range(n):
                    out[written + k] = word_ids[start + k]
            else:
                for k in range(length):
                    ids[k] = byte_ids[data[i + k]]
                n = merge_short(ids, length, found, keys, values)
                for k in range(n):
                    out[written + k] = ids[k]
                if (
                    2 * used[0] >= len(entries)
                    or used[1] + length > len(words)
                    or used[2] + n > len(word_ids)
                ):
                    entries[:] = 0  # full: forget everything, so that memory stays bounded
                    used[:] = 0
                    slot = h & mask
                entries[slot, 0], entries[slot, 1] = h, used[1]
                entries[slot, 2], entries[slot, 3] = length, used[2] << 8 | n
                for k in range(length):
                    words[used[1] + k] = data[i + k]
                for k in range(n):
                    word_ids[used[2] + k] = ids[k]
                used[0] += 1
                used[1] += length
                used[2] += n
            written += n
            i = end
        if segments[segment, 2] >= 0:
            out[written] = segments[segment, 2]
            written += 1
    return written
