"""Read a text with a suffix automaton."""

from typing import no_type_check

import numpy as np

from lmlib.evaluation.kernels.records import READING
from lmlib.native.compiling import kernel, view


@kernel
@no_type_check
def read(text, num_text, readings):
    """Read a block of tokens; record the longest match that ended in each state; return 0.

    text   address of (num_text,) int64
    """
    reading = view(readings, 1, READING)[0]
    tokens = view(text, num_text, np.int64)
    firsts = view(reading.firsts, reading.num_states + 1, np.int64)
    labels = view(reading.labels, reading.num_edges, np.int64)
    targets = view(reading.targets, reading.num_edges, np.int64)
    length = view(reading.length, reading.num_states, np.int64)
    link = view(reading.link, reading.num_states, np.int64)
    by_token = view(reading.by_token, reading.num_tokens, np.int64)
    best = view(reading.best, reading.num_states, np.int64)
    ends = view(reading.ends, reading.num_states, np.int64)
    state, matched = reading.state, reading.matched
    for i in range(num_text):
        token = tokens[i]
        if token == reading.separator_id:
            state, matched = np.int64(0), np.int64(0)
            continue
        while state:
            low, end = firsts[state], firsts[state + 1]
            high = end
            while low < high:
                middle = (low + high) >> 1
                if labels[middle] < token:
                    low = middle + 1
                else:
                    high = middle
            if low < end and labels[low] == token:
                state = targets[low]
                matched += 1
                break
            state = link[state]
            matched = length[state]
        else:
            state = by_token[token] if token < len(by_token) else np.int64(0)
            matched = np.int64(state > 0)
        if matched > best[state]:
            best[state], ends[state] = matched, reading.offset + i + 1
    reading.state, reading.matched = state, matched
    reading.offset += num_text
    return np.int64(0)
