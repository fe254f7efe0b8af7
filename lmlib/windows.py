"""Windows that begin where documents do: all of a text, or those around a place of a long one."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import Int

from lmlib.tokens import Tokens, find_separators

BLOCK_WINDOWS = 32  # the length of a block of `LocalWindows`, in windows side by side
KEPT_BLOCKS = 1 << 13
SEARCHED = 1 << 12  # tokens to look at first for the beginning of a document


def document_starts(
    tokens: Tokens, separator_id: int | None, context_length: int
) -> Int[np.ndarray, " windows"]:
    """Return the first token of windows that begin where documents begin and cover all tokens.

    A document begins with the separator before it. After a window comes the one that begins with
    the first document that does not end in it; a document longer than a window goes on in windows
    side by side. The last window ends with the text. A text without separators is one document.
    """
    documents = np.concatenate(([0], find_separators(tokens, separator_id)))
    return _follow(documents, context_length, len(tokens) - 1, len(tokens) - context_length - 1)


class LocalWindows(Sequence[int]):
    """The windows at documents of a text of any length, found where they are needed.

    The text is divided into blocks of BLOCK_WINDOWS * context_length tokens. A block begins with
    the first document that begins in the first half of it, or, if there is none, at its first
    token. In a block windows follow each other as in `document_starts`, and the last one reaches
    into the next block. So every window but the last, which ends with the text, begins with a
    document, or within one that is longer than a window; each token but the first is a target; and
    a document that fits into a window is whole in one.

    The windows of a block depend on it and on the beginning of the next one. Blocks are small, so
    that a window at a random place costs little more than reading it; those of the last KEPT_BLOCKS
    blocks are kept.

    A window *owns* the tokens from its first one to that of the next window: at most
    `context_length`. As a sequence, these are the owners of tokens side by side, `context_length`
    apart, which are different windows.

    Raises ValueError if the text is too short for two blocks.
    """

    def __init__(self, tokens: Tokens, separator_id: int | None, context_length: int) -> None:
        self.tokens = tokens
        self.separator_id = separator_id
        self.context_length = context_length
        self.block_tokens = BLOCK_WINDOWS * context_length
        self.num_blocks = len(tokens) // self.block_tokens  # the last one is longer
        if self.num_blocks < 2:
            raise ValueError(
                f"{len(tokens)} tokens are too few for blocks of {self.block_tokens}; list the "
                "windows with `document_starts`"
            )
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context_length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return self.owners(np.array(places) * self.context_length).tolist()
        return int(self.owners(np.array([places * self.context_length]))[0])

    def owners(self, places: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Return the first token of the window that owns the token at each place.

        Each place is below the number of tokens - 1: the last token is only a target.
        """
        blocks = np.minimum(places // self.block_tokens, self.num_blocks - 1)
        owners = []
        for place, block in zip(places.tolist(), blocks.tolist(), strict=True):
            starts = self._starts(block)
            if place < starts[0]:
                starts = self._starts(block - 1)
            owners.append(starts[starts.searchsorted(place, side="right") - 1])
        return np.array(owners, dtype=np.int64)

    def _starts(self, block: int) -> Int[np.ndarray, " windows"]:
        """Return the first token of each window of a block."""
        starts = self._blocks.get(block)
        if starts is not None:
            self._blocks.move_to_end(block)
            return starts
        first = self._first(block)
        is_last = block == self.num_blocks - 1
        end = len(self.tokens) if is_last else self._first(block + 1)
        separators = find_separators(self.tokens[first:end], self.separator_id)
        documents = np.concatenate(([first], first + separators))
        stop, last = end, len(self.tokens)  # a window may reach beyond the block
        if is_last:
            stop, last = len(self.tokens) - 1, len(self.tokens) - self.context_length - 1
        starts = _follow(documents, self.context_length, stop, last)
        if len(self._blocks) >= KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        self._blocks[block] = starts
        return starts

    def _first(self, block: int) -> int:
        """Return the first token of a block."""
        start = block * self.block_tokens
        half = start + self.block_tokens // 2
        if block == 0 or self.separator_id is None:
            return start
        width, at = SEARCHED, start
        while at < half:
            found = find_separators(self.tokens[at : min(half, at + width)], self.separator_id)
            if len(found):
                return at + int(found[0])
            at, width = at + width, 2 * width
        return start


def _follow(
    documents: Int[np.ndarray, " documents"], context_length: int, stop: int, last: int
) -> Int[np.ndarray, " windows"]:
    """Return the windows from the first of `documents` on, until one has the target `stop`.

    No window begins after `last`.
    """
    starts = [int(documents[0])]
    while starts[-1] + context_length < stop:
        start = starts[-1]
        # the window's last target is at start + context_length: a separator there ends a document
        whole = int(documents[documents.searchsorted(start + context_length, side="right") - 1])
        starts.append(min(whole if whole > start else start + context_length, last))
    return np.array(starts, dtype=np.int64)
