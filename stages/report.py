"""Print the results of the last `dvc repro`: scores, samples, and how to open the MLflow UI.

Reads:  models/metrics/evaluate.json, models/samples.md.
Run:    python -m stages.report
"""

import html
from itertools import pairwise

from lmlib.files import read_metrics, read_text
from stages.cli import run_stage, say
from stages.paths import EVALUATE_METRICS, SAMPLES

SCORES = ("loss", "perplexity", "bits_per_byte", "accuracy")
OF_FLOOR = {"floor_bits_per_byte", "excess_bits_per_byte"}
OF_NAMES = {"names_kept", "names_counted", "held_out_names_kept"}
OF_SAMPLES = {"distinct_1", "distinct_2", "distinct_3", "copied_part", "held_out_copied_part"}


def main() -> None:
    """Write the report to stdout."""
    if not EVALUATE_METRICS.is_file() or not SAMPLES.is_file():
        raise FileNotFoundError(f"{EVALUATE_METRICS}: no results yet; run `dvc repro`")
    scores = read_metrics(EVALUATE_METRICS, *SCORES)
    say(
        "\n".join(
            [
                *_samples(read_text(SAMPLES)),
                "",
                f"validation loss  {scores['loss']:.4f} nats per token",
                f"perplexity       {scores['perplexity']:.3f}",
                f"bits per byte    {scores['bits_per_byte']:.4f}",
                *(_above_floor(scores) if scores.keys() >= OF_FLOOR else []),
                f"token accuracy   {scores['accuracy']:.1%}",
                *(_about_samples(scores) if scores.keys() >= OF_SAMPLES else []),
                *(_about_names(scores) if scores.keys() >= OF_NAMES else []),
                "",
                "Compare runs in MLflow:  make ui",
                "",
            ]
        )
    )


def _samples(page: str) -> list[str]:
    """Return the quoted lines of the page, with a line before each sample."""
    lines = []
    for before, line in pairwise(["", *page.split("\n")]):
        if line.startswith(">"):
            lines += [] if before.startswith(">") else ["", "-" * 20]
            lines.append(html.unescape(line.removeprefix(">").strip()))
    return lines


def _above_floor(scores: dict[str, float]) -> list[str]:
    return [
        f"above the floor  {scores['excess_bits_per_byte']:.4f} bits per byte; the floor, the "
        f"text's entropy, is {scores['floor_bits_per_byte']:.4f}"
    ]


def _about_names(scores: dict[str, float]) -> list[str]:
    return [
        f"names kept       {scores['names_kept']:.1%} of {scores['names_counted']:,.0f} in stories "
        f"(validation text: {scores['held_out_names_kept']:.1%})"
    ]


def _about_samples(scores: dict[str, float]) -> list[str]:
    distinct = " ".join(f"{scores[f'distinct_{n}']:.3f}" for n in (1, 2, 3))
    return [
        f"distinct 1 2 3   {distinct}",
        f"copied           {scores['copied_part']:.1%} of a sample, in one piece "
        f"(validation text: {scores['held_out_copied_part']:.1%})",
    ]


if __name__ == "__main__":
    run_stage(main)
