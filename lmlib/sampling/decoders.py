"""Decoding steps with a KV cache: in PyTorch, or faster where possible."""

import logging
from collections.abc import Sequence
from functools import cache, partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmlib.errors import describe
from lmlib.memory import is_out_of_memory
from lmlib.model import KVCache, StaticKVCache, TransformerLM
from lmlib.native import load_kernels
from lmlib.runtime import Runtime
from lmlib.sampling import cpu_decoder

logger = logging.getLogger(__name__)


@runtime_checkable
class Decoder(Protocol):
    """A model that continues from the tokens of a cache.

    keeps_rows:  whether rows that have ended should stay in the batch, until half of them have
    """

    keeps_rows: bool

    def empty_cache(self, batch: int) -> KVCache:
        """Return a cache for `batch` rows."""
        ...

    def fill(self, windows: Sequence[Sequence[int]]) -> KVCache:
        """Return a cache of these tokens; a row may have none."""
        ...

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Append one token to each row of the cache; return the logits after it."""
        ...


class PlainDecoder:
    """The model itself, on any device and in any dtype."""

    keeps_rows = False

    def __init__(self, model: TransformerLM) -> None:
        self.model = model
        self.device = model.token_embeddings.weight.device

    def empty_cache(self, batch: int) -> KVCache:
        """Return a cache for `batch` rows."""
        return self.model.empty_cache(batch)

    def fill(self, windows: Sequence[Sequence[int]]) -> KVCache:
        """Return a cache of these tokens; a row may have none."""
        cache = self.empty_cache(len(windows))
        if any(windows):
            self.model.hidden(padded(windows, self.device), cache=cache)
            cache.lengths = [len(window) for window in windows]
        return cache

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Append one token to each row of the cache; return the logits after it."""
        last_tokens = torch.tensor(tokens, device=self.device).unsqueeze(1)
        return self.model(last_tokens, cache=cache)[:, -1]


class GraphDecoder(PlainDecoder):
    """The model on CUDA, with a step that is recorded once as a CUDA graph and then replayed.

    For a small model, the CPU takes longer to launch the kernels of a step than the GPU takes to
    run them. The step is recorded again for each new cache, that is, when half of the rows have
    ended. If recording fails, a warning says so, and the steps are those of a `PlainDecoder`.
    """

    keeps_rows = True

    def __init__(self, model: TransformerLM) -> None:
        super().__init__(model)
        self.cache: KVCache | None = None
        self.can_record = True

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Append one token to each row; return the logits after it, valid until the next call."""
        if cache is not self.cache and self.can_record:
            try:
                self._record(cache)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.can_record = False
                logger.warning("a step cannot be recorded as a CUDA graph (%s)", describe(error))
        if not self.can_record:
            return super().logits(cache, tokens)
        self.tokens.copy_(torch.tensor(tokens).unsqueeze(1))
        self.static.positions.copy_(torch.tensor(cache.lengths))
        (logits,) = self.launch()
        cache.lengths = [length + 1 for length in cache.lengths]
        return logits[:, -1]

    def _record(self, cache: KVCache) -> None:
        """Record a step; the next steps overwrite what the warm-up writes to the cache."""
        self.cache, self.static = cache, StaticKVCache(cache)
        self.tokens = torch.zeros(len(cache.lengths), 1, dtype=torch.int64, device=self.device)
        warmup = torch.cuda.Stream(self.device)  # libraries initialise outside the recording
        warmup.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(warmup):
            self.model(self.tokens, cache=self.static)
        torch.cuda.current_stream(self.device).wait_stream(warmup)
        step = partial(self.model, self.tokens, cache=self.static)
        self.launch = Runtime(self.device).record(lambda: (step(),), warmup)


def cast_matrices(model: TransformerLM, dtype: torch.dtype) -> TransformerLM:
    """Cast the matrices of a model, embeddings included, in place; return the model.

    In bfloat16 a step reads half as many bytes, which is most of its time with a large model and
    few rows. The gains of norms and the tables of the position embedding stay float32.
    """
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data = weight.data.to(dtype)
    return model


def decoder_for(model: TransformerLM) -> Decoder:
    """Return the fastest decoder for a model on its device."""
    if cpu_decoder.fits(model) and _can_load():
        return cpu_decoder.CpuDecoder(model)
    if model.token_embeddings.weight.device.type == "cuda":
        return GraphDecoder(model)
    return PlainDecoder(model)


@cache  # half-imported packages would fail in other ways next time
def _can_load() -> bool:
    """Load the kernels; if that fails, warn once: PyTorch does their work."""
    try:
        load_kernels(cpu_decoder.KERNELS)
    except (MemoryError, ImportError, OSError, SystemError) as error:
        logger.warning(
            "the sampling kernels cannot be loaded (%r); using PyTorch, which is slower", error
        )
        return False
    return True


def padded(windows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "rows longest"]:
    """Return windows padded on the right, where causal attention cannot see."""
    longest = max(map(len, windows))
    rows = [[*window, *[0] * (longest - len(window))] for window in windows]
    return torch.tensor(rows, device=device)
