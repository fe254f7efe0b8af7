"""The records that the decoder passes to its kernels; they do not need Numba."""

import numpy as np

COLUMNS = 4  # columns of a product computed at a time, and the least it can have
MULTIPLE = 16  # must divide every size that is summed over: the most lanes of a vector

# A block of the model and its input. Fields with a shape are addresses of float32 arrays, or 0 if
# the model has no such weight.
BLOCK = np.dtype(
    [
        ("x", np.int64),  # (num_rows, d_model): rows are tokens; replaced by the output
        ("num_rows", np.int64),
        ("sequences", np.int64),  # (num_rows,) int64: each token's sequence in the cache
        ("positions", np.int64),  # (num_rows,) int64: its position; it sees the keys up to its own
        ("keys_values", np.int64),  # (2, num_sequences, num_heads, context_length, d_head)
        ("num_sequences", np.int64),
        ("num_heads", np.int64),
        ("context_length", np.int64),
        ("d_head", np.int64),
        ("d_ff", np.int64),
        ("q", np.int64),  # (d_model, d_model)
        ("k", np.int64),
        ("v", np.int64),
        ("output", np.int64),
        ("w1", np.int64),  # (d_ff, d_model)
        ("w2", np.int64),  # (d_model, d_ff)
        ("w3", np.int64),  # (d_ff, d_model); 0 in a network without a gate
        ("gain1", np.int64),  # (d_model,): of the norms
        ("gain2", np.int64),
        ("cos", np.int64),  # (context_length, d_head / 2)
        ("sin", np.int64),
        ("eps", np.float32),
        ("post", np.int32),  # whether the norms come after the residual connections
        ("room", np.int64),  # (`room_size`,): scratch space
    ]
)

# The final norm and the output matrix
HEAD = np.dtype(
    [
        ("x", np.int64),  # (num_rows, d_model)
        ("num_rows", np.int64),
        ("d_model", np.int64),
        ("gain", np.int64),  # (d_model,), 0 in a model without norms
        ("eps", np.float32),
        ("weight", np.int64),  # (vocab_size, d_model)
        ("vocab_size", np.int64),
        ("logits", np.int64),  # (num_rows, vocab_size): the result
        ("room", np.int64),  # (num_rows, d_model): scratch space
    ]
)


def room_size(num_rows: int, d_model: int, d_ff: int, context_length: int) -> int:
    """Return the number of float32 in the scratch space of a block."""
    return num_rows * (3 * d_model + 2 * d_ff) + context_length
