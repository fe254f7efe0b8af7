"""The record through which a suffix automaton and its kernel share memory; without Numba."""

import numpy as np

# An automaton and how far it has read a text: addresses of int64 arrays, sizes, and what changes.
# The edges of state s are those from firsts[s] to firsts[s + 1], by their labels.
READING = np.dtype(
    [
        ("firsts", np.int64),  # (num_states + 1,)
        ("labels", np.int64),  # (num_edges,)
        ("targets", np.int64),  # (num_edges,)
        ("length", np.int64),  # (num_states,)
        ("link", np.int64),  # (num_states,)
        ("by_token", np.int64),  # (num_tokens,): where the edges of state 0 lead, which are many
        ("best", np.int64),  # (num_states,): the length of the longest match that ended there
        ("ends", np.int64),  # (num_states,): how many tokens were read at its end
        ("num_states", np.int64),
        ("num_edges", np.int64),
        ("num_tokens", np.int64),
        ("separator_id", np.int64),
        ("offset", np.int64),  # tokens read
        # The last `matched` tokens read are a substring of `state`, the longest that ends here.
        ("state", np.int64),
        ("matched", np.int64),
    ]
)
