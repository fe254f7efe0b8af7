"""Learn merges from counted words with the kernels."""

from collections.abc import Callable

import numpy as np

from lmlib.native import address_of, record
from lmlib.tokenizer.counting import WordCounts
from lmlib.tokenizer.engine import load
from lmlib.tokenizer.kernels.records import (
    CELL,
    ENTRY,
    NEEDS_ROOM,
    NEIGHBOUR,
    PAIR,
    REACHED,
    STATE,
    TOKEN,
)

MERGES_AT_A_TIME = 64  # per call of the kernel; Ctrl-C takes effect between calls
FIRST_ROOM = 1 << 17  # initial size of the table of pairs: more than there are pairs of bytes


def learn_merges(
    words: WordCounts, num_merges: int, on_progress: Callable[[int], None] | None = None
) -> list[tuple[bytes, bytes]]:
    """Return the merges in the order learnt; fewer than `num_merges` if no pair is left.

    `on_progress` is called with the number of merges learnt so far. Raises ValueError when the
    number of bytes plus the number of words exceeds 2**31 - 2.
    """
    state = Learner(words, num_merges)
    learnt = 0
    while state.learn(min(learnt + MERGES_AT_A_TIME, num_merges)):
        learnt = state.num_learnt
        if on_progress:
            on_progress(learnt)
        if learnt == num_merges:
            break
    if on_progress and state.num_learnt != learnt:  # no pair was left
        on_progress(state.num_learnt)
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    for left, right in state.merges[: state.num_learnt].tolist():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return merges


class Learner:
    """The memory in which the kernels learn."""

    def __init__(self, words: WordCounts, wanted: int) -> None:
        num_cells = words.num_bytes + len(words) + 1
        if num_cells >= 1 << 31:  # places are int32
            raise ValueError(
                f"the distinct words have {words.num_bytes} bytes in {len(words)} words; the limit "
                "of their sum is 2**31 - 2; train on a part of the corpus"
            )
        self._kernels = load()
        self.merges = np.empty((wanted, 2), np.int32)
        num_tokens = 256 + wanted
        self._arrays = {
            "data": np.ascontiguousarray(words.data),
            "starts": np.ascontiguousarray(words.starts),
            "counts": np.ascontiguousarray(words.counts),
            "merges": self.merges,
            "cells": np.empty(num_cells, CELL),
            "places": np.empty(3 * words.num_bytes, np.int32),
            "tokens": np.zeros(num_tokens, TOKEN),
            "near": np.zeros(2 * num_tokens, NEIGHBOUR),
            "met": np.empty(2 * num_tokens + 1, np.int64),
            "first": np.empty(num_tokens + 1, np.int64),
            "square": np.zeros((256, 256), NEIGHBOUR),
        }
        self._state = record(
            STATE,
            **self._arrays,
            num_words=len(words),
            wanted=wanted,
            num_cells=num_cells,
            num_places_in_all=3 * words.num_bytes,
        )
        self._make_room(FIRST_ROOM)
        self._kernels.begin(address_of(self._state))

    @property
    def num_learnt(self) -> int:
        """The number of merges learnt so far."""
        return int(self._state["learnt"][0])

    def learn(self, until: int) -> bool:
        """Learn until there are `until` merges; return False if the pairs run out before."""
        while True:
            result = self._kernels.learn(address_of(self._state), until)
            if result != NEEDS_ROOM:
                return result == REACHED
            self._make_room(2 * int(self._state["room"][0]))

    def _make_room(self, room: int) -> None:
        """Enlarge the table of pairs and the heap to `room` entries, a power of two."""
        used = int(self._state["num_pairs"][0])
        pairs, heap = np.empty(room, PAIR), np.empty(room, ENTRY)
        if used:
            pairs[:used] = self._arrays["pairs"][:used]
            heap[:used] = self._arrays["heap"][:used]
        self._arrays |= {"pairs": pairs, "heap": heap, "slots": np.zeros(2 * room, np.int32)}
        for name in ("pairs", "heap", "slots"):
            self._state[name] = address_of(self._arrays[name])
        self._state["room"] = room
        self._kernels.fill_slots(address_of(self._state))
