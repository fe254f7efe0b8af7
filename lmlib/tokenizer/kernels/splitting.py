"""Split bytes into pre-tokens by the three named patterns, and find special tokens.

For gpt2, 64 bytes are classified at once, and shifts of the resulting bit masks give the starts of
pre-tokens; cl100k and o200k are split character by character. `classes` is the address of a table
with the class of every code point, see characters.py. patterns.py and reference.py define the same
splits in plain Python.
"""

import numpy as np

from lmlib.native.compiling import kernel, part, view
from lmlib.tokenizer.kernels.llvm import (
    ALL,
    NO,
    ONE,
    START,
    YES,
    ZERO,
    byte_at,
    byte_mask,
    class_masks,
    lowest_bit,
    word_at,
)
from lmlib.tokenizer.kernels.records import (
    CASELESS,
    CL100K,
    EDGE,
    FILTER_BITS,
    GPT2,
    LOWER,
    MARK,
    NUMBER,
    OTHER,
    SPACE,
    SPECIAL,
    UPPER,
)

LAST = np.uint64(63)  # the highest bit of a mask
FEW_HEADS = 4  # first bytes of special tokens: more are searched for with the filter
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, well mixed
WORDS = FILTER_BITS // 64
FILTER_SHIFT = np.uint64(64 - (FILTER_BITS.bit_length() - 1))


# -- characters


@part
def char_at(text, i, stop, classes):
    """Return (class, width in bytes) of the character at i; a byte of invalid UTF-8 is OTHER."""
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
        # E0 80..9F would be overlong, ED A0..BF are surrogates
        if (
            c & 0xC0 == 0x80
            and d & 0xC0 == 0x80
            and not (b == 0xE0 and c < 0xA0)
            and not (b == 0xED and c > 0x9F)
        ):
            return byte_at(classes + ((b & 0x0F) << 12 | (c & 0x3F) << 6 | d & 0x3F)), 3
    elif 0xF0 <= b <= 0xF4 and left > 3:
        c, d, e = byte_at(text + i + 1), byte_at(text + i + 2), byte_at(text + i + 3)
        # F0 80..8F would be overlong, F4 90..BF is above U+10FFFF
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
    """Return what `char_at` does, but LOWER for all letters and OTHER for marks (gpt2, cl100k)."""
    found, width = char_at(text, i, stop, classes)
    if found >= UPPER:
        return LOWER, width
    return OTHER if found == MARK else found, width


@part
def contraction_end(text, i, stop, ignore_case):
    """Return the end of 's 'd 'm 't 'll 've 're at apostrophe i, or i if there is none."""
    fold = 0x20 if ignore_case else 0
    if i + 1 < stop:
        c = byte_at(text + i + 1) | fold
        if c == 0x73 or c == 0x64 or c == 0x6D or c == 0x74:
            return i + 2
        if i + 2 < stop:
            d = byte_at(text + i + 2) | fold
            if (c == 0x6C and d == 0x6C) or (c == 0x76 and d == 0x65) or (c == 0x72 and d == 0x65):
                return i + 3
            # U+017F, the long s, equals s when case is ignored
            if ignore_case and byte_at(text + i + 1) == 0xC5 and byte_at(text + i + 2) == 0xBF:
                return i + 3
    return i


# -- splitting


@part
def gpt2_ends(text, start, stop, classes, ends):
    r"""Write the ends of the pre-tokens of the GPT-2 pattern; return how many there are.

    In masks, bit k represents byte base + k, and all bytes of a character have its class. From left
    to right, a pre-token begins
      - where a run of letters, of numbers or of others begins, unless a blank precedes it, which
        ` ?` includes;
      - where white space begins;
      - at the last character of white space before other text, which `\s+(?!\S)` leaves.
    Contractions are found afterwards, at apostrophes that begin a pre-token.
    """
    num_ends = 0
    token = start  # the start of the current pre-token, whose end is not known yet
    was_letter = was_number = was_other = was_space = was_blank = ZERO  # of the byte before base
    char_end, kind = start, OTHER  # of the last non-ASCII character
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
        spaces |= wide_spaces | ~inside  # past the end of the text counts as white space
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
    """Return the end of the run of characters of class `wanted` that continues at i."""
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

    all_at_end  at the end of the text take all white space, with or without line ends (cl100k)
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
    r"""Return the end of `\p{N}{1,3}` at i, or i if there is no number."""
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
    """Return the end of `[UC]*[LC]+|[UC]+[LC]*` at start, or start if nothing matches.

    U is upper or title case, L lower case, C a letter without case or a mark. `[UC]*` takes all
    it can, then the character after it decides:

    - an L: `[LC]+` continues from there;
    - anything else: `[UC]*` backtracks to its last C, which `[LC]+` then takes, and nothing more,
      since only U follow;
    - anything else, and there is no C: the second alternative takes the run of U.

    It only ever backtracks over a run of U, which the next pre-token takes entirely: no character
    is read more than twice, however long the run.
    """
    i = caseless_end = start  # the end of the last C
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

    Unlike in cl100k, a mark counts as a letter in a run of letters, letters are split where upper
    case follows lower case, and a contraction stays with the letters before it.
    """
    b = byte_at(text + i)
    found, width = char_at(text, i, stop, classes)
    if found == NUMBER:
        return numbers_end(text, i, stop, classes)
    # One other character may precede the letters. So may a mark, but this does not change where the
    # letters end, since a mark is a letter itself.
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


@part
def equal_bytes(one, other, length):
    """Return whether the bytes at two addresses are the same."""
    for k in range(length):  # noqa: SIM110 - Numba has no generators in `all`
        if byte_at(one + k) != byte_at(other + k):
            return False
    return True


@part
def token_span(special, number):
    """Return the address of a special token and its length in bytes."""
    start = np.int64(word_at(special.starts + 8 * number))
    return special.data + start, np.int64(word_at(special.starts + 8 * number + 8)) - start


@part
def filter_bit(word, mask):
    """Return the index of the bit in the filter for a word's bytes under a mask."""
    return np.int64((word & mask) * MIX >> FILTER_SHIFT)


@part
def edge_row(edges, node, byte):
    """Return the row of the edge from a node by a byte, or the free one where it would be."""
    key = np.uint64(node) << np.uint64(8) | np.uint64(byte)
    last = np.uint64(len(edges) - 1)
    row = key * MIX >> np.uint64(32) & last
    while edges[row].key != key and edges[row].key != ALL:
        row = (row + ONE) & last
    return row, key


@kernel
def fill_special(specials):
    """Enter the tokens of a SPECIAL into its masks, its filter and its edges; return 0.

    At first masks and filter are zeros, and all bits of the edges are set.
    """
    special = view(specials, 1, SPECIAL)[0]
    masks, bits = view(special.masks, 256, np.uint64), view(special.filter, WORDS, np.uint64)
    edges = view(special.edges, special.num_edges, EDGE)
    for number in range(special.num_tokens):
        token, length = token_span(special, number)
        mask = ALL >> np.uint64(64 - 8 * min(length, 8))
        known = masks[byte_at(token)]
        masks[byte_at(token)] = known & mask if known else mask
    for number in range(special.num_tokens):
        token, length = token_span(special, number)
        bit = filter_bit(word_at(token), masks[byte_at(token)])
        bits[bit >> 6] |= ONE << np.uint64(bit & 63)
        node = np.uint64(0)
        for k in range(length):
            row, key = edge_row(edges, node, byte_at(token + k))
            edge = edges[row]
            edge.only = number if edge.key == ALL else -1
            edge.key = key
            if k == length - 1:
                edge.ending = number
            node = row + ONE
    return START


@part
def may_begin(word, special):
    """Return 1 if a special token may begin at a word of the text, and 0 if none does."""
    mask = word_at(special.masks + 8 * np.int64(word & np.uint64(0xFF)))
    bit = filter_bit(word, mask)
    found = word_at(special.filter + 8 * (bit >> 6)) >> np.uint64(bit & 63) & ONE
    return found & np.uint64(mask != ZERO)


@part
def special_at(text, i, stop, special):
    """Return the number of the longest special token that begins at i, or -1."""
    longest = np.int64(-1)
    if not may_begin(word_at(text + i), special):
        return longest
    edges = view(special.edges, special.num_edges, EDGE)
    node = ZERO
    for k in range(i, stop):
        row, _ = edge_row(edges, node, byte_at(text + k))
        edge = edges[row]
        if edge.key == ALL:
            break
        if edge.only >= 0:
            token, length = token_span(special, np.int64(edge.only))
            if length <= stop - i and equal_bytes(text + i, token, length):
                return np.int64(edge.only)
            break
        if edge.ending >= 0:
            longest = np.int64(edge.ending)
        node = row + ONE
    return longest


@part
def next_special(text, i, stop, special):
    """Return (offset, number) of the first special token at or after i, or (stop, -1)."""
    if not special.num_heads:
        return stop, np.int64(-1)
    for base in range(i, stop, 64):
        found = ZERO
        if special.num_heads <= FEW_HEADS:
            for k in range(special.num_heads):
                found |= byte_mask(text + base, np.uint8(byte_at(special.heads + k)))
        else:
            for k in range(min(64, stop - base)):
                found |= may_begin(word_at(text + base + k), special) << np.uint64(k)
        while found:
            offset = base + lowest_bit(found)
            found &= found - ONE
            if offset < stop:
                number = special_at(text, offset, stop, special)
                if number >= 0:
                    return offset, number
    return stop, np.int64(-1)


@part
def inside_special(text, offset, stop, special):
    """Return whether a special token in text[:stop] begins before `offset` and ends after it."""
    for i in range(max(0, offset - special.longest + 1), offset):
        number = special_at(text, i, stop, special)
        if number >= 0 and i + token_span(special, number)[1] > offset:
            return True
    return False


@kernel
def find_cut(text, first, last, size, classes, pattern, specials):
    """Return an offset from `first` to `last` at which a part of a text may be cut, or -1.

    That is the first offset where the two adjacent characters end a pre-token in every pattern (see
    patterns.py; some patterns have more such offsets), or else the end of a special token. A
    special token that begins left of text[:size] must not reach past `first`, and one that ends
    right of it must not begin before `last`.
    """
    special = view(specials, 1, SPECIAL)[0]
    left = SPACE
    i = START
    while i <= last and i < size:
        right, width = char_at(text, i, size, classes)
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
    offset, number = next_special(text, START, size, special)
    while number >= 0:
        _, length = token_span(special, number)
        end = offset + length
        if first <= end <= last and not (
            inside_special(text, offset, size, special) or inside_special(text, end, size, special)
        ):
            return end
        offset, number = next_special(text, offset + 1, size, special)
    return np.int64(-1)
