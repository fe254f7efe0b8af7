"""The keys and values of tokens that a model has seen, so that they are computed once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Cache(Protocol):
    """What a model needs of a cache."""

    def extend(self, seq: int) -> list["LayerCache"]:
        """Return, for each layer, the place of the keys and values of the next `seq` tokens."""
        ...


class KVCache:
    """Keys and values of every layer, for a batch of rows that grow from position 0.

        model(token_ids, cache=cache)        (batch, seq) more tokens: those after `lengths`

    Index p of a row is for the token at position p, so rows of different lengths share a batch: a
    query sees the positions up to its own. To take back the last tokens of a row, or the padding
    on its right, lower its number in `lengths`; what lies beyond is overwritten.

    keys_values:  (num_layers, 2, batch, num_heads, context_length, d_head), all allocated at once
    lengths:      the number of tokens that each row holds

    No gradient flows through it.
    """

    def __init__(self, keys_values: Tensor, lengths: Sequence[int]) -> None:
        self.keys_values = keys_values
        self.lengths = list(lengths)

    def extend(self, seq: int) -> list["LayerCache"]:
        """Make each row `seq` tokens longer; return the place of their keys and values by layer.

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
            if 1 < seq < longest:
                mask = torch.ones(seq, longest, dtype=torch.bool, device=device)
                mask = mask.tril(longest - seq)
        else:
            starts = torch.tensor(self.lengths, device=device)
            positions, mask = _positions_and_mask(starts, seq, longest)
        self.lengths = [length + seq for length in self.lengths]
        return [LayerCache(layer, positions, mask, longest) for layer in self.keys_values]

    def select(self, rows: Sequence[int]) -> "KVCache":
        """Return a cache of these rows of this one, in this order; a row may come repeatedly."""
        index = torch.tensor(rows, device=self.keys_values.device)
        selected = self.keys_values.index_select(2, index)
        return KVCache(selected, [self.lengths[row] for row in rows])

    def replace(self, rows: Sequence[int], others: "KVCache") -> None:
        """Overwrite these rows with those of another cache, one by one."""
        self.keys_values[:, :, list(rows)] = others.keys_values
        for row, length in zip(rows, others.lengths, strict=True):
            self.lengths[row] = length


class StaticKVCache:
    """Another cache's memory, with lengths on the device, which the host does not know.

    So a step has the same shapes and the same operations at every length, and can be recorded as
    a CUDA graph: each query is given all positions of the context, and a mask of those it may see.
    It can only be extended: rows are selected and replaced in the cache whose memory it shares.

    positions:  (batch,) that of the next token of each row; to be set before each step
    """

    def __init__(self, cache: KVCache) -> None:
        self.keys_values = cache.keys_values
        self.positions = torch.tensor(cache.lengths, device=self.keys_values.device)

    def extend(self, seq: int) -> list["LayerCache"]:
        """Return, by layer, the place of keys and values of `seq` tokens from `positions` on."""
        context_length = self.keys_values.shape[-2]
        positions, mask = _positions_and_mask(self.positions, seq, context_length)
        return [LayerCache(layer, positions, mask, context_length) for layer in self.keys_values]


def _positions_and_mask(
    starts: Int[Tensor, " batch"], seq: int, num_keys: int
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch 1 seq num_keys"]]:
    """Return the positions of `seq` tokens from `starts` on, and the keys that each may see."""
    positions = starts.unsqueeze(1) + torch.arange(seq, device=starts.device)
    mask = torch.arange(num_keys, device=starts.device) <= positions.unsqueeze(-1)
    return positions, mask.unsqueeze(1)  # the same for every head


class LayerCache:
    """The part of a cache that one layer extends in one pass.

    positions:  of the new tokens: a slice where all rows are equally long, else (batch, seq)
    mask:       which keys each new token may see, True: it may; None: all, or by causality
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
        """Keep K and V; return keys and values up to the longest row's end, and the mask."""
        if isinstance(self.positions, slice):
            self.keys[:, :, self.positions] = K
            self.values[:, :, self.positions] = V
        else:
            rows = torch.arange(len(K), device=K.device).unsqueeze(1)
            self.keys[rows, :, self.positions] = K.transpose(1, 2)
            self.values[rows, :, self.positions] = V.transpose(1, 2)
        return self.keys[:, :, : self.longest], self.values[:, :, : self.longest], self.mask
