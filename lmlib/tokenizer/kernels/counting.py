"""Count pre-tokens in a hash table.

A pre-token of up to KEY_BYTES bytes is its own key, as two words. Lookups are done in batches,
whose rows are prefetched.
"""

import numpy as np

from lmlib.native.compiling import kernel, part, view
from lmlib.tokenizer.kernels.llvm import (
    ALL,
    KEYS,
    ONE,
    START,
    copy_bytes,
    key_room,
    prefetch,
    word_at,
)
from lmlib.tokenizer.kernels.records import COUNT, SPECIAL, TABLE
from lmlib.tokenizer.kernels.splitting import equal_bytes, next_special, split, token_span

KEY_BYTES = 15  # longest pre-token that is its own key
LENGTH_SHIFT = np.uint64(56)
LONG_KEY = np.uint64(KEY_BYTES + 1) << LENGTH_SHIFT
MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd, well mixed
BATCH = KEYS  # pre-tokens whose rows are prefetched together
ROW_BYTES = 32  # of a row in the tables, here and in encoding.py


# -- hashing


@part
def hash_bytes(address, length):
    """Return a 64-bit hash of bytes, computed eight at a time."""
    h = np.uint64(length)
    for k in range(0, length, 8):
        word = word_at(address + k) & (ALL >> np.uint64(64 - 8 * min(length - k, 8)))
        h = (h ^ word) * MIX_1
        h ^= h >> np.uint64(29)
    return h


@part
def word_key(address, length):
    """Return the key of a pre-token in a table, two words.

    Up to KEY_BYTES bytes, the key is the bytes themselves and the length, so no other pre-token has
    it. For longer ones it is a hash and a mark, and the bytes must be compared.
    """
    if length > KEY_BYTES:
        return hash_bytes(address, length), LONG_KEY
    # Lengths are hard to predict, so there is no branch on them; none of the shifts is by 64.
    low = word_at(address) & (ALL >> np.uint64(64 - 8 * min(length, 8)))
    high = word_at(address + 8) & (ALL >> ONE >> np.uint64(63 - 8 * max(length - 8, 0)))
    return low, high | np.uint64(length) << LENGTH_SHIFT


@part
def key_hash(low, high):
    """Return a hash of a key; its highest bits are the best mixed."""
    return (low ^ high * MIX_2) * MIX_1


@part
def key_batch(text, start, ends, first, size, rows, shift, keys):
    """Write (low, high, hash, start) of `size` pre-tokens to `keys`, and prefetch their rows.

    Returns the offset where the last one ends. `rows` is an address; a hash has row hash >> shift.
    """
    for k in range(size):
        end = np.int64(ends[first + k])
        low, high = word_key(text + start, end - start)
        h = key_hash(low, high)
        prefetch(rows + ROW_BYTES * np.int64(h >> shift))
        keys[k, 0], keys[k, 1], keys[k, 2], keys[k, 3] = low, high, h, np.uint64(start)
        start = end
    return start


# -- counting


@part
def table_shift(num_rows):
    """Return 64 minus the number of bits that index the rows; `num_rows` is a power of two."""
    shift = np.uint64(64)
    while num_rows > 1:
        num_rows >>= 1
        shift -= ONE
    return shift


@kernel
def copy_rows(rows, num_rows, larger, num_larger):
    """Copy the rows of a table of counts into a larger, empty one; return 0."""
    source, target = view(rows, num_rows, COUNT), view(larger, num_larger, COUNT)
    shift, mask = table_shift(num_larger), np.uint64(num_larger - 1)
    for k in range(num_rows):
        if source[k].high:
            row = key_hash(source[k].low, source[k].high) >> shift
            while target[row].high:
                row = (row + ONE) & mask
            target[row] = source[k]
    return START


@part
def count_pieces(text, start, ends, num_ends, weights, table):
    """Count the pre-tokens that end at `ends`; return how many, fewer if the table is full.

    weights   how much each counts, or an empty array if each counts 1
    """
    rows = view(table.rows, table.num_rows, COUNT)
    keys = view(key_room(), (BATCH, 4), np.uint64)
    shift, mask = table_shift(table.num_rows), np.uint64(table.num_rows - 1)
    for first in range(0, num_ends, BATCH):
        size = min(BATCH, num_ends - first)
        if 2 * (table.num_words + size) > table.num_rows:
            return first
        start = key_batch(text, start, ends, first, size, table.rows, shift, keys)
        for k in range(size):
            low, high = keys[k, 0], keys[k, 1]
            row = keys[k, 2] >> shift
            is_long = high == LONG_KEY
            i = np.int64(keys[k, 3])
            length = np.int64(ends[first + k]) - i
            while rows[row].high:
                if rows[row].low == low and rows[row].high == high:
                    if not is_long:
                        break
                    known = table.arena + rows[row].start
                    if rows[row].length == length and equal_bytes(text + i, known, length):
                        break
                row = (row + ONE) & mask
            if not rows[row].high:
                if is_long:
                    used = table.arena_used
                    if used + length > table.arena_size:
                        table.arena_needed = used + length
                        return first + k
                    copy_bytes(table.arena + used, text + i, length)
                    rows[row].start, rows[row].length = used, length
                    table.arena_used = used + length
                rows[row].low, rows[row].high = low, high
                table.num_words += 1
                table.num_bytes += length
            rows[row].count += weights[first + k] if len(weights) else 1
    return num_ends


@kernel
def count_text(text, start, size, classes, pattern, specials, ends, tables):
    """Count the pre-tokens of text[start:size] between special tokens.

    Returns `size`, or the offset to continue from once the table has more room. `ends` is the
    address of (size,) int32 of scratch memory, `tables` that of a TABLE.
    """
    special, table = view(specials, 1, SPECIAL)[0], view(tables, 1, TABLE)[0]
    found = view(ends, size, np.int32)
    weights = view(ends, 0, np.int64)
    while start < size:
        offset, number = next_special(text, start, size, special)
        num_ends = split(text, start, offset, classes, pattern, found)
        counted = count_pieces(text, start, found, num_ends, weights, table)
        if counted < num_ends:
            return np.int64(found[counted - 1]) if counted else start
        start = offset
        if number >= 0:
            start += token_span(special, number)[1]
    return size


@kernel
def count_words(text, starts, counts, first, num_words, tables):
    """Count words that were counted elsewhere, from number `first` on.

    starts   address of (num_words + 1,) int32: where each begins in the text, then the end
    counts   address of (num_words,) int64

    Returns `num_words`, or the number of the word to continue from once the table has more room.
    """
    table = view(tables, 1, TABLE)[0]
    offsets, weights = view(starts, num_words + 1, np.int32), view(counts, num_words, np.int64)
    start = np.int64(offsets[first])
    ends, rest = offsets[first + 1 :], weights[first:]
    return first + count_pieces(text, start, ends, num_words - first, rest, table)


@kernel
def list_words(tables, data, starts, counts):
    """Write the words of a table in the layout of WordCounts; return 0.

    data     address of (num_bytes,) uint8
    starts   address of (num_words + 1,) int64
    counts   address of (num_words,) int64
    """
    table = view(tables, 1, TABLE)[0]
    rows = view(table.rows, table.num_rows, COUNT)
    bounds = view(starts, table.num_words + 1, np.int64)
    totals = view(counts, table.num_words, np.int64)
    word, end = START, START
    bounds[0] = 0
    for k in range(table.num_rows):
        length = np.int64(rows[k].high >> LENGTH_SHIFT)
        if not length:
            continue
        if length > KEY_BYTES:
            length = np.int64(rows[k].length)
            copy_bytes(data + end, table.arena + rows[k].start, length)
        else:
            copy_bytes(data + end, table.rows + ROW_BYTES * k, length)  # the key: `low`, `high`
        totals[word] = rows[k].count
        word += 1
        end += length
        bounds[word] = end
    return START
