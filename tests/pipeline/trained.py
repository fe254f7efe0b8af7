"""A folder with the files the pipeline would make, from an untrained model."""

import shutil
from pathlib import Path

from lmlib.checkpoint import save_model
from lmlib.model import ModelParams, TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer, train_bpe
from stages.paths import MODEL, PARAMS, TOKENIZER
from tests.pipeline.imports import ROOT

CONTEXT_LENGTH = 16
STORY = "Once upon a time there was a little dog. The dog had a little hat.\n"


def make_trained(folder: Path, seed: int = 1) -> None:
    """Write params.yaml, a tokenizer and a model; each seed makes another model."""
    folder.mkdir(exist_ok=True)
    (folder / "corpus.txt").write_text(STORY * 3, encoding="utf-8")
    vocab, merges = train_bpe(folder / "corpus.txt", 280, [SEPARATOR])
    Tokenizer(vocab, merges, [SEPARATOR]).save(folder / TOKENIZER)
    sizes = ModelParams(context_length=CONTEXT_LENGTH, d_model=8, num_layers=1, num_heads=2, d_ff=8)
    save_model(folder / MODEL, TransformerLM(sizes, len(vocab), seed=seed))
    shutil.copy(ROOT / PARAMS, folder)
