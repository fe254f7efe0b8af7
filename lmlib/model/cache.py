"""KV cache: the keys and values of tokens already seen, so that each is computed once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmlib.model.mask import causal_mask


@runtime_checkable
class Cache(Protocol):
    """What a model needs from a cache."""

    def extend(self, seq: int) -> list["LayerCache"]:
        """Return, for each layer, the slots for the keys and values of the next `seq` tokens."""
        ...


class KVCache:
    """Keys and values of every layer, for a batch of rows that grow from position 0.

        model(token_ids, cache=cache)        appends (batch, seq) tokens

    Index p of a row belongs to the token at position p, and a query sees the positions up to its
    own, so rows of different lengths can share a batch. To remove the last tokens of a row, or its
    right padding, lower its entry in `lengths`; later tokens overwrite what lies beyond.

    keys_values:  (num_layers, 2, batch, kv_heads, context_length, d_head), all allocated at once
    lengths:      the number of tokens that each row holds
    window:       see `causal_mask`; the keys and values before it are kept too

    Do not differentiate a pass with a cache: the gradients through its keys and values are missing,
    or PyTorch raises an error.
    """

    def __init__(self, keys_values: Tensor, lengths: Sequence[int], window: int = 0) -> None:
        self.keys_values = keys_values
        self.lengths = list(lengths)
        self.window = window

    def extend(self, seq: int) -> list["LayerCache"]:
        """Make each row `seq` tokens longer; return the slots for their keys and values by layer.

        Raises ValueError, and changes nothing, when a row has no room for them.
        """
        context_length = self.keys_values.shape[-2]
        longest = max(self.lengths) + seq
        if longest > context_length:
            raise ValueError(
                f"KVCache: {seq} tokens after {max(self.lengths)} do not fit context_length="
                f"{context_length}; begin with an empty cache and the tokens to continue from"
            )
        device = self.keys_values.device
        if min(self.lengths) == max(self.lengths):
            positions, mask = slice(self.lengths[0], longest), None
            if seq < longest and (seq > 1 or 0 < self.window < longest):
                new = torch.arange(self.lengths[0], longest, device=device)
                mask = causal_mask(new, longest, self.window)
        else:
            starts = torch.tensor(self.lengths, device=device)
            positions, mask = _positions_and_mask(starts, seq, longest, self.window)
        self.lengths = [length + seq for length in self.lengths]
        return [LayerCache(layer, positions, mask, longest) for layer in self.keys_values]

    def select(self, rows: Sequence[int]) -> "KVCache":
        """Return a new cache with the given rows, in that order; rows may repeat."""
        index = torch.tensor(rows, device=self.keys_values.device)
        selected = _by_row(self.keys_values).index_select(1, index)
        shape = (*self.keys_values.shape[:2], len(rows), *self.keys_values.shape[3:])
        return KVCache(selected.view(shape), [self.lengths[row] for row in rows], self.window)

    def replace(self, rows: Sequence[int], others: "KVCache") -> None:
        """Overwrite the given rows with the rows of another cache, in order."""
        _by_row(self.keys_values)[:, list(rows)] = _by_row(others.keys_values)
        for row, length in zip(rows, others.lengths, strict=True):
            self.lengths[row] = length


def _by_row(keys_values: Tensor) -> Tensor:
    """Return a view with layers, keys and values as one axis: Apple's GPU indexes five at most."""
    return keys_values.view(-1, *keys_values.shape[2:])


class StaticKVCache:
    """A cache that shares another's memory and keeps the lengths on the device, not on the host.

    A step then has the same shapes and operations at every length, and can be recorded as a CUDA
    graph: each query gets all positions of the context, and a mask of those it may see. This cache
    can only be extended: select and replace rows in the cache whose memory it shares.

    positions:  (batch,) the position of each row's next token; set it before each step
    """

    def __init__(self, cache: KVCache) -> None:
        self.keys_values = cache.keys_values
        self.window = cache.window
        self.positions = torch.tensor(cache.lengths, device=self.keys_values.device)

    def extend(self, seq: int) -> list["LayerCache"]:
        """Return, by layer, the slots for keys and values of `seq` tokens from `positions` on."""
        context_length = self.keys_values.shape[-2]
        positions, mask = _positions_and_mask(self.positions, seq, context_length, self.window)
        return [LayerCache(layer, positions, mask, context_length) for layer in self.keys_values]


def _positions_and_mask(
    starts: Int[Tensor, " batch"], seq: int, num_keys: int, window: int
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch 1 seq num_keys"]]:
    """Return the positions of `seq` tokens from `starts` on, and a mask of the keys they see."""
    positions = starts.unsqueeze(1) + torch.arange(seq, device=starts.device)
    return positions, causal_mask(positions, num_keys, window).unsqueeze(1)  # for every head


class LayerCache:
    """The part of a cache that one layer extends in one pass.

    positions:  of the new tokens: a slice if all rows are equally long, else (batch, seq)
    mask:       True where a new token may see a key; None: as `causal_mask` has it
    """

    def __init__(
        self,
        keys_values: Float[Tensor, "2 batch heads context_length d_head"],
        positions: slice | Int[Tensor, "batch seq"],
        mask: Bool[Tensor, "... seq keys"] | None,
        longest: int,
    ) -> None:
        self.keys, self.values = keys_values
        self.positions = positions
        self.mask = mask
        self.longest = longest

    def append(
        self, K: Float[Tensor, "batch heads seq d_head"], V: Float[Tensor, "batch heads seq d_head"]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store K and V; return all keys and values up to the longest row's end, and the mask."""
        K, V = K.detach(), V.detach()
        if isinstance(self.positions, slice):
            self.keys[:, :, self.positions] = K
            self.values[:, :, self.positions] = V
        else:
            rows = torch.arange(len(K), device=K.device).unsqueeze(1)
            self.keys[rows, :, self.positions] = K.transpose(1, 2)
            self.values[rows, :, self.positions] = V.transpose(1, 2)
        return self.keys[:, :, : self.longest], self.values[:, :, : self.longest], self.mask
