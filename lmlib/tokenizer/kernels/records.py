"""The records through which Python and the kernels share memory.

Fields named in the plural, and those with a shape in their comment, are addresses.
"""

import numpy as np

PADDING = 64  # bytes of any value after a text, since loads are 64 bytes wide
GPT2, CL100K, O200K = range(3)  # the named patterns
OTHER, MARK, NUMBER, SPACE, UPPER, LOWER, CASELESS = range(7)  # character classes; letters >= UPPER

# -- splitting

FILTER_BITS = 1 << 17

# The special tokens of a splitter: addresses and sizes. `fill_special` enters the tokens into the
# masks, the filter and the edges, from which `special_at` finds them.
SPECIAL = np.dtype(
    [
        ("data", np.int64),  # bytes of all tokens
        ("starts", np.int64),  # (num_tokens + 1,) int64: where each begins in `data`, then the end
        ("num_tokens", np.int64),
        ("longest", np.int64),  # bytes of the longest token
        ("heads", np.int64),  # (num_heads,) uint8: the distinct first bytes
        ("num_heads", np.int64),
        # The filter: if a token begins at a word of 8 bytes, then `masks` has an item for the first
        # byte, and the hash of the word's bytes under that mask is a bit that is set.
        ("masks", np.int64),  # (256,) uint64: 0 if no token begins with this byte
        ("filter", np.int64),  # (FILTER_BITS / 64,) uint64
        ("edges", np.int64),  # (num_edges,) EDGE, num_edges a power of two: a trie as a hash table
        ("num_edges", np.int64),
    ]
)
# An edge from one node of the trie to the next. A node is 1 + the row of the edge to it; the root
# is 0.
EDGE = np.dtype(
    [
        ("key", np.uint64),  # node << 8 | byte; all bits set if the row is free
        ("ending", np.int32),  # number of the token that ends after this byte, or -1
        ("only", np.int32),  # number of the token, if only one goes through this edge, or -1
    ]
)


# -- counting

# A pre-token in the table of counts
COUNT = np.dtype(
    [
        ("low", np.uint64),  # its key
        ("high", np.uint64),  # 0 where the row is free
        ("count", np.int64),
        ("start", np.int32),  # if it is longer than a key: the offset of its bytes in the arena,
        ("length", np.int32),  # and their number
    ]
)
# The table: addresses, sizes, and how much is in use
TABLE = np.dtype(
    [
        ("rows", np.int64),  # (num_rows,) COUNT, num_rows a power of two
        ("num_rows", np.int64),
        ("arena", np.int64),  # (arena_size,) uint8: the bytes of the pre-tokens longer than a key
        ("arena_size", np.int64),
        ("num_words", np.int64),
        ("num_bytes", np.int64),  # of all words
        ("arena_used", np.int64),
        ("arena_needed", np.int64),  # for the pre-token to be counted next, if it does not fit
    ]
)


# -- encoding

SHORT = 64  # pre-tokens up to this many bytes are cached, and merged in a small array
LONG_SLOTS = 1 << 12  # for cached pre-tokens whose bytes or ids do not fit into a row
WAITING = 32  # pre-tokens that wait to be merged together

# What one call encodes, and what it needs for that: addresses and sizes
JOB = np.dtype(
    [
        ("text", np.int64),  # the bytes of all texts, and PADDING more
        ("starts", np.int64),  # (num_texts + 1,) int64: where each text begins, then the end
        ("num_texts", np.int64),
        ("classes", np.int64),  # (0x110000,) uint8: the class of every character
        ("pattern", np.int64),
        ("special", np.int64),  # a SPECIAL
        ("special_ids", np.int64),  # (special tokens,) uint32
        ("byte_ids", np.int64),  # (256,) uint32
        ("merges", np.int64),  # as in `fill_merges`
        ("num_merge_rows", np.int64),
        # The cache of pre-tokens, for all threads: (num_rows, 4) uint64, num_rows a power of two.
        # A row is the key (two words) and four ids (two words). The top 4 bits of the last word are
        # the number of ids, or 15 if they are in a slot.
        ("rows", np.int64),
        ("num_rows", np.int64),
        ("lost", np.int64),  # int64, for all threads: about how many words found no row
        ("room", np.int64),  # (ROOM_BYTES,) uint8, zeros at first: for one thread at a time
        ("ends", np.int64),  # (bytes,) int32: scratch memory
        ("ids", np.int64),  # (bytes + 8,) uint32: the result
        ("id_starts", np.int64),  # (num_texts + 1,) int64: where the ids of each text begin
    ]
)
# A pre-token that waits
WORD = np.dtype(
    [
        ("text", np.int64),  # address of its bytes
        ("length", np.int64),
        ("row", np.int64),  # address of the row of its key
        ("low", np.uint64),  # its key
        ("high", np.uint64),
        ("place", np.int64),  # address for its ids, where a gap of `length` ids is left
        ("num_ids", np.int64),
        ("merged", np.int64),  # index of the id merged last
        ("ids", np.uint32, SHORT),
        ("merges", np.uint64, SHORT),  # for each pair of neighbours, what `find_merge` returns
    ]
)
# A pre-token in the cache that does not fit into a row
SLOT = np.dtype(
    [
        ("length", np.uint32),
        ("num_ids", np.uint32),
        ("text", np.uint8, SHORT),
        ("ids", np.uint32, SHORT),
    ]
)
# The memory of a thread: words that wait, the indices of those that are new, slots
ORDER = WAITING * WORD.itemsize
SLOTS = ORDER + 8 * WAITING
ROOM_BYTES = SLOTS + LONG_SLOTS * SLOT.itemsize


# -- learning

# One cell for each byte of the words, and an edge before, between and after the words. A token
# is stored in the cells of its first and last bytes; the cells between are not read.
CELL = np.dtype([("token", np.int32), ("word", np.int32)])

# The offset in `data` of the bytes of a token, and their number
TOKEN = np.dtype([("start", np.int32), ("length", np.int32)])

# A pair, how often it occurs, and the range in `places` that lists the cells of its left tokens
PAIR = np.dtype(
    [
        *[("left", np.int32), ("right", np.int32), ("count", np.int64)],
        *[("first", np.int64), ("stop", np.int64)],
    ]
)

# The sums for one neighbour: occurrences in the text, and places in the distinct words
NEIGHBOUR = np.dtype([("count", np.int64), ("places", np.int64)])

# In the heap: a pair, and the count that it had when it was entered
ENTRY = np.dtype([("count", np.int64), ("pair", np.int64)])

# The state of learning: addresses and sizes, then what changes
STATE = np.dtype(
    [
        ("data", np.int64),  # uint8: the words, one after the other
        ("starts", np.int64),  # (num_words + 1,) int64: where each begins in `data`, then the end
        ("counts", np.int64),  # (num_words,) int64: how often each occurs
        ("num_words", np.int64),
        ("merges", np.int64),  # (wanted, 2) int32, the result: merge k makes token 256 + k
        ("wanted", np.int64),
        ("cells", np.int64),  # (num_cells,) CELL
        ("num_cells", np.int64),
        ("places", np.int64),  # (3 * bytes,) int32
        ("num_places_in_all", np.int64),
        ("tokens", np.int64),  # (256 + wanted,) TOKEN
        ("near", np.int64),  # (2 * tokens,) NEIGHBOUR, zeros: see `add_up_neighbours`
        ("met", np.int64),  # (2 * tokens + 1,) int64
        ("first", np.int64),  # (tokens + 1,) int64
        ("square", np.int64),  # (256, 256) NEIGHBOUR, zeros: for pairs of bytes
        ("slots", np.int64),  # (2 * room,) int32, indexed by hash: pair + 1, or 0 if free
        ("pairs", np.int64),  # (room,) PAIR
        ("heap", np.int64),  # (room,) ENTRY
        ("room", np.int64),
        ("num_pairs", np.int64),
        ("num_places", np.int64),
        ("heap_size", np.int64),
        ("level", np.int64),
        ("threshold", np.int64),
        ("learnt", np.int64),
    ]
)

# What the kernel `learn` returns
REACHED, ENDED, NEEDS_ROOM = range(3)
