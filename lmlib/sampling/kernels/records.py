"""The records that the decoder passes to its kernels; they do not need Numba."""

import numpy as np

COLUMNS = 4  # columns of a product computed at a time, and the least it can have
MULTIPLE = 16  # must divide every size that is summed over: the most lanes of a vector

# A block of the model. Fields with a shape are addresses of float32, or of bfloat16 for matrices if
# `half` says so; 0 where the model has no such weight.
BLOCK = np.dtype(
    [
        ("num_heads", np.int64),
        ("num_kv_heads", np.int64),
        ("window", np.int64),  # how many keys a token sees, its own included; 0: all up to its own
        ("context_length", np.int64),
        ("d_head", np.int64),
        ("d_ff", np.int64),
        ("q", np.int64),  # (d_model, d_model)
        ("k", np.int64),  # (num_kv_heads * d_head, d_model)
        ("v", np.int64),
        ("output", np.int64),
        ("w1", np.int64),  # (d_ff, d_model)
        ("w2", np.int64),  # (d_model, d_ff)
        ("w3", np.int64),  # (d_ff, d_model); 0 in a network without a gate
        ("gain1", np.int64),  # (d_model,): of the norms
        ("gain2", np.int64),
        ("q_gain", np.int64),  # (d_head,): of the norms of queries and keys
        ("k_gain", np.int64),
        ("cos", np.int64),  # (context_length, d_head / 2)
        ("sin", np.int64),
        ("eps", np.float32),
        ("post", np.int32),  # whether the norms come after the residual connections
        ("relu2", np.int32),  # whether the activation is relu(x)**2 and not SiLU
        ("half", np.int32),  # whether the matrices are bfloat16
    ]
)

# The final norm and the output matrix
HEAD = np.dtype(
    [
        ("gain", np.int64),  # (d_model,), 0 in a model without norms
        ("weight", np.int64),  # (vocab_size, d_model)
        ("vocab_size", np.int64),
        ("half", np.int64),  # whether the output matrix is bfloat16
        ("eps", np.float32),
        ("softcap", np.float32),  # of the logits; 0: none
    ]
)

# The tokens that the blocks are applied to, and the cache of their sequences
WORK = np.dtype(
    [
        ("x", np.int64),  # (num_rows, d_model) float32: rows are tokens; replaced by the output
        ("num_rows", np.int64),
        ("sequences", np.int64),  # (num_rows,) int64: the sequence of the cache of each token
        ("positions", np.int64),  # (num_rows,) int64: its position
        # (num_blocks, 2, num_sequences, num_kv_heads, context_length, d_head) float32
        ("keys_values", np.int64),
        ("num_sequences", np.int64),
        ("logits", np.int64),  # (num_rows, vocab_size) float32: the result; 0: not wanted
        ("pieces", np.int64),  # how many the work of a phase is divided into, about
        ("counters", np.int64),  # (`num_counters`,) int64: zeros
        ("room", np.int64),  # (`room_size`,) float32 that all threads work with
    ]
)

PHASES = 7  # of a block, at most


def num_counters(num_blocks: int) -> int:
    """Return the number of counters: two for each phase of the blocks, and for the logits."""
    return 2 * (PHASES * num_blocks + 1)


def room_size(num_rows: int, d_model: int, d_ff: int) -> int:
    """Return the number of float32 in the scratch space that the threads share."""
    return num_rows * (2 * d_model + d_ff)


def own_size(num_rows: int, d_model: int, d_ff: int, context_length: int) -> int:
    """Return the number of float32 in the scratch space of one thread."""
    return max(context_length, num_rows * (d_model + max(d_model, 2 * d_ff)))
