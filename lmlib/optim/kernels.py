"""AdamW on a CPU: one pass over memory."""

import math
from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from lmlib.threads import shared_pool


def adamw_update(
    rows: list[tuple[list[Tensor], int]],
    group: dict[str, Any],
    grad_scale: float,
    num_threads: int,
) -> None:
    """Update in place p, m and v of each row (p, g, m, v), t, with the settings of its group.

    Each tensor is contiguous, all are of float32 or all of float64. Nothing is summed over
    elements: the bits do not depend on the number of threads.
    """
    lr, (beta1, beta2) = group["lr"], group["betas"]
    scalars = [
        (
            grad_scale,
            1 - beta1,
            beta2,
            1 - beta2,
            1 - lr * group["weight_decay"],
            1 / math.sqrt(1 - beta2**t),
            group["eps"],
            lr / (1 - beta1**t),
        )
        for _, t in rows
    ]
    work = (
        np.array([[x.data_ptr() for x in tensors] for tensors, _ in rows], dtype=np.int64),
        np.array([tensors[0].numel() for tensors, _ in rows], dtype=np.int64),
        # as wide as the weights: a product with a wider number would be slow
        np.array(scalars, dtype=rows[0][0][0].new_empty(0).numpy().dtype),
    )
    others = [shared_pool().submit(_adamw, *work, k, num_threads) for k in range(1, num_threads)]
    _adamw(*work, 0, num_threads)
    for other in others:
        other.result()


@intrinsic
@no_type_check
def _pointer(typing_context, address, like):
    """Return an address as a pointer to numbers like `like`."""
    pointer = types.CPointer(like)

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(address, like), generate


@njit(nogil=True, cache=True, error_model="numpy")
@no_type_check  # the tests' checks of shapes decorate functions, which Numba must see as they are
def _adamw(addresses, sizes, scalars, part, parts):
    """Update one of `parts` equal parts of each row of p, g, m, v, of which the addresses come."""
    for row in range(len(sizes)):
        size = sizes[row]
        share = slice(part * size // parts, (part + 1) * size // parts)
        like = scalars[row, 0]
        p = carray(_pointer(addresses[row, 0], like), size)[share]
        g = carray(_pointer(addresses[row, 1], like), size)[share]
        m = carray(_pointer(addresses[row, 2], like), size)[share]
        v = carray(_pointer(addresses[row, 3], like), size)[share]
        s = scalars[row]
        grad_scale, weight1, beta2, weight2 = s[0], s[1], s[2], s[3]
        decay, root_scale, eps, rate = s[4], s[5], s[6], s[7]
        for i in range(p.size):
            gradient = g[i] * grad_scale
            first = m[i] + weight1 * (gradient - m[i])
            second = beta2 * v[i] + weight2 * (gradient * gradient)
            p[i] = decay * p[i] - rate * first / (math.sqrt(second) * root_scale + eps)
            m[i], v[i] = first, second
