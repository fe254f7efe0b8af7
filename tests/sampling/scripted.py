"""Models with scripted outputs, and settings, for the tests of sampling."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmlib.model import ModelParams, TransformerLM
from lmlib.model.cache import Cache
from lmlib.sampling import SamplingParams, generate
from lmlib.tokenizer import Tokenizer

SIZES = ModelParams(context_length=8, d_model=16, num_layers=2, num_heads=2, d_ff=16)
MODEL = TransformerLM(SIZES, 30, seed=1)
KERNEL_MODEL = TransformerLM(replace(SIZES, d_model=32), 30, seed=1)  # of a size for CpuDecoder
BYTE_MODEL = TransformerLM(SIZES, 256, seed=1)
BYTES = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)
SAMPLING = SamplingParams(
    prompts=("a",), max_tokens=12, temperature=1.0, top_k=0, top_p=1.0, seed=5
)
GREEDY = replace(SAMPLING, temperature=0.0)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [15, 16]]  # the third overflows


class Script(TransformerLM):
    """Returns each token's row of a table as logits, whatever comes before it."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(SIZES, len(table))
        self.table = table
        self.widths: list[int] = []

    def hidden(
        self,
        token_ids: Tensor,
        token_positions: Tensor | None = None,
        *,
        cache: Cache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        assert documents is None
        if cache is not None:
            cache.extend(token_ids.shape[-1])
        self.widths.append(token_ids.shape[-1])
        return self.table[token_ids]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def counting(vocab_size: int) -> Script:
    """After token i comes i + 1, and after the last comes 0."""
    return Script(100 * torch.eye(vocab_size).roll(1, dims=1))


def continued(*args: Any, **options: Any) -> list[list[int]]:
    """Return the one continuation of each prompt."""
    return [only for (only,) in generate(*args, **options)]
