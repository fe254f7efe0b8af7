"""Stage `export`: the trained model in the formats of `transformers`, llama.cpp and `tiktoken`.

A model becomes a Llama, with model.attention_window a Mistral, and with model.qk_norm a Qwen3. One
that these architectures cannot express (model.norm, model.position, model.ffn or
model.logit_softcap changed) does not fail the stage; otherwise `dvc exp run -S model.norm=post`
would end without its results. Then models/hf/ holds only a README.md that names the parameter, and
a warning says the same. Likewise, there is no model.gguf if llama.cpp does not support the
tokenizer or a window.

Params: corpus, tokenizer, optim, train, for the model card. Reads: models/lm/, models/tokenizer/,
        models/metrics/. Writes: models/hf/.
Run:    dvc repro export   (by hand, from the repository root: python -m stages.export)
"""

import logging
import shutil
from dataclasses import asdict

import torch

from lmlib.digests import write_digests
from lmlib.export import (
    gguf_obstacle,
    hf_obstacle,
    model_card,
    no_model_card,
    save_pretrained,
    tiktoken_bpe,
    write_gguf,
)
from lmlib.files import read_metrics, write_atomically
from lmlib.model import TransformerLM
from lmlib.params import read_section
from lmlib.tokenizer import Tokenizer
from stages.artefacts import producing
from stages.cli import run_stage
from stages.paths import EVALUATE_DETAILS, EVALUATE_METRICS, EXPORTED, PARAMS, TRAIN_METRICS
from stages.trained import load_trained

NAME = "lm"

logger = logging.getLogger(__name__)


def main() -> None:
    """Write the folder from scratch: files of an earlier model do not belong to this one."""
    model, tokenizer = load_trained(torch.device("cpu"))
    with producing("export"):
        _export(model, tokenizer)


def _export(model: TransformerLM, tokenizer: Tokenizer) -> None:
    shutil.rmtree(EXPORTED, ignore_errors=True)
    if obstacle := hf_obstacle(model.params):
        logger.warning("not exported: %s", obstacle)
        write_atomically(EXPORTED / "README.md", no_model_card(NAME, obstacle).encode("utf-8"))
        return

    save_pretrained(EXPORTED, model, tokenizer)
    write_atomically(EXPORTED / "tokenizer.tiktoken", tiktoken_bpe(tokenizer))
    without_gguf = gguf_obstacle(model, tokenizer)
    if without_gguf:
        logger.warning("no GGUF: %s", without_gguf)
    else:
        write_gguf(EXPORTED / "model.gguf", model, tokenizer, NAME)
    card = model_card(
        NAME,
        model,
        tokenizer,
        params={
            "corpus": read_section(PARAMS, "corpus"),
            "tokenizer": read_section(PARAMS, "tokenizer"),
            "model": asdict(model.params),
            "optim": read_section(PARAMS, "optim"),
            "train": read_section(PARAMS, "train"),
        },
        valid_metrics=read_metrics(EVALUATE_METRICS) | read_metrics(EVALUATE_DETAILS),
        train_metrics=read_metrics(TRAIN_METRICS),
        gguf_obstacle=without_gguf,
    )
    write_atomically(EXPORTED / "README.md", card.encode("utf-8"))
    write_digests(EXPORTED, *sorted(path.name for path in EXPORTED.iterdir()))


if __name__ == "__main__":
    run_stage(main)
