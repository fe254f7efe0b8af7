"""Score any text with the trained model; run by hand, not a stage of the pipeline.

Params: evaluation, corpus.text_field, train.windows.
Reads:  models/lm/, models/tokenizer/, FILE. Writes: nothing.
Run:    python -m stages.score FILE
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from lmlib.corpus import CorpusParams
from lmlib.corpus.documents import SEPARATOR, SUFFIXES, read_pieces
from lmlib.evaluation import EvaluationParams, evaluate
from lmlib.files import naming
from lmlib.params import load_params
from lmlib.runtime import resolve_device
from lmlib.separator import separator_id
from lmlib.tokens import read_tokens
from stages.cli import run_stage, say
from stages.paths import PARAMS
from stages.trained import load_trained
from stages.windows import windows_to_score


def main() -> None:
    """Print the scores of a file; special tokens in it separate documents, as in training.

    It may have any format of a corpus; a file of another name is plain text. Invalid UTF-8 is
    scored too, byte by byte. Raises ValueError for an empty file and for one that is not text.
    """
    defaults = load_params(PARAMS, "evaluation", EvaluationParams)
    text_field = load_params(PARAMS, "corpus", CorpusParams).text_field
    args = _parse_arguments(defaults, text_field)
    stride = dataclasses.replace(defaults, stride=args.stride).stride  # checked by the dataclass
    where = "evaluation.device" if args.device == defaults.device else "--device"
    model, tokenizer = load_trained(resolve_device(args.device, where))
    with tempfile.TemporaryDirectory() as folder:
        text_path, tokens_path = Path(folder) / "text.txt", Path(folder) / "tokens.npy"
        with naming(text_path):
            size = _copy_text(args.file, args.text_field, text_path)
            if not tokenizer.encode_file(text_path, tokens_path):
                raise ValueError(f"{args.file}: empty; there is nothing to score")
        scores = evaluate(
            model,
            read_tokens(tokens_path),
            size,
            context_length=model.params.context_length,
            windows=windows_to_score(defaults.windows),
            stride=stride,
            start_id=separator_id(tokenizer.special_ids),
        )
    if args.json:
        numbers = {"bytes": size, **scores.metrics()}
        text = json.dumps(numbers, indent=2)
    else:
        text = "\n".join(
            [
                f"loss            {scores.loss:.4f} nats per token",
                f"perplexity      {scores.perplexity:.3f}",
                f"bits per byte   {scores.bits_per_byte:.4f}",
                f"token accuracy  {scores.accuracy:.4f}",
                f"tokens          {scores.tokens}",
                f"bytes           {size}",
            ]
        )
    say(text + "\n")


def _copy_text(file: Path, text_field: str, target: Path) -> int:
    """Write the text of a file to `target`; return its number of bytes."""
    suffix = None if file.name.lower().endswith(SUFFIXES) else ".txt"
    with target.open("wb") as output:
        for text, ended in read_pieces(
            file, text_field, suffix=suffix, field_setting="--text-field"
        ):
            output.write(text + SEPARATOR if ended else text)
        return output.tell()


def _parse_arguments(defaults: EvaluationParams, text_field: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.score",
        description="Score any text with the trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the text, in any format of a corpus")
    field_help = "field of .jsonl, or column of .parquet, that has the text"
    add("--text-field", default=text_field, metavar="NAME", help=field_help)
    add("--json", action="store_true", help="print JSON")
    stride_help = "tokens that each window scores after the first (of a document)"
    add("--stride", type=int, default=defaults.stride, help=stride_help)
    add("--device", default=defaults.device, help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
