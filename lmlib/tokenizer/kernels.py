"""Numba kernels of byte-level BPE: split, count, encode, decode. No Python object per token.

They hold no lock (`nogil`), so that threads use every core, and are compiled at the first call
and then read from the disk (`cache`). What they compute is written plainly in reference.py.

What makes them fast: 64 bytes are classified at once, and where pre-tokens begin follows from
shifts of the resulting bit masks; a pre-token of up to 15 bytes is two words, which are their own
key in a table; tables are looked up in batches, asked from memory before they are needed; what is
not found is merged side by side for the same reason; all threads share one table, whose rows are
written once and then only read.

Texts have PADDING bytes of any value behind them, since loads are 64 bytes wide; the machine is
little-endian. What is called for every character or pre-token takes addresses (`text`, `classes`)
in place of arrays, since Numba counts the references to an array at every call, atomically. Masks
and what indexes the tables are unsigned: Numba checks signed indices for being negative, and makes
floats where the two kinds meet.

All in one file, because Numba takes a cached kernel for stale only when the file that it stands
in has changed, whatever else it calls. Learning merges shares nothing with these: learning.py.
"""
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# Numba gives an intrinsic its typing context, a method of llvmlite its block.

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

PADDING = 64
OTHER, MARK, NUMBER, SPACE, UPPER, LOWER, CASELESS = range(7)  # of characters; letters: >= UPPER
GPT2, CL100K, O200K = range(3)  # how to split a text

LOW_32 = np.uint64(0xFFFFFFFF)
KEY_BYTES = 15  # longest pre-token that is its own key
SHORT = 64  # pre-tokens up to this many bytes are cached, and merged in a small array
LONG_SLOTS = 1 << 12  # for cached pre-tokens of more bytes than a key holds, or more ids
SLOT_BYTES = 8 + SHORT + 4 * SHORT
# Pre-tokens not found in the table wait, to be merged side by side. Of each: eight numbers, its
# ids, and for each pair of neighbours what `find_merge` says; after all of them, their order.
WAITING = 32
WORD, LENGTH, ROW, LOW, HIGH, PLACE, COUNT, MERGED, IDS = range(0, 72, 8)
MERGES = IDS + 4 * SHORT
WAITING_BYTES = MERGES + 8 * SHORT
ORDER = WAITING * WAITING_BYTES
SLOTS = ORDER + 8 * WAITING
ROOM_BYTES = SLOTS + LONG_SLOTS * SLOT_BYTES
LONG_BYTES = 32  # of room for each byte of a longer pre-token, see `merge_long`
NONE = 0xFFFFFFFF  # no place, no entry, no token
SORTED = 1 << 31  # set in the last entry of a queue: its places are in order
INLINE = 4  # ids that fit into a row of the cache
BATCH = 64  # pre-tokens whose rows are asked from memory ahead

ZERO, ONE = np.uint64(0), np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
NO_MERGE = ALL  # greater than every rank << 32 | merged id
RANK_SHIFT = np.uint64(32)
LAST = np.uint64(63)  # the highest bit of a mask
ROW_BYTES, MERGE_BYTES = 32, 16  # of the tables: four words in a row, two for a merge
LINE_BYTES = 64  # what the processor reads at a time: two rows
LENGTH_SHIFT = np.uint64(56)
LONG_KEY = np.uint64(KEY_BYTES + 1) << LENGTH_SHIFT
BUSY = ALL  # instead of a key, while a thread writes its row
COUNT_SHIFT = np.uint64(60)  # of the number of ids in a row, which takes the last id's top bits
COUNT_MASK = np.uint64(15) << COUNT_SHIFT
# To Numba a plain 0, True or False is a type of its own: one more version of what it is given to.
START, YES, NO = np.int64(0), np.bool_(True), np.bool_(False)
MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd, well mixed

kernel = njit(nogil=True, cache=True, error_model="numpy")
# What the others are made of: to be callable from Python too would take longer to compile.
INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**INNER, nogil=True, error_model="numpy")


# -- what LLVM has and Numba does not offer


@intrinsic
def byte_at(typing_context, address):
    """Return the byte at an address, as an int64."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def word_at(typing_context, address):
    """Return the 8 bytes from an address as one uint64, the first byte lowest."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(types.int64), generate


@intrinsic
def write_word(typing_context, address, word):
    """Write one uint64 as the 8 bytes from an address, the lowest byte first."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store(args[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@intrinsic
def id_at(typing_context, address):
    """Return the uint32 at an address, as an int64."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def write_id(typing_context, address, token_id):
    """Write the low 32 bits of an int64 to an address."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        builder.store(builder.trunc(args[1], ir.IntType(32)), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@part
def at(address):
    """Return the int64 at an address."""
    return np.int64(word_at(address))


@part
def put(address, value):
    """Write an int64 to an address."""
    write_word(address, np.uint64(value))


@intrinsic
def published_word(typing_context, address):
    """Return the uint64 at an address; what is read after it is no older than what it announces."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.uint64(types.int64), generate


@intrinsic
def publish_word(typing_context, address, word):
    """Write a uint64 to an address, after everything else that this thread has written."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@intrinsic
def claim_word(typing_context, address, word):
    """Write a uint64 in place of a 0; False where another thread was first."""

    def generate(context, builder, signature, args):
        word = ir.IntType(64)
        pointer = builder.inttoptr(args[0], word.as_pointer())
        found = builder.cmpxchg(pointer, word(0), args[1], "acquire", "monotonic")
        return builder.zext(builder.extract_value(found, 1), ir.IntType(8))

    return types.uint8(types.int64, types.uint64), generate


BLOCK = ir.VectorType(ir.IntType(8), 64)


def _load_block(builder, address):
    return builder.load(builder.inttoptr(address, BLOCK.as_pointer()), align=1)


def _mask(builder, found):
    return builder.bitcast(found, ir.IntType(64))


@intrinsic
def class_masks(typing_context, address):
    r"""Return five masks of the 64 bytes from an address: letters, digits, \s, " ", non-ASCII."""

    def generate(context, builder, signature, args):
        block = _load_block(builder, args[0])

        def each(value):
            return ir.Constant(BLOCK, [value] * 64)

        def between(values, low, high):
            distance = builder.sub(values, each(low))
            return builder.icmp_unsigned("<=", distance, each(high - low))

        blanks = builder.icmp_unsigned("==", block, each(0x20))
        found = [
            between(builder.or_(block, each(0x20)), 0x61, 0x7A),
            between(block, 0x30, 0x39),
            builder.or_(between(block, 0x09, 0x0D), blanks),
            blanks,
            builder.icmp_unsigned(">", block, each(0x7F)),
        ]
        masks = [_mask(builder, bits) for bits in found]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 5)(types.int64), generate


@intrinsic
def byte_mask(typing_context, address, byte):
    """Return which of the 64 bytes from an address equal `byte`, as a mask."""

    def generate(context, builder, signature, args):
        place = ir.IntType(32)
        one = builder.insert_element(ir.Constant(BLOCK, None), args[1], place(0))
        same = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(place, 64), None))
        return _mask(builder, builder.icmp_unsigned("==", _load_block(builder, args[0]), same))

    return types.uint64(types.int64, types.uint8), generate


@intrinsic
def lowest_bit(typing_context, mask):
    """Return the number of the lowest bit that is set; the mask is not 0."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Ask for the bytes at an address, without waiting for them."""

    def generate(context, builder, signature, args):
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        pointer = builder.inttoptr(args[0], byte)
        builder.call(function, [pointer, word(0), word(3), word(1)])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(types.int64), generate


@part
def address_of(array):
    """Return where the array's items begin in memory."""
    return np.int64(array.ctypes.data)


# -- characters


@part
def char_at(text, i, stop, classes):
    """Return (class, width in bytes) of the character at i; a byte that is no UTF-8 is OTHER."""
    b = byte_at(text + i)
    if b < 0x80:
        return byte_at(classes + b), 1
    left = stop - i
    if 0xC2 <= b <= 0xDF and left > 1:
        c = byte_at(text + i + 1)
        if c & 0xC0 == 0x80:
            return byte_at(classes + ((b & 0x1F) << 6 | c & 0x3F)), 2
    elif 0xE0 <= b <= 0xEF and left > 2:
        c, d = byte_at(text + i + 1), byte_at(text + i + 2)
        # E0 80..9F would be overlong, ED A0..BF are the surrogates
        if (
            c & 0xC0 == 0x80
            and d & 0xC0 == 0x80
            and not (b == 0xE0 and c < 0xA0)
            and not (b == 0xED and c > 0x9F)
        ):
            return byte_at(classes + ((b & 0x0F) << 12 | (c & 0x3F) << 6 | d & 0x3F)), 3
    elif 0xF0 <= b <= 0xF4 and left > 3:
        c, d, e = byte_at(text + i + 1), byte_at(text + i + 2), byte_at(text + i + 3)
        # F0 80..8F would be overlong, F4 90..BF lies beyond U+10FFFF
        if (
            c & 0xC0 == 0x80
            and d & 0xC0 == 0x80
            and e & 0xC0 == 0x80
            and not (b == 0xF0 and c < 0x90)
            and not (b == 0xF4 and c > 0x8F)
        ):
            high = (b & 0x07) << 18 | (c & 0x3F) << 12
            return byte_at(classes + (high | (d & 0x3F) << 6 | e & 0x3F)), 4
    return OTHER, 1


@part
def kind_at(text, i, stop, classes):
    """Return (class, width) as `char_at`, letters all LOWER and marks OTHER (gpt2, cl100k)."""
    found, width = char_at(text, i, stop, classes)
    if found >= UPPER:
        return LOWER, width
    return OTHER if found == MARK else found, width


@part
def contraction_end(text, i, stop, ignore_case):
    """Return the end of 's 'd 'm 't 'll 've 're at apostrophe i, or i when there is none."""
    fold = 0x20 if ignore_case else 0
    if i + 1 < stop:
        c = byte_at(text + i + 1) | fold
        if c == 0x73 or c == 0x64 or c == 0x6D or c == 0x74:
            return i + 2
        if i + 2 < stop:
            d = byte_at(text + i + 2) | fold
            if (c == 0x6C and d == 0x6C) or (c == 0x76 and d == 0x65) or (c == 0x72 and d == 0x65):
                return i + 3
            # U+017F, the long s, is an s to whoever ignores case
            if ignore_case and byte_at(text + i + 1) == 0xC5 and byte_at(text + i + 2) == 0xBF:
                return i + 3
    return i


# -- splitting


@part
def gpt2_ends(text, start, stop, classes, ends):
    r"""Write the ends of the pre-tokens of the GPT-2 pattern; return how many there are.

    In masks, bit k stands for byte base + k, and a character's bytes are all of its class. Seen
    from the left, a pre-token begins
      - where a run of letters, of numbers or of others begins, unless a blank stands before it,
        which ` ?` takes along;
      - where white space begins;
      - at the last character of white space before other text, which `\s+(?!\S)` leaves.
    Contractions are found afterwards, at apostrophes that begin a pre-token.
    """
    num_ends = 0
    token = start  # where the pre-token begins whose end is sought
    was_letter = was_number = was_other = was_space = was_blank = ZERO  # of the byte before base
    char_end, kind = start, OTHER  # of the last character beyond ASCII
    for base in range(start, stop, 64):
        letters, numbers, spaces, blanks, wide = class_masks(text + base)
        inside = ALL if stop - base >= 64 else (ONE << np.uint64(stop - base)) - ONE
        letters, numbers, wide = letters & inside, numbers & inside, wide & inside
        wide_spaces = ZERO
        while wide:
            k = lowest_bit(wide)
            if base + k >= char_end:
                kind, width = kind_at(text, base + k, stop, classes)
                char_end = base + k + width
            run = (ONE << np.uint64(char_end - base - k)) - ONE << np.uint64(k)
            wide &= ~run
            if kind == LOWER:
                letters |= run
            elif kind == NUMBER:
                numbers |= run
            elif kind == SPACE:
                wide_spaces |= run
        spaces |= wide_spaces | ~inside  # the end of the text is no other text
        others = ~(letters | numbers | spaces)
        space_follows = ONE
        if spaces >> LAST and base + 64 < stop and (char_end <= base + 64 or kind != SPACE):
            following, _ = char_at(text, base + 64, stop, classes)
            space_follows = ONE if following == SPACE else ZERO

        first_spaces = spaces & ~(spaces << ONE | was_space)
        last_spaces = spaces & ~(spaces >> ONE | space_follows << LAST)
        starts = letters & ~(letters << ONE | was_letter)
        starts |= numbers & ~(numbers << ONE | was_number)
        starts |= others & ~(others << ONE | was_other)
        starts &= ~(blanks << ONE | was_blank)
        starts = (starts | first_spaces | last_spaces) & inside
        was_letter, was_number, was_other = letters >> LAST, numbers >> LAST, others >> LAST
        was_space, was_blank = spaces >> LAST, blanks >> LAST

        misplaced = last_spaces & wide_spaces  # on the last byte of a character, not the first
        while misplaced:
            k = lowest_bit(misplaced)
            misplaced &= misplaced - ONE
            starts &= ~(ONE << np.uint64(k))
            first = base + k
            while byte_at(text + first) & 0xC0 == 0x80:
                first -= 1
            if first >= base:
                starts |= ONE << np.uint64(first - base)
            elif first > token:  # in the block before
                ends[num_ends] = token = first
                num_ends += 1

        while starts:
            end = base + lowest_bit(starts)
            starts &= starts - ONE
            if end == token:
                continue
            if byte_at(text + token) == 0x27:
                contraction = contraction_end(text, token, stop, NO)
                if contraction > token:
                    ends[num_ends] = token = contraction
                    num_ends += 1
                    if end <= token:
                        continue
            ends[num_ends] = token = end
            num_ends += 1
    while token < stop:
        end = contraction_end(text, token, stop, NO) if byte_at(text + token) == 0x27 else token
        ends[num_ends] = token = end if end > token else stop
        num_ends += 1
    return num_ends


@part
def run_end(text, i, stop, classes, wanted):
    """Return where the run of characters of one kind ends that goes on at i."""
    while i < stop:
        found, width = kind_at(text, i, stop, classes)
        if found != wanted:
            break
        i += width
    return i


@part
def cl100k_end(text, i, stop, classes):
    """Return the end of the pre-token of the cl100k pattern that begins at i."""
    b = byte_at(text + i)
    if b == 0x27:
        end = contraction_end(text, i, stop, YES)
        if end > i:
            return end
    found, width = kind_at(text, i, stop, classes)
    j = i + width
    if found == LOWER:
        return run_end(text, j, stop, classes, LOWER)
    after, after_width = OTHER, 0
    if j < stop:
        after, after_width = kind_at(text, j, stop, classes)
    if found == NUMBER:
        digits = 1
        while digits < 3 and j < stop:
            after, after_width = kind_at(text, j, stop, classes)
            if after != NUMBER:
                break
            j += after_width
            digits += 1
        return j
    if after_width and after == LOWER and b != 0x0A and b != 0x0D:
        return run_end(text, j + after_width, stop, classes, LOWER)
    if found == OTHER or (b == 0x20 and after_width and after == OTHER):
        j = run_end(text, j, stop, classes, OTHER)
        while j < stop and byte_at(text + j) in (0x0A, 0x0D):
            j += 1
        return j
    return space_end(text, i, stop, classes, YES)


@part
def space_end(text, i, stop, classes, all_at_end):
    r"""Return the end of `\s*[\r\n]+|\s+(?!\S)|\s+` at white space i.

    all_at_end  at the end of the text take all of it, line ends or not (cl100k)
    """
    last, line_end, j = i, i, i
    while j < stop:
        found, width = char_at(text, j, stop, classes)
        if found != SPACE:
            break
        last = j
        j += width
        if byte_at(text + last) in (0x0A, 0x0D):
            line_end = j
    if line_end > i and not (all_at_end and j == stop):
        return line_end
    return last if i < last and j < stop else j


@part
def numbers_end(text, i, stop, classes):
    r"""Return the end of `\p{N}{1,3}` at i, or i when there is no number."""
    for _ in range(3):
        if i == stop:
            break
        found, width = char_at(text, i, stop, classes)
        if found != NUMBER:
            break
        i += width
    return i


@part
def cased_letters_end(text, start, stop, classes):
    """Return the end of `[UC]*[LC]+|[UC]+[LC]*` at start, or start when nothing matches.

    U is upper or title case, L lower case, C a letter without case or a mark. `[UC]*` takes all
    it can, then the character after it decides:

    - an L: `[LC]+` goes on from there;
    - another one: `[UC]*` gives back down to its last C, which is what `[LC]+` then takes, and
      that alone, for only U follow;
    - there is no C: the second alternative takes the run of U.

    Only a run of U is ever given back, and the next pre-token takes it whole: no character is
    looked at more than twice, however long the run.
    """
    i = caseless_end = start  # where the last C ends
    while i < stop:
        found, width = char_at(text, i, stop, classes)
        if found == LOWER:
            while found in (LOWER, CASELESS, MARK):
                i += width
                if i == stop:
                    break
                found, width = char_at(text, i, stop, classes)
            return i
        i += width
        if found in (CASELESS, MARK):
            caseless_end = i
        elif found != UPPER:
            i -= width
            break
    return caseless_end if caseless_end > start else i


@part
def o200k_end(text, i, stop, classes):
    """Return the end of the pre-token of the o200k pattern that begins at i.

    Unlike in cl100k, a mark is one of the letters where any stand, letters are split where upper
    case follows lower case, and a contraction stays with the letters before it.
    """
    b = byte_at(text + i)
    found, width = char_at(text, i, stop, classes)
    if found == NUMBER:
        return numbers_end(text, i, stop, classes)
    # One other character may lead the letters. So may a mark, but with it the letters after it
    # match no further than without, since it is a letter itself.
    leads = found == OTHER or (found == SPACE and b != 0x0A and b != 0x0D)
    letters = i + width if leads else i
    end = cased_letters_end(text, letters, stop, classes)
    if end > letters:
        if end < stop and byte_at(text + end) == 0x27:
            return contraction_end(text, end, stop, YES)
        return end
    j = i
    if b == 0x20 and i + 1 < stop:
        found, width = char_at(text, i + 1, stop, classes)
        j += 1
    if found == OTHER:
        while j < stop and found in (OTHER, MARK):
            j += width
            if j < stop:
                found, width = char_at(text, j, stop, classes)
        while j < stop and byte_at(text + j) in (0x0A, 0x0D, 0x2F):
            j += 1
        return j
    return space_end(text, i, stop, classes, NO)


@part
def split(text, start, stop, classes, pattern, ends):
    """Write the ends of the pre-tokens of text[start:stop]; return how many there are."""
    if pattern == GPT2:
        return gpt2_ends(text, start, stop, classes, ends)
    num_ends = 0
    i = start
    while i < stop:
        if pattern == CL100K:
            i = cl100k_end(text, i, stop, classes)
        else:
            i = o200k_end(text, i, stop, classes)
        ends[num_ends] = i
        num_ends += 1
    return num_ends


# -- special tokens
#
# `special` is (data, starts, heads): the bytes of the special tokens one after the other, longer
# ones first, where each begins (and the end), and the different first bytes.


@part
def equal_bytes(one, other, length):
    """Tell whether the bytes at two addresses are the same."""
    for k in range(length):  # noqa: SIM110 - Numba has no generators in `all`
        if byte_at(one + k) != byte_at(other + k):
            return False
    return True


@part
def special_at(text, i, stop, special):
    """Return which special token begins at i, the longest of several, or -1."""
    tokens, starts = address_of(special[0]), special[1]
    for number in range(len(starts) - 1):
        length = starts[number + 1] - starts[number]
        if length <= stop - i and equal_bytes(text + i, tokens + starts[number], length):
            return number
    return -1


@part
def next_special(text, i, stop, special):
    """Return (place, number) of the next special token from i on, or (stop, -1)."""
    heads = special[2]
    if not len(heads):
        return stop, -1
    for base in range(i, stop, 64):
        found = ZERO
        for head in heads:
            found |= byte_mask(text + base, head)
        while found:
            place = base + lowest_bit(found)
            found &= found - ONE
            if place < stop:
                number = special_at(text, place, stop, special)
                if number >= 0:
                    return place, number
    return stop, -1


@part
def inside_special(text, place, stop, special):
    """Tell whether a special token in text[:stop] begins before `place` and ends after it."""
    tokens, starts = address_of(special[0]), special[1]
    for number in range(len(starts) - 1):
        length = starts[number + 1] - starts[number]
        for i in range(max(0, place - length + 1), min(place, stop - length + 1)):
            if equal_bytes(text + i, tokens + starts[number], length):
                return True
    return False


@kernel
def find_cut(data, first, last, size, classes, pattern, special):
    """Return a place from `first` to `last` where data[:size], part of a text, may be cut, or -1.

    That is the first one between two characters of which every pattern ends a pre-token after
    the left one (see patterns.py; some patterns have more such places), or else where a special
    token ends. A special token that begins left of the data must not reach past `first`, and
    one that ends right of it must not begin before `last`.
    """
    text, table = address_of(data), address_of(classes)
    left = SPACE
    i = START
    while i <= last and i < size:
        right, width = char_at(text, i, size, table)
        b = byte_at(text + i)
        if i < first or left == SPACE:
            is_cut = False
        elif right == SPACE:
            is_cut = pattern == GPT2 or left not in (OTHER, MARK) or b not in (0x0A, 0x0D)
        elif left >= UPPER:
            is_cut = right < UPPER and right != MARK and b != 0x27
        else:
            is_cut = left == NUMBER and right != NUMBER
        if is_cut and not inside_special(text, i, size, special):
            return i
        left = right
        i += width
    place, number = next_special(text, START, size, special)
    while number >= 0:
        end = place + special[1][number + 1] - special[1][number]
        if first <= end <= last and not (
            inside_special(text, place, size, special) or inside_special(text, end, size, special)
        ):
            return end
        place, number = next_special(text, place + 1, size, special)
    return -1


# -- hashing


@part
def hash_bytes(address, length):
    """Return a 64-bit hash of bytes, which takes eight at a time."""
    h = np.uint64(length)
    for k in range(0, length, 8):
        word = word_at(address + k) & (ALL >> np.uint64(64 - 8 * min(length - k, 8)))
        h = (h ^ word) * MIX_1
        h ^= h >> np.uint64(29)
    return h


@part
def word_key(address, length):
    """Return the two words that stand for a pre-token in a table.

    Up to KEY_BYTES bytes they are the bytes themselves and the length, and never the key of
    another one. Of longer ones they are a hash and a mark, and the bytes must be compared.
    """
    if length > KEY_BYTES:
        return hash_bytes(address, length), LONG_KEY
    # Lengths are hard to foresee, so there is no branch on them; none of the shifts is by 64.
    low = word_at(address) & (ALL >> np.uint64(64 - 8 * min(length, 8)))
    high = word_at(address + 8) & (ALL >> ONE >> np.uint64(63 - 8 * max(length - 8, 0)))
    return low, high | np.uint64(length) << LENGTH_SHIFT


@part
def key_hash(low, high):
    """Return a hash of a key, whose highest bits are the best."""
    return (low ^ high * MIX_2) * MIX_1


@part
def key_batch(text, start, ends, first, size, rows, shift, keys):
    """Write (low, high, hash, start) of `size` pre-tokens to `keys` and ask for their rows.

    Returns where the last one ends. The row of a hash is hash >> shift.
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
def table_shift(rows):
    """Return 64 less the number of bits that index the rows, whose number is a power of two."""
    shift = np.uint64(64)
    size = len(rows)
    while size > 1:
        size >>= 1
        shift -= ONE
    return shift


@part
def larger_table(rows):
    """Return a table of twice the size with the same rows."""
    larger = np.zeros((2 * len(rows), 4), np.uint64)
    shift, mask = table_shift(larger), np.uint64(len(larger) - 1)
    for k in range(len(rows)):
        if rows[k, 1]:
            row = key_hash(rows[k, 0], rows[k, 1]) >> shift
            while larger[row, 1]:
                row = (row + ONE) & mask
            for column in range(4):
                larger[row, column] = rows[k, column]
    return larger


@kernel
def count_pieces(data, start, ends, num_ends, weights, rows, arena, used):
    """Count the pre-tokens that end at `ends` into a table; return the table (rows, arena).

    weights  what each one counts, or a single value for all
    rows     (power of two, 4) uint64: the key (0, 0 where free), the count, and for a long
             pre-token where its bytes begin in the arena and its length, start << 32 | length
    arena    (bytes,) uint8, the bytes of the long ones
    used     (2,) int64: rows and bytes of the arena in use
    """
    text = address_of(data)
    keys = np.empty((BATCH, 4), np.uint64)
    shift, mask = table_shift(rows), np.uint64(len(rows) - 1)
    for first in range(0, num_ends, BATCH):
        size = min(BATCH, num_ends - first)
        if 2 * (used[0] + size) > len(rows):
            rows = larger_table(rows)
            shift, mask = table_shift(rows), np.uint64(len(rows) - 1)
        start = key_batch(text, start, ends, first, size, address_of(rows), shift, keys)
        for k in range(size):
            low, high = keys[k, 0], keys[k, 1]
            row = keys[k, 2] >> shift
            is_long = high == LONG_KEY
            i = np.int64(keys[k, 3])
            length = np.int64(ends[first + k]) - i
            while rows[row, 1]:
                if rows[row, 0] == low and rows[row, 1] == high:
                    if not is_long:
                        break
                    where = np.int64(rows[row, 3])
                    known = address_of(arena) + (where >> 32)
                    if where & 0xFFFFFFFF == length and equal_bytes(text + i, known, length):
                        break
                row = (row + ONE) & mask
            if not rows[row, 1]:
                rows[row, 0], rows[row, 1] = low, high
                used[0] += 1
                if is_long:
                    rows[row, 3] = np.uint64(used[1] << 32 | length)
                    if used[1] + length > len(arena):
                        larger = np.empty(2 * (used[1] + length), np.uint8)
                        for b in range(used[1]):
                            larger[b] = arena[b]
                        arena = larger
                    for b in range(length):
                        arena[used[1] + b] = data[i + b]
                    used[1] += length
            weight = weights[first + k] if len(weights) > 1 else weights[0]
            rows[row, 2] += np.uint64(weight)
    return rows, arena


@kernel
def count_text(data, size, classes, pattern, special, ends, rows, arena, used):
    """Count the pre-tokens of data[:size] between special tokens; return the table as above."""
    text, table = address_of(data), address_of(classes)
    weights = np.ones(1, np.int64)
    start = START
    while start < size:
        place, number = next_special(text, start, size, special)
        num_ends = split(text, start, place, table, pattern, ends)
        rows, arena = count_pieces(data, start, ends, num_ends, weights, rows, arena, used)
        start = place
        if number >= 0:
            start += special[1][number + 1] - special[1][number]
    return rows, arena


@kernel
def list_words(rows, arena, used):
    """Return (data, starts, counts) of the words in a table, as in WordCounts."""
    num_bytes = 0
    for k in range(len(rows)):
        length = np.int64(rows[k, 1] >> LENGTH_SHIFT)
        num_bytes += length if length <= KEY_BYTES else np.int64(rows[k, 3]) & 0xFFFFFFFF
    data = np.empty(num_bytes, np.uint8)
    starts = np.zeros(used[0] + 1, np.int64)
    counts = np.empty(used[0], np.int64)
    word = end = 0
    for k in range(len(rows)):
        length = np.int64(rows[k, 1] >> LENGTH_SHIFT)
        if not length:
            continue
        if length > KEY_BYTES:
            where = np.int64(rows[k, 3])
            length = where & 0xFFFFFFFF
            for b in range(length):
                data[end + b] = arena[(where >> 32) + b]
        else:
            for b in range(length):
                data[end + b] = rows[k, b >> 3] >> np.uint64(8 * (b & 7)) & np.uint64(0xFF)
        counts[word] = rows[k, 2]
        word += 1
        end += length
        starts[word] = end
    return data, starts, counts


# -- encoding


@part
def merge_slot(left, right, mask):
    """Return (key, first slot to look at) of two neighbouring ids in the table of merges."""
    key = np.uint64(left) << RANK_SHIFT | np.uint64(right)
    return key, key * MIX_1 >> RANK_SHIFT & mask


@kernel
def fill_merges(found, merges):
    """Enter rows of (left, right, rank, merged id) into the hash table `merges`.

    merges   (power of two, 2) uint64: left << 32 | right, or ALL where free; rank << 32 | merged
    """
    mask = np.uint64(len(merges) - 1)
    for k in range(len(found)):
        key, slot = merge_slot(found[k, 0], found[k, 1], mask)
        while merges[slot, 0] != ALL:
            slot = (slot + ONE) & mask
        merges[slot, 0] = key
        merges[slot, 1] = np.uint64(found[k, 2]) << RANK_SHIFT | np.uint64(found[k, 3])


@part
def find_merge(left, right, merges, mask):
    """Return rank << 32 | merged id for two neighbours, or NO_MERGE; merges is an address."""
    key, slot = merge_slot(left, right, mask)
    while True:
        entry = merges + MERGE_BYTES * np.int64(slot)
        found = word_at(entry)
        if found == key:
            return word_at(entry + 8)
        if found == ALL:
            return NO_MERGE
        slot = (slot + ONE) & mask


@part
def ask_merge(left, right, merges, mask):
    """Ask for the memory at which `find_merge` begins to look."""
    _, slot = merge_slot(left, right, mask)
    prefetch(merges + MERGE_BYTES * np.int64(slot))


@part
def start_merging(entry, byte_ids, merges, mask):
    """Write the ids of the bytes of a word that waits, and ask for what their pairs merge to."""
    word, n, ids = at(entry + WORD), at(entry + LENGTH), entry + IDS
    for k in range(n):
        write_id(ids + 4 * k, id_at(byte_ids + 4 * byte_at(word + k)))
        if k:
            ask_merge(id_at(ids + 4 * k - 4), id_at(ids + 4 * k), merges, mask)
    put(entry + COUNT, n)


@part
def find_merges(entry, merges, mask):
    """Look up all pairs of a word."""
    ids, found = entry + IDS, entry + MERGES
    for k in range(at(entry + COUNT) - 1):
        merge = find_merge(id_at(ids + 4 * k), id_at(ids + 4 * k + 4), merges, mask)
        write_word(found + 8 * k, merge)


@part
def merge_once(entry, merges, mask):
    """Do the merge of lowest rank and ask for those of the new pairs; False where there is none."""
    n, ids, found = at(entry + COUNT), entry + IDS, entry + MERGES
    best, lowest = START, NO_MERGE
    for k in range(n - 1):
        merge = word_at(found + 8 * k)
        if merge < lowest:
            best, lowest = k, merge
    if lowest == NO_MERGE:
        return False
    n -= 1
    merged = np.int64(lowest & LOW_32)
    write_id(ids + 4 * best, merged)
    for k in range(best + 1, n):
        write_id(ids + 4 * k, id_at(ids + 4 * k + 4))
        write_word(found + 8 * k, word_at(found + 8 * k + 8))
    if best + 1 < n:
        ask_merge(merged, id_at(ids + 4 * best + 4), merges, mask)
    if best:
        ask_merge(id_at(ids + 4 * best - 4), merged, merges, mask)
    put(entry + COUNT, n)
    put(entry + MERGED, best)
    return True


@part
def renew_merges(entry, merges, mask):
    """Look up the pairs on both sides of what `merge_once` merged."""
    n, best, ids, found = at(entry + COUNT), at(entry + MERGED), entry + IDS, entry + MERGES
    merged = id_at(ids + 4 * best)
    if best + 1 < n:
        right = id_at(ids + 4 * best + 4)
        write_word(found + 8 * best, find_merge(merged, right, merges, mask))
    if best:
        left = id_at(ids + 4 * best - 4)
        write_word(found + 8 * best - 8, find_merge(left, merged, merges, mask))


@part
def push_rank(waiting, rank):
    """Add a rank to the min-heap of the ranks whose queues are not empty; [0] is its size."""
    at = id_at(waiting) + 1
    write_id(waiting, at)
    while at > 1 and id_at(waiting + 4 * (at >> 1)) > rank:
        write_id(waiting + 4 * at, id_at(waiting + 4 * (at >> 1)))
        at >>= 1
    write_id(waiting + 4 * at, rank)


@part
def pop_rank(waiting):
    """Take the lowest rank out of the heap."""
    lowest, size = id_at(waiting + 4), id_at(waiting) - 1
    write_id(waiting, size)
    moved = id_at(waiting + 4 * (size + 1))
    at = 1
    while 2 * at <= size:
        child = 2 * at
        if child < size and id_at(waiting + 4 * (child + 1)) < id_at(waiting + 4 * child):
            child += 1
        if id_at(waiting + 4 * child) >= moved:
            break
        write_id(waiting + 4 * at, id_at(waiting + 4 * child))
        at = child
    write_id(waiting + 4 * at, moved)
    return lowest


@part
def add_place(place, left, right, merges, mask, queues, entries, free, waiting):
    """Put a pair of neighbours that begins at `place`, if it merges, at the end of a queue.

    Returns the rank, or -1. `free` is an entry that can be used; the next one is linked to it.
    """
    found = find_merge(left, right, merges, mask)
    if found == NO_MERGE:
        return -1
    rank = np.int64(found >> RANK_SHIFT)
    queue = queues + 8 * rank
    if id_at(queue) == NONE:
        write_id(queue, free)
        push_rank(waiting, rank)
    else:
        write_id(entries + 8 * id_at(queue + 4) + 4, free)
    write_id(queue + 4, free)
    write_id(entries + 8 * free, place)
    return rank


@part
def sort_queue(queue, entries):
    """Bring the places of a queue, most often in order already, into ascending order."""
    first, last = id_at(queue), id_at(queue + 4)
    size, in_order, entry = 1, True, first
    while entry != last:
        following = id_at(entries + 8 * entry + 4)
        in_order &= id_at(entries + 8 * entry) < id_at(entries + 8 * following)
        entry = following
        size += 1
    if not in_order:
        places = np.empty(size, np.int64)
        entry = first
        for k in range(size):
            places[k] = id_at(entries + 8 * entry)
            entry = id_at(entries + 8 * entry + 4)
        places.sort()
        entry = first
        for k in range(size):
            write_id(entries + 8 * entry, places[k])
            entry = id_at(entries + 8 * entry + 4)


@part
def merge_long(ids, n, merges, mask, queues, room):
    """Merge a word of any length; in linear time but for sorting. Returns how many ids are left.

    The places where a pair of some rank begins wait in a queue for that rank, and the lowest rank
    is worked off from left to right. A merge makes a longer token, so that it cannot add to the
    queue that it came from; only pairs of a lower rank go before the rest of it, which real
    vocabularies do not have. A pair that has lost a token in the meantime is passed over.

    ids      address of n uint32; a token stands at the place of its first byte, NONE at the others
    queues   address of (ranks, 2) uint32: first and last entry, the first NONE where there is
             none, as in all queues before and after
    room     (LONG_BYTES * (n + 1),) uint8: the places before and after each one, uint32;
             2 n entries of place and next entry, enough since each merge frees one and adds two at
             most; the ranks waiting
    """
    before = address_of(room)
    after, entries, waiting = before + 4 * n, before + 8 * n, before + 24 * n
    write_id(waiting, 0)
    num_entries = START
    for k in range(n - 1):
        left, right = id_at(ids + 4 * k), id_at(ids + 4 * k + 4)
        rank = add_place(k, left, right, merges, mask, queues, entries, num_entries, waiting)
        num_entries += rank >= 0
    if not num_entries:
        return n
    for k in range(n):
        write_id(before + 4 * k, k - 1)
        write_id(after + 4 * k, k + 1)
    write_id(before, NONE)
    write_id(after + 4 * n - 4, NONE)
    freed = NONE  # the entry freed last, which is linked to the one before
    while id_at(waiting):
        rank = pop_rank(waiting)
        queue = queues + 8 * rank
        if not id_at(queue + 4) & SORTED:
            sort_queue(queue, entries)
        entry, last = id_at(queue), id_at(queue + 4) & ~SORTED
        write_id(queue, NONE)
        while True:
            i, following = id_at(entries + 8 * entry), id_at(entries + 8 * entry + 4)
            is_last = entry == last
            write_id(entries + 8 * entry + 4, freed)
            freed = entry
            j = id_at(after + 4 * i)
            found = NO_MERGE
            if j != NONE and id_at(ids + 4 * i) != NONE:
                found = find_merge(id_at(ids + 4 * i), id_at(ids + 4 * j), merges, mask)
            goes_before = False
            if found != NO_MERGE and np.int64(found >> RANK_SHIFT) == rank:
                merged = np.int64(found & LOW_32)
                write_id(ids + 4 * i, merged)
                write_id(ids + 4 * j, NONE)
                h, m = id_at(before + 4 * i), id_at(after + 4 * j)
                write_id(after + 4 * i, m)
                if m != NONE:
                    write_id(before + 4 * m, i)
                for place, neighbour in ((h, h), (i, m)):
                    if neighbour == NONE:
                        continue
                    left = id_at(ids + 4 * place)
                    right = merged if place == h else id_at(ids + 4 * m)
                    free = num_entries if freed == NONE else freed
                    next_freed = NONE if freed == NONE else id_at(entries + 8 * freed + 4)
                    new = add_place(
                        place, left, right, merges, mask, queues, entries, free, waiting
                    )
                    if new >= 0:
                        num_entries += freed == NONE
                        freed = next_freed
                        goes_before |= new < rank
            if is_last:
                break
            entry = following
            if goes_before:
                write_id(queue, entry)
                write_id(queue + 4, last | SORTED)
                push_rank(waiting, rank)
                break
    kept = 0
    for k in range(n):
        token = id_at(ids + 4 * k)
        if token != NONE:
            write_id(ids + 4 * kept, token)
            kept += 1
    return kept


@part
def copy_ids(source, n, target):
    """Copy n ids from one address to another."""
    for k in range(n):
        write_id(target + 4 * k, id_at(source + 4 * k))


@part
def slot_of(entry, slots):
    """Return where a word is kept that does not fit into a row.

    There stand its length and the number of its ids, uint32, then SHORT bytes, then the ids.
    """
    length = at(entry + LENGTH)
    hashed = hash_bytes(at(entry + WORD), length) & np.uint64(LONG_SLOTS - 1)
    return slots + SLOT_BYTES * np.int64(hashed)


@part
def rows_of(row):
    """Return the four rows in which a key may stand: the two of its line, and the line beside."""
    beside = row ^ LINE_BYTES
    return row, row ^ ROW_BYTES, beside, beside ^ ROW_BYTES


@part
def add_waiting(entry, word, length, row, low, high, ids, slots):
    """Put a word down that is not in the rows of its line, to be encoded with others."""
    put(entry + WORD, word)
    put(entry + LENGTH, length)
    put(entry + ROW, row)
    write_word(entry + LOW, low)
    write_word(entry + HIGH, high)
    put(entry + PLACE, ids)
    if length <= KEY_BYTES:
        prefetch(row ^ LINE_BYTES)
    else:
        prefetch(slot_of(entry, slots))


@part
def find_known(entry, slots):
    """Return whether a word that waits was met before; then its ids are in the entry."""
    ids, row = entry + IDS, at(entry + ROW)
    length, low, high = at(entry + LENGTH), word_at(entry + LOW), word_at(entry + HIGH)
    is_elsewhere = length > KEY_BYTES
    if not is_elsewhere:
        for found in rows_of(row):
            if published_word(found + 8) == high and word_at(found) == low:
                last_ids = word_at(found + 24)
                n = np.int64(last_ids >> COUNT_SHIFT)
                is_elsewhere = n > INLINE
                if not is_elsewhere:
                    put(entry + COUNT, n)
                    write_word(ids, word_at(found + 16))
                    write_word(ids + 8, last_ids & ~COUNT_MASK)
                    return True
    if is_elsewhere:
        slot = slot_of(entry, slots)
        if id_at(slot) == length and equal_bytes(at(entry + WORD), slot + 8, length):
            n = id_at(slot + 4)
            put(entry + COUNT, n)
            copy_ids(slot + 8 + SHORT, n, ids)
            return True
    return False


@part
def remember(entry, slots, lost):
    """Keep the ids of a word for the next time, or count it as lost where all rows are taken.

    Other threads read and write the same rows: who takes one marks it as BUSY, and shows its key
    when the rest is written. Then it stays as it is.
    """
    ids, n, row = entry + IDS, at(entry + COUNT), at(entry + ROW)
    word, length = at(entry + WORD), at(entry + LENGTH)
    low, high = word_at(entry + LOW), word_at(entry + HIGH)
    if length <= KEY_BYTES:
        first_ids, last_ids = ZERO, COUNT_MASK
        if n <= INLINE:
            first_ids = word_at(ids)
            last_ids = word_at(ids + 8) & ~COUNT_MASK | np.uint64(n) << COUNT_SHIFT
        for free in rows_of(row):
            found = published_word(free + 8)
            if found == high and word_at(free) == low:
                break
            if not found and claim_word(free + 8, BUSY):
                write_word(free, low)
                write_word(free + 16, first_ids)
                write_word(free + 24, last_ids)
                publish_word(free + 8, high)
                break
        else:
            put(lost, at(lost) + 1)
        if n <= INLINE:
            return
    slot = slot_of(entry, slots)
    write_id(slot, length)
    write_id(slot + 4, n)
    for k in range(0, length, 8):
        write_word(slot + 8 + k, word_at(word + k))
    copy_ids(ids, n, slot + 8 + SHORT)


@part
def encode_waiting(room, lost, count, end, byte_ids, merges, mask):
    """Encode the words that wait, and close the gaps that were left for them among the ids.

    Each gap is of as many ids as the word has bytes; `end` is the address behind the last id.
    Returns where the ids end then.
    """
    order, slots = room + ORDER, room + SLOTS
    new = START
    for k in range(count):
        entry = room + WAITING_BYTES * k
        if not find_known(entry, slots):
            start_merging(entry, byte_ids, merges, mask)
            put(order + 8 * new, entry)
            new += 1
    for k in range(new):
        find_merges(at(order + 8 * k), merges, mask)
    going = START
    for k in range(new):
        entry = at(order + 8 * k)
        if merge_once(entry, merges, mask):
            put(order + 8 * going, entry)
            going += 1
        else:
            remember(entry, slots, lost)
    while going:
        still = START
        for k in range(going):
            entry = at(order + 8 * k)
            renew_merges(entry, merges, mask)
            if merge_once(entry, merges, mask):
                put(order + 8 * still, entry)
                still += 1
            else:
                remember(entry, slots, lost)
        going = still
    ids = at(room + PLACE)
    for k in range(count):
        entry = room + WAITING_BYTES * k
        n = at(entry + COUNT)
        copy_ids(entry + IDS, n, ids)
        ids += 4 * n
        first = at(entry + PLACE) + 4 * at(entry + LENGTH)
        last = at(entry + WAITING_BYTES + PLACE) if k + 1 < count else end
        for source in range(first, last, 8):
            write_word(ids + source - first, word_at(source))
        ids += last - first
    return ids


@part
def encode_pieces(text, start, ends, num_ends, model, cache, out, written):
    """Encode the pre-tokens that end at `ends`; return how many ids `out` then has."""
    byte_ids, merges, queues = model
    bytes_table, merge_table = address_of(byte_ids), address_of(merges)
    queue_table, mask = address_of(queues), np.uint64(len(merges) - 1)
    table, lost, room = address_of(cache[0]), address_of(cache[1]), address_of(cache[2])
    shift = table_shift(cache[0])
    first_id = address_of(out)
    ids = first_id + 4 * written
    waiting = START
    keys = np.empty((BATCH, 4), np.uint64)
    for first in range(0, num_ends, BATCH):
        size = min(BATCH, num_ends - first)
        start = key_batch(text, start, ends, first, size, table, shift, keys)
        for k in range(np.uint64(size)):
            low, high = keys[k, 0], keys[k, 1]
            row = table + ROW_BYTES * np.int64(keys[k, 2] >> shift)
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
            i = np.int64(keys[k, 3])
            word, length = text + i, np.int64(ends[first + np.int64(k)]) - i
            if length <= SHORT:
                entry = room + WAITING_BYTES * waiting
                add_waiting(entry, word, length, row, low, high, ids, room + SLOTS)
                ids += 4 * length
                waiting += 1
                if waiting == WAITING:
                    ids = encode_waiting(room, lost, waiting, ids, bytes_table, merge_table, mask)
                    waiting = START
            else:
                for b in range(length):
                    write_id(ids + 4 * b, id_at(bytes_table + 4 * byte_at(word + b)))
                more = np.empty(LONG_BYTES * (length + 1), np.uint8)
                ids += 4 * merge_long(ids, length, merge_table, mask, queue_table, more)
    if waiting:
        ids = encode_waiting(room, lost, waiting, ids, bytes_table, merge_table, mask)
    return (ids - first_id) >> 2


@kernel
def encode_texts(
    data, starts, classes, pattern, special, special_ids, model, cache, ends, out, out_starts
):
    """Encode texts that stand one after the other.

    data         (bytes and PADDING,) uint8
    starts       (texts + 1,) int64, where each text begins, and the end of the last
    special_ids  the ids of the special tokens
    model        (byte_ids (256,) uint32, merges as in `fill_merges`, queues as in `merge_long`)
    cache        of pre-tokens met before, for the caller to keep:
                   rows (power of two, 4) uint64: key, four ids of which the top 4 bits are their
                   number, or 15 if they are in a slot (see `slot_of`); for all threads;
                   lost (1,) int64: how many words found no row, more or less; for all threads;
                   room (ROOM_BYTES,) uint8, zeros at first: for one thread at a time
    ends         (bytes,) int32, to work with
    out          (bytes + INLINE,) uint32, the ids;  out_starts: where those of each text begin
    """
    text, table = address_of(data), address_of(classes)
    written = START
    for k in range(len(starts) - 1):
        out_starts[k] = written
        start, stop = starts[k], starts[k + 1]
        while start < stop:
            place, number = next_special(text, start, stop, special)
            num_ends = split(text, start, place, table, pattern, ends)
            written = encode_pieces(text, start, ends, num_ends, model, cache, out, written)
            start = place
            if number >= 0:
                out[written] = special_ids[number]
                written += 1
                start += special[1][number + 1] - special[1][number]
    out_starts[len(starts) - 1] = written


# -- decoding


@kernel
def decoded_size(ids, places):
    """Return how many bytes the tokens have, or -1 where an id is none.

    places   (ids, 2) int64: where the bytes of a token begin and how many they are, -1 for none
    """
    total = 0
    for k in range(len(ids)):
        token = np.uint64(ids[k])
        if token >= np.uint64(len(places)) or places[token, 1] < 0:
            return -1
        total += places[token, 1]
    return total


@kernel
def decode(ids, tokens, places, out):
    """Write the bytes of the tokens one after the other, and up to 8 more."""
    source, target = address_of(tokens), address_of(out)
    for k in range(len(ids)):
        token = np.uint64(ids[k])
        start, size = source + places[token, 0], places[token, 1]
        for b in range(0, size, 8):
            write_word(target + b, word_at(start + b))
        target += size
