"""Training data: token shards as one array, and seeded batches."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lmlib.files import sha256_file
from lmlib.runtime import to_device
from lmlib.tokens import TokenInfo, Tokens, blocks, is_checked, open_tokens
from lmlib.windows import BLOCK_WINDOWS, LocalWindows, document_starts

Batch = tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]
Order = Literal["random", "epochs"]
Windows = Literal["any", "documents", "isolated"]

# Of a text of more tokens, windows at documents are not listed but found where they are needed.
LISTED_TOKENS = 1 << 26
REGION_TOKENS = 1 << 26  # of such a text, which an epoch reads before it reads others


class TokenDataset:
    """Token ids, in memory or in shards, as one array."""

    def __init__(
        self,
        tokens: Tokens,
        info: TokenInfo,
        name: str = "the token array",
        *,
        checked: bool = True,
    ) -> None:
        self.tokens = tokens
        self.info = info
        self.name = name  # for error messages
        self.checked = checked  # whether all ids are known to be in the vocabulary
        self.device = torch.device("cpu")  # of the batches
        self._on_device: Tensor | None = None  # all tokens, when they are kept there
        self._document_starts: dict[int, np.ndarray | LocalWindows] = {}  # by context length

    @classmethod
    def open(cls, folder: str | Path, cache: str | Path | None = None) -> "TokenDataset":
        """Open the shards in `folder`, and check them as `lmlib.tokens.open_tokens` does.

        Shards that are in a store are fetched to the folder `cache` when they are used.
        Raises FileNotFoundError if one is missing, ValueError if one is damaged or another one.
        """
        index, tokens = open_tokens(folder, cache)
        return cls(tokens, index.info, str(folder), checked=is_checked(index))

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

        All tokens are copied to a CUDA device if they take at most a quarter of its free memory:
        batches are then assembled there, and only their starts are copied.
        """
        self.device, self._on_device = device, None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.tokens.nbytes <= free // 4:
                self._on_device = self._copy_on(device)

    def _copy_on(self, device: torch.device) -> Tensor:
        """Return all tokens on a device, as signed integers of the same bits."""
        kind = torch.int16 if self.tokens.dtype.itemsize == 2 else torch.int32
        copy = torch.empty(len(self.tokens), dtype=kind, device=device)
        first = 0
        for block in blocks(self.tokens):
            self._require_ids(block)
            copy[first : first + len(block)] = _signed(block)
            first += len(block)
        return copy

    def _require_ids(self, ids: np.ndarray) -> None:
        """Raise ValueError for an id beyond the vocabulary: on a GPU it would end the process."""
        if not self.checked and (largest := int(ids.max())) >= self.info.vocab_size:
            raise ValueError(
                f"{self.name}: holds token id {largest}, but the vocabulary ends at "
                f"{self.info.vocab_size - 1}; a shard is damaged"
            )

    def starts(self, context_length: int, windows: Windows = "any") -> Sequence[int] | np.ndarray:
        """Return the index of the first token of each window: any, or those at documents.

        These are listed by `document_starts`; of more than LISTED_TOKENS tokens, `LocalWindows`
        finds them. Isolated documents have the same windows; the model keeps its attention within
        each of them. Raises ValueError if there are too few tokens for a window.
        """
        self.require_context(context_length)
        if windows == "any":
            return range(len(self.tokens) - context_length)
        if context_length not in self._document_starts:
            listed = len(self.tokens) <= max(LISTED_TOKENS, 2 * BLOCK_WINDOWS * context_length)
            self._document_starts[context_length] = (document_starts if listed else LocalWindows)(
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

        Of windows at documents in more than LISTED_TOKENS tokens (see `LocalWindows`):

        random  every token but the last is equally likely to be drawn, and gives the window that
                owns it: a window that owns more tokens is more likely
        epochs  an epoch takes as many windows as fit side by side, no window twice: the owners of
                the first tokens of cells (see `epoch_cells`)

        A batch takes the same time at every step, however far it is, and memory does not grow with
        the text. How the tokens are divided into shards does not matter.
        """
        possible = self.starts(context_length, windows)
        positions = np.arange((step - 1) * batch_size, step * batch_size)
        if isinstance(possible, LocalWindows):
            starts = self._local_starts(possible, positions, order, step, seed)
        elif order == "random":
            rng = _generator(seed, step)
            drawn = rng.integers(0, len(possible), size=batch_size)
            starts = drawn if windows == "any" else np.asarray(possible)[drawn]
        elif windows == "any":
            starts = epoch_starts(positions, len(self.tokens), context_length, seed=seed)
        else:
            starts = np.asarray(possible)[epoch_order(positions, len(possible), seed=seed)]
        if self._on_device is None:
            ids = _windows(self.tokens, starts, context_length)
            self._require_ids(ids)
            return _split(to_device(torch.from_numpy(ids.astype(np.int64)), self.device))
        columns = torch.arange(context_length + 1, device=self.device)
        places = to_device(torch.from_numpy(starts), self.device).unsqueeze(1) + columns
        mask = (1 << 8 * self.tokens.dtype.itemsize) - 1  # back to unsigned
        return _split(self._on_device[places].long() & mask)

    def _local_starts(
        self, windows: LocalWindows, positions: np.ndarray, order: Order, step: int, seed: int
    ) -> Int[np.ndarray, " rows"]:
        if order == "random":
            drawn = _generator(seed, step).integers(0, len(self.tokens) - 1, size=len(positions))
        else:
            drawn = epoch_cells(
                positions,
                len(windows),
                windows.context_length,
                cells_of_region=REGION_TOKENS // windows.context_length,
                seed=seed,
            )
        return windows.owners(drawn)


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
        yield epochs == epoch, _generator(seed, int(epoch))


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seeds))


def epoch_cells(
    positions: Int[np.ndarray, " rows"],
    num_cells: int,
    context_length: int,
    *,
    cells_of_region: int,
    seed: int,
) -> Int[np.ndarray, " rows"]:
    """Return the index of the first token of each cell at `positions` in the order of all epochs.

    Each epoch cuts the tokens into cells of `context_length` tokens, from an offset of its own
    below `context_length`, and takes each cell once: region after region, in an order of its own,
    and in each region, of `cells_of_region` cells side by side (one has the rest), in an order of
    its own. What is read at a time is near each other, and all depends on (seed, epoch) alone.
    """
    full, rest = divmod(num_cells, cells_of_region)
    firsts = np.empty_like(positions)
    for here, rng in _epochs(positions, num_cells, seed):
        offset = int(rng.integers(context_length))
        # the region with the rest has a turn of its own among the others
        begin = int(rng.integers(full + 1)) * cells_of_region
        places = positions[here] % num_cells
        in_rest = (begin <= places) & (places < begin + rest)
        turns, within = np.divmod(np.where(places < begin, places, places - rest), cells_of_region)
        regions = np.full_like(places, full)
        within[in_rest] = places[in_rest] - begin
        if full:
            regions[~in_rest] = permute(turns[~in_rest], full, rng)
        for region in np.unique(regions).tolist():
            those, size = regions == region, cells_of_region if region < full else rest
            # numbers from 1, since zeros at the end of a seed change nothing
            within[those] = permute(
                within[those],
                size,
                _generator(seed, int(positions[here][0] // num_cells), region + 1),
            )
        firsts[here] = offset + (regions * cells_of_region + within) * context_length
    return firsts


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
    windows = _windows(tokens, starts, context_length).astype(np.int64)
    return _split(torch.from_numpy(windows).to(device))


def _random_starts(
    num_tokens: int, batch_size: int, context_length: int, rng: np.random.Generator
) -> np.ndarray:
    return rng.integers(0, num_tokens - context_length, size=batch_size)


def _windows(tokens: Tokens, starts: np.ndarray, context_length: int) -> np.ndarray:
    """Return the ids of each window and its last target, (rows, context_length + 1)."""
    return np.stack([tokens[start : start + context_length + 1] for start in starts.tolist()])


def _split(windows: Int[Tensor, "batch context_and_1"]) -> Batch:
    return windows[:, :-1], windows[:, 1:]


def _signed(tokens: np.ndarray) -> Tensor:
    """Return the tokens as signed integers of the same bits: PyTorch can index only those."""
    return torch.from_numpy(np.array(tokens).view(f"int{8 * tokens.itemsize}"))
