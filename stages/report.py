"""Print the results of the last `dvc repro`: loss curves, scores, a story, and what to do next.

Reads:  models/metrics/evaluate.json and evaluate_details.json, models/samples.md, models/plots/.
Run:    python -m stages.report
"""

import html
import math
import os
import shutil
import sys
import textwrap
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path

from lmlib.files import read_metrics, read_text
from stages.cli import run_stage, say
from stages.curves import ASCII, UNICODE, Look, Point, draw, read_curve
from stages.paths import (
    EVALUATE_DETAILS,
    EVALUATE_METRICS,
    FLOOR_CURVE,
    SAMPLES,
    TRAIN_CURVE,
    VALID_CURVE,
)

WIDTH = 80  # at most
FIRST = ("loss", "bits_per_byte", "accuracy")
NEXT = {
    "make ui": "curves, scores and samples of all runs, in MLflow",
    "make plots": "the curves in a browser, offline",
    "make serve": "a page on which you write and the model continues, and an API",
}


def main() -> None:
    """Write the report to stdout."""
    for path in (EVALUATE_METRICS, EVALUATE_DETAILS, SAMPLES):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no results yet; run `dvc repro`")
    scores = read_metrics(EVALUATE_METRICS, *FIRST)
    scores |= read_metrics(EVALUATE_DETAILS, "perplexity")
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    if curve := loss_curve(width):
        say("\n".join(["", *curve, ""]), ours=True)
    story, others = one_story(read_text(SAMPLES), width)
    more = f"{SAMPLES}, {EVALUATE_DETAILS}" if others else f"{EVALUATE_DETAILS}"
    longest = max(map(len, NEXT))
    commands = [f"  {command:{longest}}  {text}" for command, text in NEXT.items()]
    lines = ["", *table(scores), "", *story, "", f"More: {more}", "", "Next:", *commands, ""]
    say("\n".join(lines))


def loss_curve(width: int) -> list[str]:
    """Return the curves of the last training, drawn as stdout can show them."""
    train, valid, floor = map(_curve, (TRAIN_CURVE, VALID_CURVE, FLOOR_CURVE))
    look = look_for(sys.stdout.encoding, dim=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    lowest = floor[0][1] if floor else None
    lines = draw(valid, train, lowest, width=width, look=look)
    if not lines:
        return []
    legend = f"{look.valid} validation  {look.faint(f'{look.train} training')}"
    if lowest is not None:
        legend += f"  {look.faint(f'{look.floor} floor')}"
    return [f"loss (nats per token)  {legend}", *lines]


def look_for(encoding: str | None, *, dim: bool) -> Look:
    """Return the characters that an encoding has; with `dim`, codes of terminals as well."""
    look = UNICODE
    try:
        "".join((look.valid, look.train, look.floor, look.axis, look.corner)).encode(
            encoding or "ascii"
        )
    except (UnicodeEncodeError, LookupError):
        look = ASCII
    return replace(look, dim="\x1b[2m", plain="\x1b[0m") if dim else look


def _curve(path: Path) -> list[Point]:
    return read_curve(read_text(path)) if path.is_file() else []


def table(scores: dict[str, float]) -> list[str]:
    """Return the scores, next to the least or best that can be expected where that is known."""
    floor = (
        scores["bits_per_byte"] - scores["excess_bits_per_byte"]
        if ("excess_bits_per_byte" in scores)
        else None
    )
    lines = [] if floor is None else [f"{'':16}{'this model':>12}{'floor':>12}"]
    share = 0.0 if floor is None else floor / scores["bits_per_byte"]
    rows = {
        "bits per byte": (scores["bits_per_byte"], floor),
        "nats per token": (scores["loss"], scores["loss"] * share),
        "perplexity": (scores["perplexity"], math.exp(scores["loss"] * share)),
    }
    for name, (value, least) in rows.items():
        lines.append(f"{name:16}{value:12.4f}" + ("" if floor is None else f"{least:12.4f}"))
    lines.append(f"{'accuracy':16}{scores['accuracy']:12.1%}")
    if scores.keys() >= {"names_kept", "held_out_names_kept"}:
        lines.append(
            f"{'names kept':16}{scores['names_kept']:12.1%}   in stories; in the validation text "
            f"{scores['held_out_names_kept']:.1%}"
        )
    if scores.keys() >= {"copied_part", "held_out_copied_part"}:
        lines.append(
            f"{'copied':16}{scores['copied_part']:12.1%}   of a sample, in one piece; "
            f"validation text {scores['held_out_copied_part']:.1%}"
        )
    return lines


def one_story(page: str, width: int) -> tuple[list[str], int]:
    """Return the first sample of the page, in lines of a width, and the number of the others."""
    quotes = [line.startswith(">") for line in ["", *page.split("\n")]]
    begins = [now and not before for before, now in pairwise(quotes)]
    lines = page.split("\n")[begins.index(True) :] if any(begins) else []
    story = []
    for line in takewhile(lambda line: line.startswith(">"), lines):
        text = html.unescape(line.removeprefix(">").strip())
        story += wrapped(text, width) or [""]
    return story, max(0, sum(begins) - 1)


def wrapped(text: str, width: int) -> list[str]:
    """Return a paragraph in lines; all its characters stay but the spaces between lines."""
    return textwrap.wrap(
        text,
        width,
        expand_tabs=False,
        replace_whitespace=False,
        break_on_hyphens=False,
        break_long_words=False,
    )


if __name__ == "__main__":
    run_stage(main)
