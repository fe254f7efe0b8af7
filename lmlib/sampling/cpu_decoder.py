"""Decoding on a CPU: kernels that use a model's weights and cache in place."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lmlib.model import KVCache, RMSNorm, TransformerLM
from lmlib.native import address_of, load_kernels, record
from lmlib.runtime import one_thread
from lmlib.sampling.kernels.records import (
    BLOCK,
    COLUMNS,
    HEAD,
    MULTIPLE,
    WORK,
    num_counters,
    own_size,
    room_size,
)
from lmlib.threads import shared_pool

KERNELS = "lmlib.sampling.kernels"
CHUNK = 128  # tokens at a time: few enough for their vectors to stay in the CPU's cache
PRODUCTS_PER_THREAD = 1 << 20  # a step of fewer takes less time than another thread to begin
SIZES = "d_ff", "context_length"  # of a BLOCK, equal in all
PIECES = 2  # per thread: a thread that is slow, or comes late, leaves most of its own to others


class CpuDecoder:
    """Does what `PlainDecoder` does, up to rounding, and is batch-invariant.

    That is, a row's bits do not depend on the other rows, nor on the number of threads: as many as
    PyTorch may use share the columns of each product. The weights are not copied. Matrices may be
    bfloat16 (`cast_matrices`), which halves what a step reads from memory; they are widened to
    float32 as they are read, and all else is float32.
    """

    keeps_rows = False

    def __init__(self, model: TransformerLM) -> None:
        self.kernels = load_kernels(KERNELS)
        self.model = model
        self.kept: list[Tensor] = []  # weights as they are now: the kernels have their addresses
        embeddings = model.token_embeddings.weight.detach()
        self.half = int(embeddings.dtype == torch.bfloat16)
        self.embeddings = (embeddings.view(torch.uint16) if self.half else embeddings).numpy()
        spared = 0 if model.params.tie_embeddings else embeddings.numel()
        self.num_weights = model.num_parameters() - spared  # that a step reads
        self.blocks = np.concatenate([self._block(layer) for layer in model.layers])
        self.head = record(
            HEAD,
            gain=self._gain(model.ln_final),
            weight=self._address(model.lm_head.weight),
            vocab_size=model.vocab_size,
            half=self.half,
        )
        self.head["eps"] = model.params.norm_eps
        self.head["softcap"] = model.params.logit_softcap
        self.sizes = (self.embeddings.shape[1], *(int(self.blocks[name][0]) for name in SIZES))
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
            "half": self.half,
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

    def empty_cache(self, batch: int) -> KVCache:
        """Return a cache for `batch` rows."""
        with one_thread():  # others would spin in the way of those that fill it
            return self.model.empty_cache(batch, torch.float32)

    def fill(self, windows: Sequence[Sequence[int]]) -> KVCache:
        """Return a cache of these tokens; a row may have none."""
        filled = self.empty_cache(len(windows))
        filled.lengths = [len(window) for window in windows]
        positions = [np.arange(length) for length in filled.lengths]
        self._extend(
            filled,
            list(chain.from_iterable(windows)),
            np.repeat(np.arange(len(windows)), filled.lengths),
            np.concatenate(positions),
            None,
        )
        return filled

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Append one token to each row of the cache; return the logits after it."""
        logits = np.empty((len(tokens), self.model.vocab_size), dtype=np.float32)
        self._extend(cache, tokens, np.arange(len(tokens)), np.array(cache.lengths), logits)
        cache.lengths = [length + 1 for length in cache.lengths]
        return torch.from_numpy(logits)

    def _extend(
        self,
        cache: KVCache,
        ids: Sequence[int],
        sequences: NDArray[np.int64],
        positions: NDArray[np.int64],
        logits: NDArray[np.float32] | None,
    ) -> None:
        """Put tokens at their positions in the sequences of a cache; write `logits`, if given."""
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.model.vocab_size:
            raise IndexError(
                f"token ids are from {min(ids)} to {max(ids)}; the model has those from 0 to "
                f"{self.model.vocab_size - 1}"
            )
        for start in range(0, len(ids), CHUNK):  # earlier tokens of a sequence come first
            chunk = slice(start, start + CHUNK)
            self._run(
                ids[chunk],
                sequences=sequences[chunk],
                positions=positions[chunk],
                keys_values=cache.keys_values.numpy(),
                num_sequences=len(cache.lengths),
                logits=0 if logits is None else logits[chunk],
            )

    def _embedded(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings of tokens."""
        rows = self.embeddings[tokens]
        return (rows.astype(np.uint32) << 16).view(np.float32) if self.half else rows

    def _run(self, tokens: Sequence[int], **fields: int | NDArray[Any]) -> None:
        """Apply the model to `tokens`, whose WORK has these fields."""
        num_rows, (d_model, d_ff, context_length) = len(tokens), self.sizes
        wanted = num_rows * self.num_weights // PRODUCTS_PER_THREAD
        threads = max(1, min(torch.get_num_threads(), wanted))
        fields |= {
            "x": self._embedded(tokens),
            "counters": np.zeros(num_counters(len(self.blocks)), np.int64),
            "room": np.empty(room_size(num_rows, d_model, d_ff), np.float32),
        }
        pieces = 1 if threads == 1 else PIECES * threads
        work = record(WORK, num_rows=num_rows, pieces=pieces, **fields)
        address = address_of(work.view(np.uint8))  # that of a record takes ten times as long

        def decode() -> None:
            own = np.empty(own_size(num_rows, d_model, d_ff, context_length), np.float32)
            self.kernels.decode(*self.weights, address, address_of(own))

        others = [shared_pool().submit(decode) for _ in range(1, threads)]
        try:
            decode()
        finally:
            for other in others:
                if not other.cancel():  # it has begun, and reads what belongs to this call
                    other.result()


def fits(model: TransformerLM) -> bool:
    """Return whether the kernels support the model's device, dtypes and sizes."""
    params = model.params
    ffn: Any = model.layers[0].ffn
    summed = (params.d_model, params.d_head, len(ffn.w1.weight))
    weights = list(model.parameters())
    matrices = {weight.dtype for weight in weights if weight.dim() == 2}
    return (
        type(model) is TransformerLM
        and all(weight.device.type == "cpu" and weight.is_contiguous() for weight in weights)
        and matrices in ({torch.float32}, {torch.bfloat16})
        and all(tensor.dtype == torch.float32 for tensor in _vectors_and_tables(model))
        and all(size % MULTIPLE == 0 for size in summed)
        and min(model.vocab_size, params.context_length) >= COLUMNS
        and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
    )


def _vectors_and_tables(model: TransformerLM) -> Iterator[Tensor]:
    """Yield the gains of a model's norms and the tables of its position embedding."""
    yield from (weight for weight in model.parameters() if weight.dim() == 1)
    yield from model.buffers()
