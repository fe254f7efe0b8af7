"""Decoding in float32 on a CPU: kernels that use a model's weights and cache in place."""

import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lmlib.model import KVCache, RMSNorm, TransformerLM
from lmlib.native import address_of, load_kernels, record
from lmlib.sampling.kernels.records import BLOCK, COLUMNS, HEAD, MULTIPLE, WORK, room_size
from lmlib.threads import shared_pool

KERNELS = "lmlib.sampling.kernels"
CHUNK = 128  # tokens at a time: few enough for their vectors to stay in the CPU's cache


class CpuDecoder:
    """Does what `PlainDecoder` does, up to rounding, and is batch-invariant.

    That is, a row's bits do not depend on the other rows. Each of PyTorch's threads takes a part
    of the rows. The weights are not copied.
    """

    keeps_rows = False

    def __init__(self, model: TransformerLM) -> None:
        self.kernels = load_kernels(KERNELS)
        self.model = model
        self.kept: list[Tensor] = []  # weights as they are now: the kernels have their addresses
        self.embeddings = model.token_embeddings.weight.detach().numpy()
        self.blocks = np.concatenate([self._block(layer) for layer in model.layers])
        self.head = record(
            HEAD,
            gain=self._gain(model.ln_final),
            weight=self._address(model.lm_head.weight),
            vocab_size=model.vocab_size,
        )
        self.head["eps"] = model.params.norm_eps
        self.head["softcap"] = model.params.logit_softcap
        self.weights = address_of(self.blocks), len(self.blocks), address_of(self.head)

    def _block(self, layer: Any) -> NDArray[Any]:
        """Return the BLOCK of a layer."""
        attn, ffn, params = layer.attn, layer.ffn, self.model.params
        fields = {
            "num_heads": params.num_heads,
            "num_kv_heads": params.kv_heads,
            "window": params.attention_window,
            "context_length": params.context_length,
            "d_head": params.d_head,
            "d_ff": len(ffn.w1.weight),
            "q": self._address(attn.q_proj.weight),
            "k": self._address(attn.k_proj.weight),
            "v": self._address(attn.v_proj.weight),
            "output": self._address(attn.output_proj.weight),
            "w1": self._address(ffn.w1.weight),
            "w2": self._address(ffn.w2.weight),
            "w3": self._address(ffn.w3.weight) if hasattr(ffn, "w3") else 0,
            "gain1": self._gain(layer.ln1),
            "gain2": self._gain(layer.ln2),
            "q_gain": self._gain(attn.q_norm),
            "k_gain": self._gain(attn.k_norm),
            "cos": 0 if attn.rope is None else self._address(attn.rope.cos),
            "sin": 0 if attn.rope is None else self._address(attn.rope.sin),
            "post": int(layer.post),
            "relu2": int(params.ffn == "relu2"),
        }
        block = record(BLOCK, **fields)
        block["eps"] = params.norm_eps
        return block

    def _address(self, tensor: Tensor) -> int:
        """Return the address of a tensor's numbers, and keep them even if the model changes."""
        self.kept.append(tensor.detach())
        return tensor.data_ptr()

    def _gain(self, norm: nn.Module) -> int:
        return self._address(norm.weight) if isinstance(norm, RMSNorm) else 0

    def fill(self, windows: Sequence[Sequence[int]]) -> KVCache:
        """Return a cache of these tokens; a row may have none."""
        filled = self.model.empty_cache(len(windows))
        self._in_threads(filled, windows, None)
        return filled

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Append one token to each row of the cache; return the logits after it."""
        logits = np.empty((len(tokens), self.model.vocab_size), dtype=np.float32)
        self._in_threads(cache, [[token] for token in tokens], logits)
        return torch.from_numpy(logits)

    def _in_threads(
        self,
        cache: KVCache,
        new: Sequence[Sequence[int]],
        logits: NDArray[np.float32] | None,
    ) -> None:
        """Extend each row of the cache by new tokens; write their logits to `logits`, if given."""
        ids, vocab_size = list(chain.from_iterable(new)), self.model.vocab_size
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            raise IndexError(
                f"token ids are from {min(ids)} to {max(ids)}; the model has those from 0 to "
                f"{vocab_size - 1}"
            )
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
        """Process the rows from `first` to `last` - 1."""
        rows = range(first, last)
        tokens = list(chain.from_iterable(new[row] for row in rows))
        sequences = np.repeat(rows, [len(new[row]) for row in rows])
        positions = np.array(
            [cache.lengths[row] + i for row in rows for i in range(len(new[row]))], dtype=np.int64
        )
        keys_values = cache.keys_values.numpy()
        context_length, d_ff = (int(self.blocks[name][0]) for name in ("context_length", "d_ff"))
        num_rows, d_model = min(CHUNK, len(tokens)), self.embeddings.shape[1]
        room = np.empty(room_size(num_rows, d_model, d_ff, context_length), np.float32)
        for start in range(0, len(tokens), CHUNK):  # earlier tokens of a sequence come first
            chunk = slice(start, start + CHUNK)
            x = self.embeddings[tokens[chunk]]
            work = record(
                WORK,
                x=x,
                num_rows=len(x),
                sequences=sequences[chunk],
                positions=positions[chunk],
                keys_values=keys_values,
                num_sequences=len(cache.lengths),
                logits=0 if logits is None else logits[first + start : last],
                room=room,
            )
            self.kernels.decode(*self.weights, address_of(work))


def fits(model: TransformerLM) -> bool:
    """Return whether the kernels support the model's device, dtype and sizes."""
    params = model.params
    ffn: Any = model.layers[0].ffn
    summed = (params.d_model, params.d_head, len(ffn.w1.weight))
    return (
        type(model) is TransformerLM
        and all(
            p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous()
            for p in model.parameters()
        )
        and all(size % MULTIPLE == 0 for size in summed)
        and min(model.vocab_size, params.context_length) >= COLUMNS
        and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
    )
