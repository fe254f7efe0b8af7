"""Numba kernels of one decoding step on a CPU, in float32: a block of the model, and the logits.

A step of a small model takes PyTorch some hundred operations on a few numbers each, most of the
time to find out what to do. Here a block is one call. Its weights are read where the model has
them; the rows of `x` are tokens, of one sequence or of many.

Each sum is made in one order, whatever the number of rows: a token's result has the same bits
alone and among others. What makes it fast is `tile`: sixteen dot products at a time, in registers.

All in one file, because Numba takes a cached kernel for stale only when the file that it stands
in has changed, whatever else it calls.
"""
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# Numba gives an intrinsic its typing context, a method of llvmlite its block.

import math
from typing import Any, no_type_check

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# of a vector: 4 x 4 sums and 4 + 4 factors fit the 32 registers of AVX-512, or nearly the 16 of AVX
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
COLUMNS = 4  # weights of a tile, that is, results for each of its rows
AHEAD = 4  # tiles, by which weights are asked from memory before they are needed

kernel = njit(nogil=True, cache=True, error_model="numpy")
# What the others are made of: to be callable from Python too would take longer to compile.
INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**INNER, nogil=True, error_model="numpy", fastmath={"contract"})
# sums over neighbours in as many parts as a vector has lanes
summing = njit(**INNER, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


# -- sums of products, in registers


FLOAT, WORD = ir.FloatType(), ir.IntType(32)
VECTOR = ir.VectorType(FLOAT, LANES)


@no_type_check
def place(builder, kind, address, *offsets):
    """Return a pointer to a `kind` that stands so many numbers after an address."""
    for offset in offsets:
        address = builder.add(address, builder.mul(offset, address.type(4)))
    return builder.inttoptr(address, kind.as_pointer())


@no_type_check
def load(builder, kind, address, *offsets):
    """Return the `kind` that stands so many numbers after an address."""
    return builder.load(place(builder, kind, address, *offsets), align=4)


@no_type_check
def prefetch(builder, address, *offsets):
    """Ask for what stands so many numbers after an address, without waiting for it.

    Into the second cache: the first is full of what is needed now.
    """
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    pointer = place(builder, ir.IntType(8), address, *offsets)
    builder.call(function, [pointer, WORD(0), WORD(2), WORD(1)])  # to read, second cache, data


@no_type_check
def add_product(builder, total, x, y):
    """Add x * y to the vector that `total` points to, rounded once where the processor can."""
    product = builder.fmul(x, y, flags=("contract",))
    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


@no_type_check
def zeros(builder, count):
    """Return pointers to so many vectors of zeros, which LLVM keeps in registers."""
    totals = [cgutils.alloca_once(builder, VECTOR) for _ in range(count)]
    for total in totals:
        builder.store(VECTOR(None), total)
    return totals


@no_type_check
def sum_lanes(builder, vectors):
    """Return the sums of the lanes of each of some vectors, as the lanes of one."""

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

    x and weight are the addresses of the first of rows of `depth` numbers, a multiple of LANES,
    and out that of the first result; the next row's results stand `out_step` numbers on.
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
    """Return an intrinsic for the sum of rows times factors, of `num_vectors` * LANES columns.

    mixture(factors, rows, step, count, out)

    All but two are addresses; the rows are `step` numbers apart, and `count` of them.
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


@part
@no_type_check
def product(x, weight, out):
    """Set out = x weight^T: (rows, depth) by (columns, depth), at least COLUMNS of them."""
    (num_rows, depth), (num_columns, _) = x.shape, weight.shape
    x_at, weight_at, out_at = x.ctypes.data, weight.ctypes.data, out.ctypes.data
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
    """Set out to RMSNorm of x, or to x where the model has none (`gain` is empty)."""
    num_rows, size = x.shape
    for row in range(num_rows):
        if len(gain) == 0:
            out[row] = x[row]
            continue
        squares = np.float32(0)
        for i in range(size):
            squares += x[row, i] * x[row, i]
        scale = np.float32(1) / math.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            out[row, i] = x[row, i] * scale * gain[i]


@part
@no_type_check
def rotate(x, cos, sin):
    """Apply RoPE to a vector, in place; the tables of its position are empty without RoPE."""
    for k in range(len(cos)):
        even, odd = x[2 * k], x[2 * k + 1]
        x[2 * k] = even * cos[k] - odd * sin[k]
        x[2 * k + 1] = even * sin[k] + odd * cos[k]


@part
@no_type_check
def attend(query, keys, values, length, scores, out):
    """Set out to the attention of a query to the first `length` keys."""
    size = len(query)
    query_at, keys_at, scores_at = query.ctypes.data, keys.ctypes.data, scores.ctypes.data
    for t in range(0, length, COLUMNS):  # keys behind the last are read and not used
        first = min(t, len(keys) - COLUMNS)
        one_row(query_at, keys_at + 4 * first * size, size, scores_at + 4 * first, COLUMNS)
    scale = np.float32(1) / math.sqrt(np.float32(size))
    highest = np.float32(-np.inf)
    for t in range(length):
        highest = max(highest, scores[t])
    total = np.float32(0)
    for t in range(length):
        scores[t] = math.exp((scores[t] - highest) * scale)
        total += scores[t]
    share = np.float32(1) / total
    for t in range(length):
        scores[t] *= share
    values_at, out_at = values.ctypes.data, out.ctypes.data
    column = 0
    while column + 4 * LANES <= size:
        at = 4 * column
        four_vectors(scores_at, values_at + at, size, length, out_at + at)
        column += 4 * LANES
    while column < size:
        at = 4 * column
        one_vector(scores_at, values_at + at, size, length, out_at + at)
        column += LANES


@kernel
@no_type_check
def block(x, sequences, positions, keys_values, attention, ffn, gains, rope, eps, post):
    """Replace x by the output of a block, and keep the keys and values of its tokens.

    x            (rows, d_model)
    sequences    (rows,) int64: which of the cache each token belongs to
    positions    (rows,) int64: where it stands there; it sees the keys up to its own
    keys_values  (2, batch, heads, context_length, d_head): a layer's cache
    attention    the weights of Q, K, V and the output, each (d_model, d_model)
    ffn          w1, w2 and w3, which is empty in a network without a gate
    gains        of the two norms; empty in a model without
    rope         cosines and sines, each (context_length, d_head / 2), or (1, 0) in a model without
    post         whether the norms come after the residual connections
    """
    num_rows = len(x)
    _, _, num_heads, context_length, d_head = keys_values.shape
    normed, added, queries = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    none = gains[0][:0]

    normalise(x, none if post else gains[0], eps, normed)
    q, k, v, output = attention
    product(normed, q, queries)
    for which, weight in enumerate((k, v)):
        product(normed, weight, added)
        for row in range(num_rows):
            for head in range(num_heads):
                place = keys_values[which, sequences[row], head, positions[row]]
                place[:] = added[row, head * d_head : (head + 1) * d_head]
    cos, sin = rope
    scores = np.empty(context_length, dtype=np.float32)
    for row in range(num_rows):
        at = positions[row] if cos.shape[1] else 0
        for head in range(num_heads):
            rotate(queries[row, head * d_head : (head + 1) * d_head], cos[at], sin[at])
            rotate(keys_values[0, sequences[row], head, positions[row]], cos[at], sin[at])
    for row in range(num_rows):  # when all keys are there
        for head in range(num_heads):
            of_head = slice(head * d_head, (head + 1) * d_head)
            keys, values = keys_values[:, sequences[row], head]
            attend(
                queries[row, of_head],
                keys,
                values,
                positions[row] + 1,
                scores,
                normed[row, of_head],
            )
    product(normed, output, added)
    x += added
    if post:
        normalise(x, gains[0], eps, x)

    normalise(x, none if post else gains[1], eps, normed)
    w1, w2, w3 = ffn
    hidden = np.empty((num_rows, len(w1)), dtype=np.float32)
    product(normed, w1, hidden)
    one = np.float32(1)
    for row in range(num_rows):
        for i in range(len(w1)):
            hidden[row, i] /= one + math.exp(-hidden[row, i])
    if len(w3):
        gate = np.empty_like(hidden)
        product(normed, w3, gate)
        hidden *= gate
    product(hidden, w2, added)
    x += added
    if post:
        normalise(x, gains[1], eps, x)


@kernel
@no_type_check
def logits(x, gain, eps, weight, out):
    """Set out to the logits of each row of x: the last norm and the output matrix."""
    normed = np.empty_like(x)
    normalise(x, gain, eps, normed)
    product(normed, weight, out)
