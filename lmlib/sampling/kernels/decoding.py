"""One decoding step on a CPU, with sums in float32: the blocks of the model, and the logits.

For a small model, a step in PyTorch is a few hundred operations on a few numbers each, and most of
its time is overhead. Here a step is one call, which reads the weights from the model's own memory.

Each sum is computed in the same order, whatever the number of rows and of threads, so the kernels
are batch-invariant: a row's bits do not depend on its neighbours. They are fast because of `tile`,
which computes sixteen dot products at a time in registers.

All threads that call `decode` with the same WORK share it. A step is a sequence of phases, and a
phase is divided into pieces: a thread takes one that nobody has taken, until none is left, and goes
to the next phase when all are finished. So a thread may join late, or never: others do its work.
"""

import math
from typing import Any, no_type_check

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from lmlib.native.compiling import (
    add_atomically,
    address_of,
    intrinsic,
    kernel,
    part,
    prefetch_at,
    read_atomically,
    view,
    yield_thread,
)
from lmlib.sampling.kernels.records import BLOCK, COLUMNS, HEAD, MULTIPLE, PHASES, WORK

# per vector: 4 x 4 sums and 4 + 4 factors fit the 32 registers of AVX-512, or nearly the 16 of AVX
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
assert MULTIPLE % LANES == 0  # the sizes that `cpu_decoder.fits` lets through fill whole vectors
AHEAD = 2  # tiles: how far ahead weights are prefetched

fused = part(fastmath={"contract"})
# may reorder sums too: a partial sum for each lane of a vector
summing = part(fastmath={"contract", "reassoc"})


# -- sums of products, in registers


FLOAT, WORD = ir.FloatType(), ir.IntType(32)
VECTOR = ir.VectorType(FLOAT, LANES)


@no_type_check
def place(builder, kind, address, *offsets, size=4):
    """Return a pointer to a `kind` at an address plus offsets, in numbers of `size` bytes."""
    for offset in offsets:
        address = builder.add(address, builder.mul(offset, address.type(size)))
    return builder.inttoptr(address, kind.as_pointer())


@no_type_check
def load(builder, kind, address, *offsets):
    """Return the `kind` at an address plus offsets, as in `place`."""
    return builder.load(place(builder, kind, address, *offsets), align=4)


@no_type_check
def load_weights(builder, half, address, *offsets):
    """Return the vector of weights at an address plus offsets, widened if they are bfloat16."""
    if not half:
        return load(builder, VECTOR, address, *offsets)
    pointer = place(builder, ir.VectorType(ir.IntType(16), LANES), address, *offsets, size=2)
    words = ir.VectorType(WORD, LANES)
    bits = builder.zext(builder.load(pointer, align=2), words)
    return builder.bitcast(builder.shl(bits, words([16] * LANES)), VECTOR)


@no_type_check
def prefetch(builder, size, address, *offsets):
    """Prefetch the number at an address plus offsets into the L2 cache, since L1 is full."""
    pointer = place(builder, ir.IntType(8), address, *offsets, size=size)
    prefetch_at(builder, builder.ptrtoint(pointer, address.type), 2)


@no_type_check
def add_product(builder, total, x, y):
    """Add x * y to the vector that `total` points to, rounded once where the processor can."""
    product = builder.fmul(x, y, flags=("contract",))
    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


@no_type_check
def zeros(builder, count):
    """Return pointers to `count` vectors of zeros, which LLVM keeps in registers."""
    totals = [cgutils.alloca_once(builder, VECTOR) for _ in range(count)]
    for total in totals:
        builder.store(VECTOR(None), total)
    return totals


@no_type_check
def sum_lanes(builder, vectors):
    """Return one vector, whose lanes are the sums of the lanes of each given vector."""

    def added(left, right, size, step):
        """Return the sums of lanes `step` apart, of the left vector and then of the right."""
        first = [i for i in range(size) if i % (2 * step) < step]
        kind = ir.VectorType(WORD, len(first))
        sides = [kind([i + offset for i in first]) for offset in (0, step)]
        return builder.fadd(*(builder.shuffle_vector(left, right, side) for side in sides))

    size = LANES
    while size > len(vectors):
        vectors = [added(vector, vector, size, size // 2) for vector in vectors]
        size //= 2
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [added(left, right, 2 * size, 1) for left, right in pairs]
    return vectors[0]


def tile(num_rows: int, *, half: bool = False) -> Any:
    """Return an intrinsic for the dot products of `num_rows` rows with COLUMNS weights.

    tile(x, weight, next_weight, depth, out, out_step)

    x and weight are the addresses of the first rows; a row has `depth` numbers, a multiple of
    LANES. out is the address of the first result; the results of the next row are `out_step`
    numbers further on. Weights are bfloat16 if `half`, everything else is float32. The weights at
    next_weight are prefetched.
    """
    size = 2 if half else 4

    @intrinsic
    @no_type_check
    def dot_products(typing_context, x, weight, next_weight, depth, out, out_step):
        def generate(context, builder, signature, args):
            x, weight, next_weight, depth, out, out_step = args
            number = depth.type

            def start(i):
                return builder.mul(depth, number(i))

            sums = [zeros(builder, COLUMNS) for _ in range(num_rows)]
            with cgutils.for_range_slice(builder, number(0), depth, number(LANES), number) as (
                k,
                _,
            ):
                xs = [load(builder, VECTOR, x, start(i), k) for i in range(num_rows)]
                weights = [load_weights(builder, half, weight, start(i), k) for i in range(COLUMNS)]
                for i in range(COLUMNS):
                    prefetch(builder, size, next_weight, start(i), k)
                for of_row, totals in zip(xs, sums, strict=True):
                    for of_weight, total in zip(weights, totals, strict=True):
                        add_product(builder, total, of_row, of_weight)
            for i, totals in enumerate(sums):
                result = sum_lanes(builder, [builder.load(total) for total in totals])
                at = place(builder, result.type, out, builder.mul(out_step, number(i)))
                builder.store(result, at, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return dot_products


def mixture(num_vectors: int) -> Any:
    """Return an intrinsic for a weighted sum of rows, over `num_vectors` * LANES columns.

    mixture(factors, rows, step, count, out)

    factors, rows and out are addresses; there are `count` rows, `step` numbers apart.
    """

    @intrinsic
    @no_type_check
    def weighted_sum(typing_context, factors, rows, step, count, out):
        def generate(context, builder, signature, args):
            factors, rows, step, count, out = args
            columns = [count.type(i * LANES) for i in range(num_vectors)]
            sums = zeros(builder, num_vectors)
            with cgutils.for_range(builder, count) as loop:
                factor = load(builder, FLOAT, factors, loop.index)
                first = builder.insert_element(VECTOR(ir.Undefined), factor, WORD(0))
                everywhere = ir.VectorType(WORD, LANES)(None)
                factor = builder.shuffle_vector(first, first, everywhere)
                row = builder.mul(step, loop.index)
                for column, total in zip(columns, sums, strict=True):
                    add_product(builder, total, factor, load(builder, VECTOR, rows, row, column))
            for column, total in zip(columns, sums, strict=True):
                at = place(builder, VECTOR, out, column)
                builder.store(builder.load(total), at, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), generate

    return weighted_sum


four_rows, one_row = tile(4), tile(1)
four_rows_half, one_row_half = tile(4, half=True), tile(1, half=True)
four_vectors, one_vector = mixture(4), mixture(1)


# -- matrix products


@fused
@no_type_check
def product(x, weight, half, first, out):
    """Set out = x w^T, where w is the rows of a matrix from `first` on: a row for each column.

    x has the shape (rows, depth), out (rows, columns) with at least COLUMNS columns, perhaps those
    of a wider array; `weight` is the address of the matrix, of bfloat16 if `half`.
    """
    (num_rows, depth), num_columns, out_step = x.shape, out.shape[1], out.strides[0] // 4
    x_at, out_at = address_of(x), address_of(out)
    row_bytes = (2 if half else 4) * depth
    for tile_column in range(0, num_columns, COLUMNS):
        column = min(tile_column, num_columns - COLUMNS)  # the last tile repeats some results
        w = weight + row_bytes * (first + column)
        ahead = w + row_bytes * min(AHEAD * COLUMNS, num_columns - COLUMNS - column)
        if num_rows < 4:
            for row in range(num_rows):
                at = out_at + 4 * (row * out_step + column)
                if half:
                    one_row_half(x_at + 4 * row * depth, w, ahead, depth, at, out_step)
                else:
                    one_row(x_at + 4 * row * depth, w, ahead, depth, at, out_step)
        else:
            for tile_row in range(0, num_rows, 4):
                row = min(tile_row, num_rows - 4)
                at = out_at + 4 * (row * out_step + column)
                if half:
                    four_rows_half(x_at + 4 * row * depth, w, ahead, depth, at, out_step)
                else:
                    four_rows(x_at + 4 * row * depth, w, ahead, depth, at, out_step)


# -- phases, which threads share


@fused
@no_type_check
def width_of_pieces(size, pieces, multiple):
    """Return the width of a piece if `size` is divided into about `pieces`, a multiple."""
    return max(1, -(-size // (pieces * multiple))) * multiple


@fused
@no_type_check
def take(work, phase, count):
    """Return the number of a piece that no thread has taken; -1 once all `count` are finished.

    What a piece reads is complete before one is returned: the phase before is finished, and the
    next one, which may overwrite it, waits for this piece.
    """
    counters = work.counters + 16 * phase
    piece = add_atomically(counters, 1)
    if piece < count:
        return piece
    while read_atomically(counters + 8) < count:
        yield_thread()
    return -1


@fused
@no_type_check
def finish(work, phase):
    """Tell the other threads that a piece is finished."""
    add_atomically(work.counters + 16 * phase + 8, 1)


# -- a block


@summing
@no_type_check
def normalise(x, gain, eps, out):
    """Set out to RMSNorm of x, or to x if there is no gain (address 0)."""
    num_rows, size = x.shape
    gains = view(gain, size, np.float32)
    for row in range(num_rows):
        if gain == 0:
            for i in range(size):
                out[row, i] = x[row, i]
            continue
        squares = np.float32(0)
        for i in range(size):
            squares += x[row, i] * x[row, i]
        scale = np.float32(1) / math.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            out[row, i] = x[row, i] * scale * gains[i]


@fused
@no_type_check
def activate(x, relu2):
    """Replace each number of an array by relu(x)**2, or else by silu(x)."""
    zero, one = np.float32(0), np.float32(1)
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            if relu2:
                x[row, i] = zero if x[row, i] < zero else x[row, i] * x[row, i]
            else:
                x[row, i] /= one + math.exp(-x[row, i])


@fused
@no_type_check
def cap(x, limit):
    """Replace each number of an array by limit * tanh(x / limit)."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[row, i] = limit * math.tanh(x[row, i] / limit)


@fused
@no_type_check
def rotate(x, cos, sin):
    """Apply RoPE to a vector, in place, with the cosines and sines of its position."""
    for k in range(len(cos)):
        even, odd = x[2 * k], x[2 * k + 1]
        x[2 * k] = even * cos[k] - odd * sin[k]
        x[2 * k + 1] = even * sin[k] + odd * cos[k]


@fused
@no_type_check
def attend(query, keys, values, first, stop, scores, out):
    """Set out to the attention of a query to the keys from `first` to `stop` - 1."""
    size = len(query)
    query_at, keys_at, scores_at = address_of(query), address_of(keys), address_of(scores)
    for t in range(first, stop, COLUMNS):  # keys after the last are read but not used
        at = min(t, len(keys) - COLUMNS)
        key_at = keys_at + 4 * at * size
        one_row(
            query_at, key_at, key_at + 4 * AHEAD * COLUMNS * size, size, scores_at + 4 * at, COLUMNS
        )
    scale = np.float32(1) / math.sqrt(np.float32(size))
    highest = np.float32(-np.inf)
    for t in range(first, stop):
        highest = max(highest, scores[t])
    total = np.float32(0)
    for t in range(first, stop):
        scores[t] = math.exp((scores[t] - highest) * scale)
        total += scores[t]
    share = np.float32(1) / total
    for t in range(first, stop):
        scores[t] *= share
    scores_at, length = scores_at + 4 * first, stop - first
    values_at, out_at = address_of(values) + 4 * first * size, address_of(out)
    column = 0
    while column + 4 * LANES <= size:
        at = 4 * column
        four_vectors(scores_at, values_at + at, size, length, out_at + at)
        column += 4 * LANES
    while column < size:
        at = 4 * column
        one_vector(scores_at, values_at + at, size, length, out_at + at)
        column += LANES


@fused
@no_type_check
def project(block, number, work, phase, x, queries, keys_values, own):
    """Compute the queries, keys and values of x, a head at a time."""
    num_rows, d_model, d_head = work.num_rows, x.shape[1], block.d_head
    num_heads, num_kv_heads = block.num_heads, block.num_kv_heads
    sequences = view(work.sequences, num_rows, np.int64)
    positions = view(work.positions, num_rows, np.int64)
    normed = view(own, (num_rows, d_model), np.float32)
    new = view(own + 4 * num_rows * d_model, (num_rows, d_head), np.float32)
    cos = view(block.cos, (block.context_length, d_head // 2), np.float32)
    sin = view(block.sin, (block.context_length, d_head // 2), np.float32)
    total = num_heads + 2 * num_kv_heads
    width = width_of_pieces(total, work.pieces, 1)
    is_normed = False
    while True:
        piece = take(work, phase, -(-total // width))
        if piece < 0:
            break
        if not is_normed:
            normalise(x, 0 if block.post else block.gain1, block.eps, normed)
            is_normed = True
        for index in range(piece * width, min(total, (piece + 1) * width)):
            if index < num_heads:
                head, weight, gain = index, block.q, block.q_gain
            elif index < num_heads + num_kv_heads:
                head, weight, gain = index - num_heads, block.k, block.k_gain
            else:
                head, weight, gain = index - num_heads - num_kv_heads, block.v, 0
            product(normed, weight, block.half, head * d_head, new)
            if gain:
                normalise(new, gain, block.eps, new)
            for row in range(num_rows):
                at = positions[row]
                if block.cos and index < num_heads + num_kv_heads:
                    rotate(new[row], cos[at], sin[at])
                if index < num_heads:
                    kept = queries[row, head * d_head : (head + 1) * d_head]
                else:
                    which = 0 if index < num_heads + num_kv_heads else 1
                    kept = keys_values[which, sequences[row], head, at]
                for i in range(d_head):
                    kept[i] = new[row, i]
        finish(work, phase)


@fused
@no_type_check
def mix(block, work, phase, queries, keys_values, mixed, own):
    """Compute the attention of each row, a head at a time."""
    num_heads, d_head = block.num_heads, block.d_head
    queries_per_key = num_heads // block.num_kv_heads
    sequences = view(work.sequences, work.num_rows, np.int64)
    positions = view(work.positions, work.num_rows, np.int64)
    scores = view(own, block.context_length, np.float32)
    total = work.num_rows * num_heads
    width = width_of_pieces(total, work.pieces, 1)
    while True:
        piece = take(work, phase, -(-total // width))
        if piece < 0:
            break
        for index in range(piece * width, min(total, (piece + 1) * width)):
            row, head = index // num_heads, index % num_heads
            stop = positions[row] + 1
            of_head = slice(head * d_head, (head + 1) * d_head)
            attend(
                queries[row, of_head],
                keys_values[0, sequences[row], head // queries_per_key],
                keys_values[1, sequences[row], head // queries_per_key],
                max(0, stop - block.window) if block.window else 0,
                stop,
                scores,
                mixed[row, of_head],
            )
        finish(work, phase)


@fused
@no_type_check
def add_product_to(x, work, phase, factors, weight, half, own):
    """Add factors w^T to x, where w is the matrix at an address."""
    num_rows, d_model = x.shape
    width = width_of_pieces(d_model, work.pieces, MULTIPLE)
    while True:
        piece = take(work, phase, -(-d_model // width))
        if piece < 0:
            break
        first, stop = piece * width, min(d_model, (piece + 1) * width)
        added = view(own, (num_rows, stop - first), np.float32)
        product(factors, weight, half, first, added)
        for row in range(num_rows):
            for i in range(stop - first):
                x[row, first + i] += added[row, i]
        finish(work, phase)


@fused
@no_type_check
def widen(block, work, phase, x, hidden, own):
    """Compute the hidden units of the feed-forward network."""
    num_rows, d_model = x.shape
    normed = view(own, (num_rows, d_model), np.float32)
    width = width_of_pieces(block.d_ff, work.pieces, MULTIPLE)
    is_normed = False
    while True:
        piece = take(work, phase, -(-block.d_ff // width))
        if piece < 0:
            break
        if not is_normed:
            normalise(x, 0 if block.post else block.gain2, block.eps, normed)
            is_normed = True
        first, stop = piece * width, min(block.d_ff, (piece + 1) * width)
        at, size = own + 4 * num_rows * d_model, 4 * num_rows * (stop - first)
        new = view(at, (num_rows, stop - first), np.float32)
        gate = view(at + size, (num_rows, stop - first), np.float32)
        product(normed, block.w1, block.half, first, new)
        activate(new, block.relu2)
        if block.w3:
            product(normed, block.w3, block.half, first, gate)
            for row in range(num_rows):
                for i in range(stop - first):
                    new[row, i] *= gate[row, i]
        for row in range(num_rows):
            for i in range(stop - first):
                hidden[row, first + i] = new[row, i]
        finish(work, phase)


@fused
@no_type_check
def normalise_rows(x, work, phase, gain, eps):
    """Replace each row of x by its RMSNorm."""
    num_rows, d_model = x.shape
    width = width_of_pieces(num_rows, work.pieces, 1)
    while True:
        piece = take(work, phase, -(-num_rows // width))
        if piece < 0:
            break
        first, stop = piece * width, min(num_rows, (piece + 1) * width)
        rows = view(
            address_of(x) + 4 * first * d_model, (max(0, stop - first), d_model), np.float32
        )
        normalise(rows, gain, eps, rows)
        finish(work, phase)


@fused
@no_type_check
def apply(block, number, work, x, own):
    """Apply block `number` of a model to x, and store the keys and values of its tokens."""
    num_rows, d_model = x.shape
    kv_heads, length, d_head = block.num_kv_heads, block.context_length, block.d_head
    cache_shape = (2, work.num_sequences, kv_heads, length, d_head)
    cache_size = 4 * 2 * work.num_sequences * kv_heads * length * d_head
    keys_values = view(work.keys_values + cache_size * number, cache_shape, np.float32)
    size = 4 * num_rows * d_model
    queries = view(work.room, (num_rows, d_model), np.float32)
    mixed = view(work.room + size, (num_rows, d_model), np.float32)
    hidden = view(work.room + 2 * size, (num_rows, block.d_ff), np.float32)
    phase = PHASES * number

    project(block, number, work, phase, x, queries, keys_values, own)
    mix(block, work, phase + 1, queries, keys_values, mixed, own)
    add_product_to(x, work, phase + 2, mixed, block.output, block.half, own)
    if block.post:
        normalise_rows(x, work, phase + 3, block.gain1, block.eps)
    widen(block, work, phase + 4, x, hidden, own)
    add_product_to(x, work, phase + 5, hidden, block.w2, block.half, own)
    if block.post:
        normalise_rows(x, work, phase + 6, block.gain2, block.eps)


@fused
@no_type_check
def score(head, work, phase, x, own):
    """Compute the logits of each row of x."""
    num_rows, d_model = x.shape
    normed = view(own, (num_rows, d_model), np.float32)
    logits = view(work.logits, (num_rows, head.vocab_size), np.float32)
    width = width_of_pieces(head.vocab_size, work.pieces, COLUMNS)
    count = max(1, head.vocab_size // width)  # the last piece has what is left too
    is_normed = False
    while True:
        piece = take(work, phase, count)
        if piece < 0:
            break
        if not is_normed:
            normalise(x, head.gain, head.eps, normed)
            is_normed = True
        first = piece * width
        stop = head.vocab_size if piece == count - 1 else first + width
        product(normed, head.weight, head.half, first, logits[:, first:stop])
        if head.softcap:
            cap(logits[:, first:stop], head.softcap)
        finish(work, phase)


@kernel
@no_type_check
def decode(blocks, num_blocks, heads, works, own):
    """Apply a model's blocks, an array of BLOCK, to a WORK; compute the logits with a HEAD.

    Threads that call it with the same WORK share it, each with scratch space of its `own`
    (`own_size`). All arguments but `num_blocks` are addresses. Returns 0 once all is done.
    """
    model, head, work = (
        view(blocks, num_blocks, BLOCK),
        view(heads, 1, HEAD)[0],
        view(works, 1, WORK)[0],
    )
    d_model = model[0].num_heads * model[0].d_head
    x = view(work.x, (work.num_rows, d_model), np.float32)
    for number in range(num_blocks):
        apply(model[number], number, work, x, own)
    if work.logits:
        score(head, work, PHASES * num_blocks, x, own)
    return np.int64(0)
