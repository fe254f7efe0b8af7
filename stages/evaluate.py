"""Stage `evaluate`: score the validation text, write samples and say how new they are.

Params: evaluation, sampling. Reads: models/lm/, models/tokenizer/, data/tokens/.
Writes: models/metrics/, models/plots/position.csv, models/samples.md.
Run:    dvc repro evaluate   (by hand, from the repository root: python -m stages.evaluate)
        python -m stages.evaluate --text FILE   scores another text, and writes nothing
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch

from lmlib.data import TokenDataset
from lmlib.evaluation import Evaluation, EvaluationParams, evaluate, position_curve
from lmlib.files import write_atomically, write_json
from lmlib.novelty import CopiedSpan, copied_spans, distinct_n
from lmlib.params import load_params
from lmlib.runtime import resolve_device
from lmlib.sampling import SamplingParams, generate_text
from lmlib.separator import SEPARATOR
from lmlib.states import discard
from lmlib.tokenizer import Tokenizer
from lmlib.tracking import flatten, open_run
from stages.cli import run_stage
from stages.fingerprint import fingerprint
from stages.paths import (
    EVALUATE_METRICS,
    MODEL,
    PARAMS,
    POSITION_CURVE,
    SAMPLES,
    TOKENIZER,
    TRAIN_TOKENS,
    VALID_TOKENS,
    resume_folder,
    spool_folder,
)
from stages.trained import load_trained

HELD_OUT = 100  # validation documents that show what any text shares with the training text


def main() -> None:
    """Evaluate the trained model, or score the file that `--text` names with it."""
    params = load_params(PARAMS, "evaluation", EvaluationParams)
    args = _parse_arguments(params)
    if args.text is None:
        evaluate_model(params)
    else:
        where = "evaluation.device" if args.device == params.device else "--device"
        device = resolve_device(args.device, where)
        params = dataclasses.replace(params, stride=args.stride)
        score_file(args.text, params.stride, device, as_json=args.json)


def evaluate_model(params: EvaluationParams) -> None:
    """Score the whole validation text, continue the fixed prompts, compare both with train."""
    sampling = load_params(PARAMS, "sampling", SamplingParams)
    model, tokenizer = load_trained(resolve_device(params.device, "evaluation.device"))
    separator_id = tokenizer.special_ids.get(SEPARATOR)
    train_data, valid_data = TokenDataset.open(TRAIN_TOKENS), TokenDataset.open(VALID_TOKENS)
    for data in (train_data, valid_data):
        data.require_tokenizer(TOKENIZER / "tokenizer.json")
    trained_as = fingerprint("train")

    with open_run(
        "evaluate",
        fingerprint("evaluate"),
        spool=spool_folder(),
        parent=trained_as,
        params=flatten({"evaluation": params, "sampling": sampling}),
    ) as run:
        scores = evaluate(
            model,
            valid_data.tokens,
            valid_data.info.source_bytes,
            context_length=model.params.context_length,
            stride=params.stride,
            start_id=separator_id,
        )
        continued = generate_text(model, tokenizer, sampling.prompts, sampling)
        texts = [
            (prompt, text)
            for prompt, row in zip(sampling.prompts, continued, strict=True)
            for text in row
        ]
        samples = [continuation_ids(tokenizer, prompt, text) for prompt, text in texts]
        held_out = first_documents(valid_data.tokens, separator_id, sampling.max_tokens)
        spans = copied_spans([*samples, *held_out], train_data.tokens, separator_id)
        metrics = scores.metrics()
        if samples:
            metrics |= {f"distinct_{n}": distinct_n(samples, n) for n in (1, 2, 3)}
            metrics |= copying(spans[: len(samples)], samples, params.copied_tokens)
            metrics["copied_longest"] = max(span.length for span in spans[: len(samples)])
            expected = copying(spans[len(samples) :], held_out, params.copied_tokens)
            metrics |= {f"held_out_{name}": value for name, value in expected.items()}

        write_json(EVALUATE_METRICS, metrics)
        curve = [f"{context:g},{loss!r}" for context, loss in position_curve(scores)]
        write_atomically(POSITION_CURVE, "\n".join(["context,loss", *curve, ""]).encode())
        write_atomically(
            SAMPLES, samples_page(sampling, scores, tokenizer, texts, samples, spans).encode()
        )
        run.summary({f"evaluate/{name}": value for name, value in metrics.items()}, on_parent=True)
        run.artifact(POSITION_CURVE, "curves", on_parent=True)
        run.artifact(SAMPLES, "samples", on_parent=True)
        run.model(
            MODEL,
            TOKENIZER,
            dataclasses.asdict(sampling),
            bits_per_byte=scores.bits_per_byte,
            on_parent=True,
        )
    # DVC has the trained model by now: what it was resumed from is no longer needed
    discard(resume_folder(trained_as))


def score_file(path: Path, stride: int, device: torch.device, *, as_json: bool) -> None:
    """Print the scores of a text file; special tokens in it separate documents, as in training.

    Bytes that are no UTF-8 are scored too, one by one. Raises ValueError when there are none.
    """
    model, tokenizer = load_trained(device)
    with tempfile.TemporaryDirectory() as folder:
        tokens_path = Path(folder) / "tokens.npy"
        if not tokenizer.encode_file(path, tokens_path):
            raise ValueError(f"{path}: empty; there is nothing to score")
        scores = evaluate(
            model,
            np.load(tokens_path, mmap_mode="r"),
            path.stat().st_size,
            context_length=model.params.context_length,
            stride=stride,
            start_id=tokenizer.special_ids.get(SEPARATOR),
        )
    if as_json:
        text = json.dumps({"bytes": path.stat().st_size, **scores.metrics()}, indent=2)
    else:
        text = "\n".join(
            [
                f"loss            {scores.loss:.4f} nats per token",
                f"perplexity      {scores.perplexity:.3f}",
                f"bits per byte   {scores.bits_per_byte:.4f}",
                f"token accuracy  {scores.accuracy:.4f}",
                f"tokens          {scores.tokens}",
                f"bytes           {path.stat().st_size}",
            ]
        )
    sys.stdout.write(text + "\n")


def continuation_ids(tokenizer: Tokenizer, prompt: str, text: str) -> list[int]:
    """Return the tokens of `text` as the tokenizer reads it after `prompt`."""
    before, ids = tokenizer.encode(prompt), tokenizer.encode(prompt + text)
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False))
    return ids[len(list(shared)) :]


def first_documents(
    tokens: np.ndarray, separator_id: int | None, max_tokens: int
) -> list[list[int]]:
    """Return the first `max_tokens` tokens of each of the first documents of a text."""
    ends = np.flatnonzero(tokens == separator_id)[:HELD_OUT]
    documents = (part[part != separator_id] for part in np.split(tokens, ends)[:HELD_OUT])
    return [document[:max_tokens].tolist() for document in documents if len(document)]


def copying(
    spans: list[CopiedSpan], samples: list[list[int]], copied_tokens: int
) -> dict[str, float]:
    """Return in numbers how much the samples have in common with the training text.

    copied        share of samples with a span of at least `copied_tokens` tokens
    copied_part   mean over the samples of the longest span / tokens of the sample

    Both are 0 without samples.
    """
    parts = [span.length / max(1, len(ids)) for span, ids in zip(spans, samples, strict=True)]
    return {
        "copied": sum(span.length >= copied_tokens for span in spans) / max(1, len(spans)),
        "copied_part": sum(parts) / max(1, len(spans)),
    }


def samples_page(
    params: SamplingParams,
    scores: Evaluation,
    tokenizer: Tokenizer,
    texts: list[tuple[str, str]],
    samples: list[list[int]],
    spans: list[CopiedSpan],
) -> str:
    """Return the samples as Markdown, each with what of it stands in the training text."""
    lines = [
        "# Samples",
        "",
        f"Validation loss {scores.loss:.4f} nats per token, {scores.bits_per_byte:.4f} bits per "
        f"byte. Temperature {params.temperature:g}, top-k {params.top_k}, top-p "
        f"{params.top_p:g}, seed {params.seed}; the prompt is in bold. Below each sample stands "
        "its longest run of tokens that occurs in the training text.",
    ]
    for (prompt, text), ids, span in zip(texts, samples, spans, strict=False):
        quoted = f"**{prompt}**{text.rstrip()}".replace("\n", "\n> ")
        copied = " ".join(tokenizer.decode(ids[span.start : span.start + span.length]).split())
        where = f"{span.length} of {len(ids)} tokens, there from token {span.train_start:,} on"
        lines += ["", f"> {quoted}", "", f"{where}: “{copied}”" if span.length else "none"]
    return "\n".join(lines) + "\n"


def _parse_arguments(params: EvaluationParams) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.evaluate",
        description="Evaluate the trained model, or score any text with it.",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="score this file, write nothing")
    parser.add_argument("--json", action="store_true", help="with --text: for programs")
    parser.add_argument(
        "--stride",
        type=int,
        default=params.stride,
        help="with --text: tokens that each window after the first scores (%(default)s)",
    )
    parser.add_argument(
        "--device",
        default=params.device,
        help="with --text: auto, cpu, cuda, cuda:N or mps (%(default)s)",
    )
    args = parser.parse_args()
    if args.text is None and len(sys.argv) > 1:
        parser.error("without --text, params.yaml alone says how the model is evaluated")
    return args


if __name__ == "__main__":
    run_stage(main)
