"""The trained model with its tokenizer."""

from pathlib import Path

import torch

from lmlib.checkpoint import load_model
from lmlib.model import TransformerLM
from lmlib.tokenizer import Tokenizer
from stages.paths import MODEL, TOKENIZER


def load_trained(device: torch.device, folder: Path = Path()) -> tuple[TransformerLM, Tokenizer]:
    """Load the model, on `device`, and its tokenizer from below `folder`.

    Raises FileNotFoundError when one is missing, ValueError when they do not belong together.
    """
    for path in (folder / TOKENIZER, folder / MODEL):
        if not path.exists():
            raise FileNotFoundError(f"{path}: missing; run `dvc repro`, which makes it")
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    try:
        model = load_model(folder / MODEL, device)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run `dvc repro train`") from error
    if model.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"{folder / MODEL}: the model knows {model.vocab_size} tokens, the tokenizer in "
            f"{folder / TOKENIZER} has {tokenizer.vocab_size}; train the model again with "
            "`dvc repro train`"
        )
    return model, tokenizer
