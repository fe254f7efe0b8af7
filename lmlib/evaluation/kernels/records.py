"""The record that a suffix automaton passes to its kernel; it does not need Numba."""

import numpy as np

# An automaton and its progress in a text: addresses of int64 arrays, sizes, and what changes.
# The edges of state s are those from firsts[s] to firsts[s + 1] - 1, sorted by label.
READING = np.dtype(
    [
        ("firsts", np.int64),  # (num_states + 1,)
        ("labels", np.int64),  # (num_edges,)
        ("targets", np.int64),  # (num_edges,)
        ("length", np.int64),  # (num_states,)
        ("link", np.int64),  # (num_states,)
        ("by_token", np.int64),  # (num_tokens,): where the many edges of state 0 lead
        ("best", np.int64),  # (num_states,): the length of the longest match that ended there
        ("ends", np.int64),  # (num_states,): the number of tokens read at its end
        ("num_states", np.int64),
        ("num_edges", np.int64),
        ("num_tokens", np.int64),
        ("separator_id", np.int64),
        ("offset", np.int64),  # tokens read
        # The last `matched` tokens read are the longest match here, a substring of `state`.
        ("state", np.int64),
        ("matched", np.int64),
    ]
)
