"""Training data: token files as memory maps, and seeded batches."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lmlib.digests import check_digests
from lmlib.files import sha256_file
from lmlib.runtime import to_device
from lmlib.tokens import TokenInfo, blocks, find_separators, read_token_info, read_tokens

Batch = tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]
Order = Literal["random", "epochs"]
Windows = Literal["any", "documents", "isolated"]


class TokenDataset:
    """A memory-mapped file of token ids."""

    def __init__(self, tokens: np.ndarray, info: TokenInfo, name: str = "the token array") -> None:
        self.tokens = tokens
        self.info = info
        self.name = name  # for error messages
        self.device = torch.device("cpu")  # of the batches
        self._on_device: Tensor | None = None  # all tokens, when they are kept there
        self._document_starts: dict[int, np.ndarray] = {}  # by context length

    @classmethod
    def open(cls, path: str | Path) -> "TokenDataset":
        """Open `path` (.npy) and its .json, and check them; the ids are read once for that.

        Raises FileNotFoundError if one is missing, ValueError if one is damaged or they disagree.
        """
        path = Path(path)
        check_digests(path.parent, path.name, path.with_suffix(".json").name)
        info = read_token_info(path)
        tokens = read_tokens(path)
        if len(tokens) != info.tokens:
            raise ValueError(
                f"{path}: holds {len(tokens)} tokens, but {path.with_suffix('.json').name} says "
                f"{info.tokens}"
            )
        largest = max((int(block.max()) for block in blocks(tokens)), default=0)
        if largest >= info.vocab_size:
            raise ValueError(
                f"{path}: holds token id {largest}, but the vocabulary ends at "
                f"{info.vocab_size - 1}"
            )
        return cls(tokens, info, str(path))

    def require_context(self, context_length: int) -> None:
        """Raise ValueError if the file is too short for one sequence."""
        if len(self.tokens) <= context_length:
            raise ValueError(
                f"{self.name}: {len(self.tokens)} tokens are too few for model.context_length="
                f"{context_length}, which needs at least {context_length + 1}; lower it or take "
                "a larger corpus"
            )

    def require_tokenizer(self, tokenizer_json: Path) -> None:
        """Raise ValueError if the file was made with a tokenizer other than this one."""
        if sha256_file(tokenizer_json) != self.info.tokenizer_sha256:
            raise ValueError(f"{self.name}: was not made with the tokenizer {tokenizer_json}")

    def to(self, device: torch.device) -> None:
        """Return batches on `device` from now on.

        The whole file is copied to a CUDA device if it takes at most a quarter of its free memory:
        batches are then assembled there, and only their starts are copied.
        """
        self.device, self._on_device = device, None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.tokens.nbytes <= free // 4:
                self._on_device = _signed(self.tokens).to(device)

    def starts(self, context_length: int, windows: Windows = "any") -> Sequence[int] | np.ndarray:
        """Return the index of the first token of each window: any, or those of `document_starts`.

        Isolated documents have the same windows; the model keeps its attention within each of them.
        Raises ValueError if the file is too short for a window.
        """
        self.require_context(context_length)
        if windows == "any":
            return range(len(self.tokens) - context_length)
        if context_length not in self._document_starts:
            self._document_starts[context_length] = document_starts(
                self.tokens, self.info.separator_id, context_length
            )
        return self._document_starts[context_length]

    def batch(
        self,
        step: int,
        *,
        seed: int,
        batch_size: int,
        context_length: int,
        order: Order = "random",
        windows: Windows = "any",
    ) -> Batch:
        """Return inputs and targets of `step`, counted from 1: a pure function of its arguments.

        random  every window of `starts` is equally likely at every step
        epochs  each window is used once before any is repeated; if they may begin anywhere, these
                are windows without overlap (see `epoch_starts`)
        """
        possible = self.starts(context_length, windows)
        positions = np.arange((step - 1) * batch_size, step * batch_size)
        if order == "random":
            rng = np.random.Generator(np.random.PCG64([seed, step]))
            drawn = rng.integers(0, len(possible), size=batch_size)
            starts = drawn if windows == "any" else np.asarray(possible)[drawn]
        elif windows == "any":
            starts = epoch_starts(positions, len(self.tokens), context_length, seed=seed)
        else:
            starts = np.asarray(possible)[epoch_order(positions, len(possible), seed=seed)]
        if self._on_device is None:
            return _split(to_device(_windows(self.tokens, starts, context_length), self.device))
        columns = torch.arange(context_length + 1, device=self.device)
        places = to_device(torch.from_numpy(starts), self.device).unsqueeze(1) + columns
        mask = (1 << 8 * self.tokens.itemsize) - 1  # back to unsigned
        return _split(self._on_device[places].long() & mask)


def epoch_starts(
    positions: Int[np.ndarray, " rows"], num_tokens: int, context_length: int, *, seed: int
) -> Int[np.ndarray, " rows"]:
    """Return the index of the first token of each window at `positions` in the order of all epochs.

    Each epoch cuts the tokens into adjacent windows, from an offset of its own, and takes each
    window once, in an order of its own. All epochs have the same number of windows; each leaves out
    fewer than 2 * context_length tokens at the ends of the file, but not always the same ones.

    Offset and order depend on (seed, epoch) alone, and each window's place in the order is computed
    without the others: this needs constant memory, however long the file is, and no earlier steps.
    """
    windows = max(1, (num_tokens - context_length) // context_length)
    offsets = min(context_length, num_tokens - windows * context_length)
    starts = np.empty_like(positions)
    for here, rng in _epochs(positions, windows, seed):
        offset = rng.integers(offsets)
        order = permute(positions[here] % windows, windows, rng)
        starts[here] = offset + order * context_length
    return starts


def epoch_order(
    positions: Int[np.ndarray, " rows"], num_windows: int, *, seed: int
) -> Int[np.ndarray, " rows"]:
    """Return which of `num_windows` windows stands at each place in the order of all epochs.

    Each epoch takes each window once, in an order of its own, which depends on (seed, epoch) alone.
    """
    order = np.empty_like(positions)
    for here, rng in _epochs(positions, num_windows, seed):
        order[here] = permute(positions[here] % num_windows, num_windows, rng)
    return order


def _epochs(
    positions: np.ndarray, num_windows: int, seed: int
) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    """Yield, for each epoch, which positions are in it, and its generator."""
    epochs = positions // num_windows
    for epoch in np.unique(epochs):
        yield epochs == epoch, np.random.Generator(np.random.PCG64([seed, int(epoch)]))


def document_starts(
    tokens: np.ndarray, separator_id: int | None, context_length: int
) -> Int[np.ndarray, " windows"]:
    """Return the first token of windows that begin where documents begin and cover all tokens.

    A document begins with the separator before it. After a window comes the one that begins with
    the first document that does not end in it; a document longer than a window goes on in windows
    side by side. The last window ends with the text. A text without separators is one document.
    """
    documents = np.concatenate(([0], find_separators(tokens, separator_id)))
    last = len(tokens) - context_length - 1
    starts = [0]
    while starts[-1] < last:
        start = starts[-1]
        # the window's last target is at start + context_length: a separator there ends a document
        whole = int(documents[documents.searchsorted(start + context_length, side="right") - 1])
        starts.append(min(whole if whole > start else start + context_length, last))
    return np.array(starts, dtype=np.int64)


def permute(
    x: Int[np.ndarray, " rows"], n: int, rng: np.random.Generator, *, rounds: int = 4
) -> Int[np.ndarray, " rows"]:
    """Return the images of `x` under a permutation of 0 .. n - 1 that `rng` chooses.

    A Feistel network: x is a cell in a table of rows and columns with slightly more than n cells.
    Each round shifts the row by a hash of the column, then the column by a hash of the row, which
    is invertible. A result of n or more is shuffled again until it is below n.

    Source:  Black & Rogaway 2002, "Ciphers with arbitrary finite domains" (generalised Feistel,
             cycle walking).
    """
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    keys = rng.integers(1 << 63, size=2 * rounds)

    def shuffle(place: np.ndarray) -> np.ndarray:
        row, column = np.divmod(place, columns)
        for row_key, column_key in keys.reshape(rounds, 2):
            row = (row + _hash(column ^ row_key) % rows) % rows
            column = (column + _hash(row ^ column_key) % columns) % columns
        return row * columns + column

    x = shuffle(x)
    while (outside := x >= n).any():
        x[outside] = shuffle(x[outside])
    return x


def _hash(x: np.ndarray) -> np.ndarray:
    """Return 63 well-mixed bits of each number.

    Source:  Steele et al. 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
    """
    bits = x.astype(np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def get_batch(
    tokens: np.ndarray,
    batch_size: int,
    context_length: int,
    device: str | torch.device = "cpu",
    *,
    rng: np.random.Generator | None = None,
) -> Batch:
    """Return `batch_size` random sequences of a token array, and their targets one token later.

    Starts are drawn with replacement, uniformly from [0, len(tokens) - context_length). Both
    tensors are int64 of shape (batch_size, context_length), on `device`.
    """
    if len(tokens) <= context_length:
        raise ValueError(
            f"get_batch: {len(tokens)} tokens are too few for context_length={context_length}"
        )
    starts = _random_starts(len(tokens), batch_size, context_length, rng or np.random.default_rng())
    return _split(_windows(tokens, starts, context_length).to(device))


def _random_starts(
    num_tokens: int, batch_size: int, context_length: int, rng: np.random.Generator
) -> np.ndarray:
    return rng.integers(0, num_tokens - context_length, size=batch_size)


def _windows(tokens: np.ndarray, starts: np.ndarray, context_length: int) -> Tensor:
    windows = np.stack([tokens[start : start + context_length + 1] for start in starts])
    return torch.from_numpy(windows.astype(np.int64))


def _split(windows: Int[Tensor, "batch context_and_1"]) -> Batch:
    return windows[:, :-1], windows[:, 1:]


def _signed(tokens: np.ndarray) -> Tensor:
    """Return the tokens as signed integers of the same bits: PyTorch can index only those."""
    return torch.from_numpy(np.array(tokens).view(f"int{8 * tokens.itemsize}"))
