"""AdamW on a CPU, in one pass over memory."""

import math
from typing import no_type_check

import numpy as np

from lmlib.native.compiling import kernel, part, view


@part
@no_type_check  # the tests decorate functions to check shapes; Numba needs them undecorated
def update(addresses, sizes, scalars, share, shares, dtype):
    """Update one of `shares` equal parts of each row of p, g, m, v."""
    for row in range(len(sizes)):
        size = sizes[row]
        start, stop = share * size // shares, (share + 1) * size // shares
        p = view(addresses[row, 0], size, dtype)[start:stop]
        g = view(addresses[row, 1], size, dtype)[start:stop]
        m = view(addresses[row, 2], size, dtype)[start:stop]
        v = view(addresses[row, 3], size, dtype)[start:stop]
        s = scalars[row]
        grad_scale, weight1, beta2, weight2 = s[0], s[1], s[2], s[3]
        decay, root_scale, eps, rate = s[4], s[5], s[6], s[7]
        for i in range(p.size):
            gradient = g[i] * grad_scale
            first = m[i] + weight1 * (gradient - m[i])
            second = beta2 * v[i] + weight2 * (gradient * gradient)
            p[i] = decay * p[i] - rate * first / (math.sqrt(second) * root_scale + eps)
            m[i], v[i] = first, second


@kernel
@no_type_check
def adamw_float32(addresses, sizes, scalars, num_rows, share, shares):
    """Update rows of float32; return 0.

    addresses  address of (num_rows, 4) int64: the addresses of p, g, m and v
    sizes      address of (num_rows,) int64: the number of elements of each
    scalars    address of (num_rows, 8), in the dtype of the weights: see `adamw.py`
    """
    rows, numbers = view(addresses, (num_rows, 4), np.int64), view(sizes, num_rows, np.int64)
    settings = view(scalars, (num_rows, 8), np.float32)
    update(rows, numbers, settings, share, shares, np.float32)
    return np.int64(0)


@kernel
@no_type_check
def adamw_float64(addresses, sizes, scalars, num_rows, share, shares):
    """Update rows of float64; return 0. See `adamw_float32`."""
    rows, numbers = view(addresses, (num_rows, 4), np.int64), view(sizes, num_rows, np.int64)
    settings = view(scalars, (num_rows, 8), np.float64)
    update(rows, numbers, settings, share, shares, np.float64)
    return np.int64(0)
