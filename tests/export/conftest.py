"""Small random models with tokenizers, and a folder with the two exported."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

# before anything imports huggingface_hub: these tests load from disk only
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from lmlib.model import ModelParams, TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer, train_bpe

TEXT = (
    "It's 1984: the naïve ÉTÉ, 中文 and 👩\u200d🚀!\r\n\n  She'LL pay  $1234.50 \t for "
    "the_thing ...  "
)
SPECIAL = [SEPARATOR, "<a b>", "<pad>"]


def make_tokenizer(pattern: str = "gpt2", special: Iterable[str] = (SEPARATOR,)) -> Tokenizer:
    """Return a tokenizer learnt from TEXT: at most 351 tokens, not a round number."""
    special = list(special)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(TEXT * 3 + SEPARATOR + "then the thing in the theatre", encoding="utf-8")
        vocab, merges = train_bpe(path, 351, special, pattern=pattern)
    return Tokenizer(vocab, merges, special, pattern=pattern)


def make_model(
    vocab_size: int,
    *,
    seed: int = 1,
    num_heads: int = 2,
    num_kv_heads: int = 0,
    window: int = 0,
    tie: bool = False,
    d_model: int = 24,
    theta: float = 500.0,
    qk_norm: bool = False,
) -> TransformerLM:
    """Return a model with random weights, including the norm gains."""
    params = ModelParams(
        context_length=32,
        d_model=d_model,
        num_layers=2,
        num_heads=num_heads,
        d_ff=40,
        num_kv_heads=num_kv_heads,
        attention_window=window,
        rope_theta=theta,
        norm_eps=1e-3,
        qk_norm=qk_norm,
        tie_embeddings=tie,
    )
    model = TransformerLM(params, vocab_size, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


SHAPES = [
    {"num_heads": 1, "tie": False},
    {"num_heads": 2, "tie": True},
    {"num_heads": 3, "tie": False, "theta": 10_000.0},
    {"num_heads": 12, "tie": True},  # heads of size 2: one pair
    {"num_heads": 6, "num_kv_heads": 2, "tie": False},
    {"num_heads": 2, "tie": True, "qk_norm": True},
    {"num_heads": 3, "tie": False, "qk_norm": True, "theta": 10_000.0},
    {"num_heads": 6, "num_kv_heads": 2, "tie": False, "qk_norm": True},
]
WINDOWS = [
    {"num_heads": 2, "window": 3},
    {"num_heads": 4, "num_kv_heads": 1, "window": 7},
    {"num_heads": 4, "num_kv_heads": 2, "window": 5, "qk_norm": True},
]


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def pair(request: pytest.FixtureRequest) -> tuple[TransformerLM, Tokenizer]:
    """Return a model and its tokenizer, of each shape in turn."""
    tokenizer = make_tokenizer(special=SPECIAL)
    return make_model(tokenizer.vocab_size, **request.param), tokenizer
