"""Import a Llama, Mistral or Qwen3 of `transformers`, such as stage `export` writes.

Run by hand, not a stage of the pipeline. FOLDER holds config.json, tokenizer.json and the weights
in one or more safetensors files; if this project cannot express a setting, an error names it. The
results, lm/ and tokenizer/, go to the folder `--to`, laid out as in models/:

    python -m stages.import_hf models/hf --to models/imported

With `--to models` they replace the trained model: `python -m stages.sample` and the other commands
then use them, until `dvc checkout` restores what the pipeline made.

Reads:  FOLDER. Writes: TO/lm/, TO/tokenizer/.
Run:    python -m stages.import_hf FOLDER --to models/imported
"""

import argparse
import logging
from pathlib import Path

from lmlib.checkpoint import save_model
from lmlib.export import load_pretrained
from lmlib.places import check_place
from stages.cli import run_stage
from stages.paths import IMPORTED, MODEL, TOKENIZER

logger = logging.getLogger(__name__)


def main() -> None:
    """Read everything before writing anything, so that a rejected checkpoint leaves no trace."""
    args = _parse_arguments()
    model, tokenizer = load_pretrained(args.folder)
    for part in (MODEL, TOKENIZER):
        check_place(args.to / part.name, is_folder=True)
    tokenizer.save(args.to / TOKENIZER.name)
    save_model(args.to / MODEL.name, model)
    logger.info(
        "%s: %s weights, %s tokens -> %s and %s",
        args.folder,
        f"{model.num_parameters():,}",
        f"{tokenizer.vocab_size:,}",
        args.to / MODEL.name,
        args.to / TOKENIZER.name,
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.import_hf",
        description="Import a Llama, Mistral or Qwen3 of transformers into this project.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="has config.json, tokenizer.json, weights")
    parser.add_argument("--to", type=Path, default=IMPORTED, help="folder for lm/ and tokenizer/")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
