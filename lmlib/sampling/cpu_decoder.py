"""Decoding in float32 on a CPU: a model's weights and its cache, handed to the kernels."""

import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lmlib.model import KVCache, ModelParams, RMSNorm, TransformerLM
from lmlib.threads import shared_pool

MULTIPLE = 16  # of all sizes that are summed over: a multiple of kernels.LANES
LEAST = 4  # results of a product: kernels.COLUMNS
CHUNK = 128  # tokens at a time, whose vectors stay in the processor's cache


class CpuDecoder:
    """What `PlainDecoder` does, up to rounding; each row has the bits that it would have alone.

    Of PyTorch's threads each takes a part of the rows. The weights are not copied.
    """

    def __init__(self, model: TransformerLM) -> None:
        from lmlib.sampling import kernels  # here: importing Numba takes a third of a second

        self.kernels = kernels
        self.model = model
        self.embeddings = _array(model.token_embeddings.weight)
        self.eps = np.float32(model.params.norm_eps)
        self.blocks = [self._block(layer) for layer in model.layers]
        self.head = _gain(model.ln_final), self.eps, _array(model.lm_head.weight)

    def _block(self, layer: Any) -> tuple[Any, ...]:
        """Return what `kernels.block` takes of a layer."""
        attn, ffn = layer.attn, layer.ffn
        projections = (attn.q_proj, attn.k_proj, attn.v_proj, attn.output_proj)
        w3 = ffn.w3.weight if hasattr(ffn, "w3") else torch.empty(0, 0)
        none = torch.empty(1, 0)
        rope = (none, none) if attn.rope is None else (attn.rope.cos, attn.rope.sin)
        return (
            tuple(_array(projection.weight) for projection in projections),
            tuple(map(_array, (ffn.w1.weight, ffn.w2.weight, w3))),
            (_gain(layer.ln1), _gain(layer.ln2)),
            tuple(map(_array, rope)),
            self.eps,
            layer.post,
        )

    def fill(self, windows: Sequence[Sequence[int]]) -> KVCache:
        """Return a cache of these tokens; a row may have none."""
        filled = self.model.empty_cache(len(windows))
        self._in_threads(filled, windows, None)
        return filled

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Return the logits after one token more for each row of the cache."""
        logits = np.empty((len(tokens), self.model.vocab_size), dtype=np.float32)
        self._in_threads(cache, [[token] for token in tokens], logits)
        return torch.from_numpy(logits)

    def _in_threads(
        self,
        cache: KVCache,
        new: Sequence[Sequence[int]],
        logits: NDArray[np.float32] | None,
    ) -> None:
        """Extend each row of the cache by new tokens, of which `logits` gets the logits."""
        parts = min(len(new), torch.get_num_threads())
        bounds = [len(new) * part // parts for part in range(parts + 1)]
        others = [
            shared_pool().submit(self._run, cache, new, logits, *bounds[part : part + 2])
            for part in range(1, parts)
        ]
        self._run(cache, new, logits, *bounds[:2])
        for other in others:
            other.result()
        cache.lengths = [
            length + len(tokens) for length, tokens in zip(cache.lengths, new, strict=True)
        ]

    def _run(
        self,
        cache: KVCache,
        new: Sequence[Sequence[int]],
        logits: NDArray[np.float32] | None,
        first: int,
        last: int,
    ) -> None:
        """Do it for the rows from `first` to `last` - 1."""
        rows = range(first, last)
        tokens = list(chain.from_iterable(new[row] for row in rows))
        sequences = np.repeat(rows, [len(new[row]) for row in rows])
        positions = [cache.lengths[row] + i for row in rows for i in range(len(new[row]))]
        at = np.array(positions, dtype=np.int64)
        keys_values = cache.keys_values.numpy()
        for start in range(0, len(tokens), CHUNK):  # what is before in a sequence comes before
            chunk = slice(start, start + CHUNK)
            x = self.embeddings[tokens[chunk]]
            for layer, block in zip(keys_values, self.blocks, strict=True):
                self.kernels.block(x, sequences[chunk], at[chunk], layer, *block)
            if logits is not None:
                self.kernels.logits(x, *self.head, logits[first + start : last])


def fits(model: TransformerLM) -> bool:
    """Return whether the kernels can compute the model: its device, its dtype, its sizes."""
    params = model.params
    ffn: Any = model.layers[0].ffn
    summed = (params.d_model, params.d_model // params.num_heads, len(ffn.w1.weight))
    return (
        type(model) is TransformerLM
        and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
        and all(size % MULTIPLE == 0 for size in summed)
        and min(model.vocab_size, params.context_length) >= LEAST
        and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
    )


def load() -> None:
    """Compile the kernels, or read them from the disk."""
    params = ModelParams(context_length=LEAST, d_model=16, num_layers=1, num_heads=1, d_ff=16)
    decoder = CpuDecoder(TransformerLM(params, LEAST))
    decoder.logits(decoder.fill([[0]]), [0])


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().numpy()


def _gain(norm: nn.Module) -> NDArray[np.float32]:
    return _array(norm.weight if isinstance(norm, RMSNorm) else torch.empty(0))
