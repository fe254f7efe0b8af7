"""One decoding step on a CPU, in float32: a block of the model, and the logits.

For a small model, a step in PyTorch is a few hundred operations on a few numbers each, and most of
its time is overhead. Here a block is one call, which reads the weights from the model's own memory.

Each sum is computed in the same order, whatever the number of rows, so the kernels are
batch-invariant: a row's bits do not depend on its neighbours. They are fast because of `tile`,
which computes sixteen dot products at a time in registers.
"""

import math
from typing import Any, no_type_check

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from lmlib.native.compiling import address_of, intrinsic, kernel, part, prefetch_at, view
from lmlib.sampling.kernels.records import BLOCK, COLUMNS, HEAD, MULTIPLE, WORK

# per vector: 4 x 4 sums and 4 + 4 factors fit the 32 registers of AVX-512, or nearly the 16 of AVX
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
assert MULTIPLE % LANES == 0  # the sizes that `cpu_decoder.fits` lets through fill whole vectors
AHEAD = 4  # tiles: how far ahead weights are prefetched

fused = part(fastmath={"contract"})
# may reorder sums too: a partial sum for each lane of a vector
summing = part(fastmath={"contract", "reassoc"})


# -- sums of products, in registers


FLOAT, WORD = ir.FloatType(), ir.IntType(32)
VECTOR = ir.VectorType(FLOAT, LANES)


@no_type_check
def place(builder, kind, address, *offsets):
    """Return a pointer to a `kind` at an address plus offsets, which count numbers of 4 bytes."""
    for offset in offsets:
        address = builder.add(address, builder.mul(offset, address.type(4)))
    return builder.inttoptr(address, kind.as_pointer())


@no_type_check
def load(builder, kind, address, *offsets):
    """Return the `kind` at an address plus offsets, as in `place`."""
    return builder.load(place(builder, kind, address, *offsets), align=4)


@no_type_check
def prefetch(builder, address, *offsets):
    """Prefetch the number at an address plus offsets into the L2 cache, since L1 is full."""
    pointer = place(builder, ir.IntType(8), address, *offsets)
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


def tile(num_rows: int) -> Any:
    """Return an intrinsic for the dot products of `num_rows` rows with COLUMNS weights.

    tile(x, weight, depth, out, out_step)

    x and weight are the addresses of the first rows; a row has `depth` numbers, a multiple of
    LANES. out is the address of the first result; the results of the next row are `out_step`
    numbers further on.
    """

    @intrinsic
    @no_type_check
    def dot_products(typing_context, x, weight, depth, out, out_step):
        def generate(context, builder, signature, args):
            x, weight, depth, out, out_step = args
            number = depth.type

            def start(i):
                return builder.mul(depth, number(i))

            sums = [zeros(builder, COLUMNS) for _ in range(num_rows)]
            with cgutils.for_range_slice(builder, number(0), depth, number(LANES), number) as (
                k,
                _,
            ):
                xs = [load(builder, VECTOR, x, start(i), k) for i in range(num_rows)]
                weights = [load(builder, VECTOR, weight, start(i), k) for i in range(COLUMNS)]
                for i in range(COLUMNS):
                    prefetch(builder, weight, start(AHEAD * COLUMNS + i), k)
                for of_row, totals in zip(xs, sums, strict=True):
                    for of_weight, total in zip(weights, totals, strict=True):
                        add_product(builder, total, of_row, of_weight)
            for i, totals in enumerate(sums):
                result = sum_lanes(builder, [builder.load(total) for total in totals])
                at = place(builder, result.type, out, builder.mul(out_step, number(i)))
                builder.store(result, at, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), generate

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
four_vectors, one_vector = mixture(4), mixture(1)


# -- matrix products


@fused
@no_type_check
def product(x, weight, out):
    """Set out = x weight^T, of shapes (rows, depth) and (columns, depth); columns >= COLUMNS."""
    (num_rows, depth), (num_columns, _) = x.shape, weight.shape
    x_at, weight_at, out_at = address_of(x), address_of(weight), address_of(out)
    for tile_column in range(0, num_columns, COLUMNS):
        column = min(tile_column, num_columns - COLUMNS)  # the last tile repeats some results
        w = weight_at + 4 * column * depth
        if num_rows < 4:
            for row in range(num_rows):
                at = out_at + 4 * (row * num_columns + column)
                one_row(x_at + 4 * row * depth, w, depth, at, num_columns)
        else:
            for tile_row in range(0, num_rows, 4):
                row = min(tile_row, num_rows - 4)
                at = out_at + 4 * (row * num_columns + column)
                four_rows(x_at + 4 * row * depth, w, depth, at, num_columns)


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
def add(x, added):
    """Add an array to another of the same shape."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[row, i] += added[row, i]


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
        one_row(query_at, keys_at + 4 * at * size, size, scores_at + 4 * at, COLUMNS)
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
def apply(block, number, work, x):
    """Apply block `number` of a model to x, and store the keys and values of its tokens."""
    num_rows, num_heads, d_head, d_ff = work.num_rows, block.num_heads, block.d_head, block.d_ff
    d_model, d_kv = num_heads * d_head, block.num_kv_heads * d_head
    queries_per_key = num_heads // block.num_kv_heads
    square, wide, narrow = (d_model, d_model), (d_ff, d_model), (d_model, d_ff)
    sequences = view(work.sequences, num_rows, np.int64)
    positions = view(work.positions, num_rows, np.int64)
    cache_shape = (2, work.num_sequences, block.num_kv_heads, block.context_length, d_head)
    cache_size = 4 * 2 * work.num_sequences * block.context_length * d_kv
    keys_values = view(work.keys_values + cache_size * number, cache_shape, np.float32)
    size = 4 * num_rows * d_model
    normed = view(work.room, (num_rows, d_model), np.float32)
    added = view(work.room + size, (num_rows, d_model), np.float32)
    new = view(work.room + size, (num_rows, d_kv), np.float32)  # keys or values, in the same place
    queries = view(work.room + 2 * size, (num_rows, d_model), np.float32)
    hidden = view(work.room + 3 * size, (num_rows, d_ff), np.float32)
    gate = view(work.room + 3 * size + 4 * num_rows * d_ff, (num_rows, d_ff), np.float32)
    scores = view(work.room + 3 * size + 8 * num_rows * d_ff, block.context_length, np.float32)
    first_gain, second_gain = (0, 0) if block.post else (block.gain1, block.gain2)

    normalise(x, first_gain, block.eps, normed)
    product(normed, view(block.q, square, np.float32), queries)
    if block.q_gain:
        heads = view(address_of(queries), (num_rows * num_heads, d_head), np.float32)
        normalise(heads, block.q_gain, block.eps, heads)
    for which in range(2):
        weight = view(block.v if which else block.k, (d_kv, d_model), np.float32)
        product(normed, weight, new)
        if block.k_gain and not which:
            heads = view(address_of(new), (num_rows * block.num_kv_heads, d_head), np.float32)
            normalise(heads, block.k_gain, block.eps, heads)
        for row in range(num_rows):
            for head in range(block.num_kv_heads):
                kept = keys_values[which, sequences[row], head, positions[row]]
                for i in range(d_head):
                    kept[i] = new[row, head * d_head + i]
    if block.cos:
        cos = view(block.cos, (block.context_length, d_head // 2), np.float32)
        sin = view(block.sin, (block.context_length, d_head // 2), np.float32)
        for row in range(num_rows):
            at = positions[row]
            for head in range(num_heads):
                rotate(queries[row, head * d_head : (head + 1) * d_head], cos[at], sin[at])
            for head in range(block.num_kv_heads):
                rotate(keys_values[0, sequences[row], head, at], cos[at], sin[at])
    for row in range(num_rows):  # after all keys are stored
        stop = positions[row] + 1
        first = max(0, stop - block.window) if block.window else 0
        for head in range(num_heads):
            of_head = slice(head * d_head, (head + 1) * d_head)
            kv_head = head // queries_per_key
            attend(
                queries[row, of_head],
                keys_values[0, sequences[row], kv_head],
                keys_values[1, sequences[row], kv_head],
                first,
                stop,
                scores,
                normed[row, of_head],
            )
    product(normed, view(block.output, square, np.float32), added)
    add(x, added)
    if block.post:
        normalise(x, block.gain1, block.eps, x)

    normalise(x, second_gain, block.eps, normed)
    product(normed, view(block.w1, wide, np.float32), hidden)
    activate(hidden, block.relu2)
    if block.w3:
        product(normed, view(block.w3, wide, np.float32), gate)
        for row in range(num_rows):
            for i in range(d_ff):
                hidden[row, i] *= gate[row, i]
    product(hidden, view(block.w2, narrow, np.float32), added)
    add(x, added)
    if block.post:
        normalise(x, block.gain2, block.eps, x)


@kernel
@no_type_check
def decode(blocks, num_blocks, heads, works):
    """Apply a model's blocks, an array of BLOCK, to a WORK; compute the logits with a HEAD.

    All arguments but `num_blocks` are addresses. Returns 0.
    """
    model, head, work = (
        view(blocks, num_blocks, BLOCK),
        view(heads, 1, HEAD)[0],
        view(works, 1, WORK)[0],
    )
    d_model = model[0].num_heads * model[0].d_head
    x = view(work.x, (work.num_rows, d_model), np.float32)
    for number in range(num_blocks):
        apply(model[number], number, work, x)
    if work.logits:
        normed = view(work.room, (work.num_rows, d_model), np.float32)
        normalise(x, head.gain, head.eps, normed)
        weight = view(head.weight, (head.vocab_size, d_model), np.float32)
        logits = view(work.logits, (work.num_rows, head.vocab_size), np.float32)
        product(normed, weight, logits)
        if head.softcap:
            cap(logits, head.softcap)
    return np.int64(0)
