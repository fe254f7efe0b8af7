"""The trained model with its tokenizer."""

from pathlib import Path

import torch

from lmlib.checkpoint import load_model
from lmlib.model import TransformerLM
from lmlib.tokenizer import Tokenizer
from stages.cli import remedy
from stages.paths import MODEL, TOKENIZER


def load_trained(device: torch.device, folder: Path = Path()) -> tuple[TransformerLM, Tokenizer]:
    """Load the model, on `device`, and its tokenizer from below `folder`.

    Raises FileNotFoundError when one is missing, ValueError when they do not belong together.
    """
    with remedy():
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = load_model(folder / MODEL, device)
    if model.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"{folder / MODEL}: the model knows {model.vocab_size} tokens, the tokenizer in "
            f"{folder / TOKENIZER} has {tokenizer.vocab_size}; train the model again with "
            "`dvc repro train`"
        )
    return model, tokenizer
