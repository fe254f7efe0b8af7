"""Encode: merge the bytes of each pre-token into ids; and decode.

Pre-tokens seen before are looked up in a table of rows that all threads share: a row is written
once and then only read. New pre-tokens wait and are merged together, so that their lookups overlap.
Masks and table indices are unsigned: Numba tests signed indices for being negative, and converts
to float when signed and unsigned integers meet.
"""

import numpy as np

from lmlib.native.compiling import address_of, allocate, free, kernel, part, view
from lmlib.tokenizer.kernels.counting import (
    BATCH,
    KEY_BYTES,
    MIX_1,
    ROW_BYTES,
    hash_bytes,
    key_batch,
    table_shift,
)
from lmlib.tokenizer.kernels.llvm import (
    ALL,
    ONE,
    START,
    ZERO,
    byte_at,
    claim_word,
    id_at,
    key_room,
    prefetch,
    publish_word,
    published_word,
    word_at,
    write_id,
    write_word,
)
from lmlib.tokenizer.kernels.records import (
    JOB,
    LONG_SLOTS,
    ORDER,
    SHORT,
    SLOT,
    SLOTS,
    SPECIAL,
    WAITING,
    WORD,
)
from lmlib.tokenizer.kernels.splitting import equal_bytes, next_special, split, token_span

INLINE = 4  # ids that fit into a row of the cache
NONE = 0xFFFFFFFF  # no token

LOW_32, RANK_SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
NO_MERGE = ALL  # greater than every rank << 32 | merged id
MERGE_BYTES = 16  # of a row in the table of merges
LINE_BYTES = 64  # of a cache line of the processor: two rows of the cache of pre-tokens
FAN_BITS = 4  # of an offset, for each level of the tree in `merge_long`
FAN = 1 << FAN_BITS
BUSY = ALL  # in place of the key while a thread writes the row
COUNT_SHIFT = np.uint64(60)  # the number of ids is in the top bits of a row's last word
COUNT_MASK = np.uint64(15) << COUNT_SHIFT


# -- merges


@part
def merge_slot(left, right, mask):
    """Return the key of two neighbouring ids in the table of merges, and the first row to probe."""
    key = np.uint64(left) << RANK_SHIFT | np.uint64(right)
    return key, key * MIX_1 >> RANK_SHIFT & mask


@kernel
def fill_merges(found, num_merges, merges, num_rows):
    """Enter merges into a hash table; return 0.

    found    address of (num_merges, 4) int64: left, right, rank, merged id
    merges   address of (num_rows, 2) uint64, num_rows a power of two:
             left << 32 | right, or ALL if free; rank << 32 | merged id
    """
    rows, table = view(found, (num_merges, 4), np.uint64), view(merges, (num_rows, 2), np.uint64)
    mask = np.uint64(num_rows - 1)
    for k in range(num_merges):
        key, slot = merge_slot(rows[k, 0], rows[k, 1], mask)
        while table[slot, 0] != ALL:
            slot = (slot + ONE) & mask
        table[slot, 0] = key
        table[slot, 1] = rows[k, 2] << RANK_SHIFT | rows[k, 3]
    return START


@part
def find_merge(left, right, merges, mask):
    """Return rank << 32 | merged id for two neighbours, or NO_MERGE; `merges` is an address."""
    key, slot = merge_slot(left, right, mask)
    while True:
        row = merges + MERGE_BYTES * np.int64(slot)
        found = word_at(row)
        if found == key:
            return word_at(row + 8)
        if found == ALL:
            return NO_MERGE
        slot = (slot + ONE) & mask


@part
def prefetch_merge(left, right, merges, mask):
    """Prefetch the first row that `find_merge` will probe."""
    _, slot = merge_slot(left, right, mask)
    prefetch(merges + MERGE_BYTES * np.int64(slot))


@part
def start_merging(word, byte_ids, merges, mask):
    """Write the ids of the bytes of a word, and prefetch the merges of their pairs."""
    ids = word.ids
    for k in range(word.length):
        ids[k] = id_at(byte_ids + 4 * byte_at(word.text + k))
        if k:
            prefetch_merge(ids[k - 1], ids[k], merges, mask)
    word.num_ids = word.length


@part
def find_merges(word, merges, mask):
    """Look up all pairs of a word."""
    ids, found = word.ids, word.merges
    for k in range(word.num_ids - 1):
        found[k] = find_merge(ids[k], ids[k + 1], merges, mask)


@part
def merge_once(word, merges, mask):
    """Do the merge of lowest rank, prefetch the merges of the new pairs; return False if none."""
    n, ids, found = word.num_ids, word.ids, word.merges
    best, lowest = START, NO_MERGE
    for k in range(n - 1):
        if found[k] < lowest:
            best, lowest = k, found[k]
    if lowest == NO_MERGE:
        return False
    n -= 1
    merged = np.uint32(lowest & LOW_32)
    ids[best] = merged
    for k in range(best + 1, n):
        ids[k] = ids[k + 1]
        found[k] = found[k + 1]
    if best + 1 < n:
        prefetch_merge(merged, ids[best + 1], merges, mask)
    if best:
        prefetch_merge(ids[best - 1], merged, merges, mask)
    word.num_ids = n
    word.merged = best
    return True


@part
def renew_merges(word, merges, mask):
    """Look up the pairs on both sides of the id that `merge_once` made."""
    best, ids, found = word.merged, word.ids, word.merges
    if best + 1 < word.num_ids:
        found[best] = find_merge(ids[best], ids[best + 1], merges, mask)
    if best:
        found[best - 1] = find_merge(ids[best - 1], ids[best], merges, mask)


@part
def level_size(n, level):
    """Return the number of nodes of a level in the tree of `merge_long`, a multiple of FAN."""
    return (((n - 1) >> FAN_BITS * level) | (FAN - 1)) + 1


@part
def lowest_of(nodes):
    """Return the least of FAN ranks."""
    lowest = nodes[0]
    for k in range(1, FAN):
        lowest = min(lowest, nodes[k])
    return lowest


@part
def renew_lowest(tree, n, at):
    """Renew the nodes above the leaf at index `at`, as far as they change."""
    start, level = START, START
    while (n - 1) >> FAN_BITS * level:
        first = start + (at & -FAN)
        lowest = lowest_of(tree[first : first + FAN])
        start += level_size(n, level)
        level += 1
        at >>= FAN_BITS
        if tree[start + at] == lowest:
            break
        tree[start + at] = lowest


@part
def find_lowest(tree, root, n, top):
    """Return the index of the first leaf of the lowest rank."""
    at, start = START, root
    for level in range(top - 1, -1, -1):
        start -= level_size(n, level)
        at <<= FAN_BITS
        while tree[start + at] != tree[root]:
            at += 1
    return at


@part
def merge_long(ids, n, merges, mask):
    """Merge a word of any length in O(n log n); return the number of ids left, or -1: no memory.

    A tree finds the leftmost pair of the lowest rank. Its leaves are the ranks of the pairs, each
    at the offset of its left token, NONE where there is no merge. A node above is the least of FAN
    nodes. Level after level is stored, the leaves first.

    ids   address of n uint32; a token is at the offset of its first byte, NONE at the others
    """
    root, top = START, START
    while (n - 1) >> FAN_BITS * top:
        root += level_size(n, top)
        top += 1
    room = allocate(8 * n + 4 * (root + FAN))
    if not room:
        return np.int64(-1)
    tokens, tree = view(ids, n, np.uint32), view(room + 8 * n, root + FAN, np.uint32)
    before, after = view(room, n, np.int32), view(room + 4 * n, n, np.int32)
    tree[:] = NONE
    for k in range(n):
        before[k], after[k] = k - 1, k + 1
    for k in range(n - 1):
        tree[k] = find_merge(tokens[k], tokens[k + 1], merges, mask) >> RANK_SHIFT
    start = START
    for level in range(top):
        above = start + level_size(n, level)
        for k in range(((n - 1) >> FAN_BITS * (level + 1)) + 1):
            tree[above + k] = lowest_of(tree[start + FAN * k : start + FAN * k + FAN])
        start = above
    while tree[root] != NONE:
        i = find_lowest(tree, root, n, top)
        j = np.int64(after[i])
        left, right = np.int64(before[i]), np.int64(after[j])
        tokens[i] = find_merge(tokens[i], tokens[j], merges, mask) & LOW_32
        tokens[j] = tree[i] = tree[j] = NONE
        after[i] = right
        if right < n:
            before[right] = i
            tree[i] = find_merge(tokens[i], tokens[right], merges, mask) >> RANK_SHIFT
        if left >= 0:
            tree[left] = find_merge(tokens[left], tokens[i], merges, mask) >> RANK_SHIFT
            renew_lowest(tree, n, left)
        renew_lowest(tree, n, i)
        renew_lowest(tree, n, j)
    free(room)
    kept = START
    for k in range(n):
        if tokens[k] != NONE:
            tokens[kept] = tokens[k]
            kept += 1
    return kept


# -- the cache of pre-tokens


@part
def slot_of(word, slots):
    """Return the slot of a word that does not fit into a row."""
    return slots[hash_bytes(word.text, word.length) & np.uint64(LONG_SLOTS - 1)]


@part
def rows_of(row):
    """Return the addresses of the rows that may have a key: two in its line, two in the next."""
    neighbour = row ^ LINE_BYTES
    return row, row ^ ROW_BYTES, neighbour, neighbour ^ ROW_BYTES


@part
def find_known(word, slots):
    """Return whether a word that waits was seen before; if so, set its ids."""
    is_elsewhere = word.length > KEY_BYTES
    if not is_elsewhere:
        for row in rows_of(word.row):
            if published_word(row + 8) == word.high and word_at(row) == word.low:
                last_ids = word_at(row + 24)
                n = np.int64(last_ids >> COUNT_SHIFT)
                is_elsewhere = n > INLINE
                if not is_elsewhere:
                    word.num_ids = n
                    ids = address_of(word.ids)
                    write_word(ids, word_at(row + 16))
                    write_word(ids + 8, last_ids & ~COUNT_MASK)
                    return True
    if is_elsewhere:
        slot = slot_of(word, slots)
        if slot.length == word.length and equal_bytes(
            word.text, address_of(slot.text), word.length
        ):
            word.num_ids = slot.num_ids
            for k in range(word.num_ids):
                word.ids[k] = slot.ids[k]
            return True
    return False


@part
def remember(word, slots, lost):
    """Cache the ids of a word, or count it as lost if all its rows are taken.

    Other threads read and write the same rows. The thread that claims a row marks it as BUSY and
    publishes its key once the rest is written. From then on the row does not change.
    """
    n = word.num_ids
    if word.length <= KEY_BYTES:
        first_ids, last_ids = ZERO, COUNT_MASK
        if n <= INLINE:
            ids = address_of(word.ids)
            first_ids = word_at(ids)
            last_ids = word_at(ids + 8) & ~COUNT_MASK | np.uint64(n) << COUNT_SHIFT
        for row in rows_of(word.row):
            found = published_word(row + 8)
            if found == word.high and word_at(row) == word.low:
                break
            if not found and claim_word(row + 8, BUSY):
                write_word(row, word.low)
                write_word(row + 16, first_ids)
                write_word(row + 24, last_ids)
                publish_word(row + 8, word.high)
                break
        else:
            write_word(lost, word_at(lost) + ONE)
        if n <= INLINE:
            return
    slot = slot_of(word, slots)
    slot.length = word.length
    slot.num_ids = n
    for k in range(word.length):
        slot.text[k] = byte_at(word.text + k)
    for k in range(n):
        slot.ids[k] = word.ids[k]


# -- encoding


@part
def encode_waiting(room, lost, count, end, byte_ids, merges, mask):
    """Encode the words that wait, and close the gaps that were left for them among the ids.

    `end` is the address after the last id; returns that address after the gaps are closed.
    """
    words, order = view(room, WAITING, WORD), view(room + ORDER, WAITING, np.int64)
    slots = view(room + SLOTS, LONG_SLOTS, SLOT)
    unfinished = START
    for k in range(count):
        if not find_known(words[k], slots):
            start_merging(words[k], byte_ids, merges, mask)
            order[unfinished] = k
            unfinished += 1
    for k in range(unfinished):
        find_merges(words[order[k]], merges, mask)
    is_new = True
    while unfinished:
        rest = START
        for k in range(unfinished):
            word = words[order[k]]
            if not is_new:
                renew_merges(word, merges, mask)
            if merge_once(word, merges, mask):
                order[rest] = order[k]
                rest += 1
            else:
                remember(word, slots, lost)
        unfinished = rest
        is_new = False
    ids = words[0].place
    for k in range(count):
        word = words[k]
        copy_ids(address_of(word.ids), word.num_ids, ids)
        ids += 4 * word.num_ids
        first = word.place + 4 * word.length
        last = words[k + 1].place if k + 1 < count else end
        for source in range(first, last, 8):
            write_word(ids + source - first, word_at(source))
        ids += last - first
    return ids


@part
def copy_ids(source, n, target):
    """Copy n ids from one address to another."""
    for k in range(n):
        write_id(target + 4 * k, id_at(source + 4 * k))


@part
def encode_pieces(job, start, ends, num_ends, written):
    """Encode the pre-tokens that end at `ends`; return the new number of ids, or -1: no memory."""
    mask, shift = np.uint64(job.num_merge_rows - 1), table_shift(job.num_rows)
    words = view(job.room, WAITING, WORD)
    slots = view(job.room + SLOTS, LONG_SLOTS, SLOT)
    keys = view(key_room(), (BATCH, 4), np.uint64)
    ids = job.ids + 4 * written
    waiting = START
    for first in range(0, num_ends, BATCH):
        size = min(BATCH, num_ends - first)
        start = key_batch(job.text, start, ends, first, size, job.rows, shift, keys)
        for k in range(np.uint64(size)):
            low, high = keys[k, 0], keys[k, 1]
            row = job.rows + ROW_BYTES * np.int64(keys[k, 2] >> shift)
            other = row ^ ROW_BYTES
            is_first = (published_word(row + 8) == high) & (word_at(row) == low)
            is_second = (published_word(other + 8) == high) & (word_at(other) == low)
            found = other ^ ROW_BYTES * is_first  # without a branch
            value = word_at(found + 24)
            n = np.int64(value >> COUNT_SHIFT)
            if (is_first | is_second) & (n <= INLINE):
                write_word(ids, word_at(found + 16))
                write_word(ids + 8, value & ~COUNT_MASK)
                ids += 4 * n
                continue
            text = job.text + np.int64(keys[k, 3])
            length = np.int64(ends[first + np.int64(k)]) - np.int64(keys[k, 3])
            if length <= SHORT:
                word = words[waiting]
                word.text, word.length, word.row = text, length, row
                word.low, word.high, word.place = low, high, ids
                if length <= KEY_BYTES:
                    prefetch(row ^ LINE_BYTES)
                else:
                    prefetch(address_of(slot_of(word, slots).text))
                ids += 4 * length
                waiting += 1
                if waiting == WAITING:
                    ids = encode_waiting(
                        job.room, job.lost, waiting, ids, job.byte_ids, job.merges, mask
                    )
                    waiting = START
            else:
                for b in range(length):
                    write_id(ids + 4 * b, id_at(job.byte_ids + 4 * byte_at(text + b)))
                n = merge_long(ids, length, job.merges, mask)
                if n < 0:
                    return n
                ids += 4 * n
    if waiting:
        ids = encode_waiting(job.room, job.lost, waiting, ids, job.byte_ids, job.merges, mask)
    return (ids - job.ids) >> 2


@kernel
def encode_texts(jobs):
    """Encode the texts of the JOB at an address; return the number of ids, or -1: no memory."""
    job = view(jobs, 1, JOB)[0]
    special = view(job.special, 1, SPECIAL)[0]
    starts = view(job.starts, job.num_texts + 1, np.int64)
    ends = view(job.ends, starts[job.num_texts], np.int32)
    ids = view(job.ids, starts[job.num_texts], np.uint32)
    id_starts = view(job.id_starts, job.num_texts + 1, np.int64)
    written = START
    for k in range(job.num_texts):
        id_starts[k] = written
        start, stop = starts[k], starts[k + 1]
        while start < stop:
            offset, number = next_special(job.text, start, stop, special)
            num_ends = split(job.text, start, offset, job.classes, job.pattern, ends)
            written = encode_pieces(job, start, ends, num_ends, written)
            if written < 0:
                return written
            start = offset
            if number >= 0:
                ids[written] = id_at(job.special_ids + 4 * number)
                written += 1
                start += token_span(special, number)[1]
    id_starts[job.num_texts] = written
    return written


# -- decoding


@kernel
def decoded_size(ids, num_ids, places, num_places):
    """Return the total number of bytes of the tokens, or -1 if an id is unknown.

    ids      address of (num_ids,) uint32
    places   address of (num_places, 2) int64: the offset and the number of a token's bytes, both -1
             for an unknown id
    """
    tokens, known = view(ids, num_ids, np.uint32), view(places, (num_places, 2), np.int64)
    total = START
    for k in range(num_ids):
        token = np.uint64(tokens[k])
        if token >= np.uint64(num_places) or known[token, 1] < 0:
            return np.int64(-1)
        total += known[token, 1]
    return total


@kernel
def decode(ids, num_ids, text, places, num_places, out):
    """Write the bytes of the tokens one after the other, and up to 8 bytes more; return 0."""
    tokens, known = view(ids, num_ids, np.uint32), view(places, (num_places, 2), np.int64)
    target = out
    for k in range(num_ids):
        token = np.uint64(tokens[k])
        start, size = text + known[token, 0], known[token, 1]
        for b in range(0, size, 8):
            write_word(target + b, word_at(start + b))
        target += size
    return START
