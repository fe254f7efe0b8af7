"""`python -m stages.report` in a folder of its own."""

import re
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from lmlib.files import write_csv, write_json
from stages.cli import run_stage
from stages.paths import (
    EVALUATE_DETAILS,
    EVALUATE_METRICS,
    FLOOR_CURVE,
    SAMPLES,
    TRAIN_CURVE,
    VALID_CURVE,
)
from stages.report import NEXT, main
from tests.pipeline.imports import ROOT

SCORES = {"bits_per_byte": 0.75, "loss": 1.5, "accuracy": 0.625}
DETAILS = {"perplexity": 4.4817}
PAGE = (
    "# Samples\n\n> **Once** upon\x0c a\u2028time\x85 there\r was\n> a dog.\n\nnone\n\n> **Two**\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    write_json(EVALUATE_METRICS, SCORES)
    write_json(EVALUATE_DETAILS, DETAILS)
    SAMPLES.write_bytes(PAGE.encode())
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_scores_one_story_and_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of a story end at newlines, and at nothing else; without curves none is drawn."""
    main()
    assert capsys.readouterr().out == (
        "\n"
        "bits per byte         0.7500\n"
        "nats per token        1.5000\n"
        "perplexity            4.4817\n"
        "accuracy               62.5%\n"
        "\n"
        "**Once** upon\x0c a\u2028time\x85 there\r was\na dog.\n"
        "\n"
        "More: models/samples.md, models/metrics/evaluate_details.json\n"
        "\n"
        "Next:\n"
        "  make ui     curves, scores and samples of all runs, in MLflow\n"
        "  make plots  the curves in a browser, offline\n"
        "  make serve  a page on which you write and the model continues, and an API\n"
    )


@pytest.mark.usefixtures("folder")
def test_the_floor_and_the_names_are_next_to_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    """A third of the bits are the floor: a third of the nats, and e**0.5 = 1.6487."""
    write_json(EVALUATE_METRICS, SCORES | {"excess_bits_per_byte": 0.5, "names_kept": 0.11})
    write_json(EVALUATE_DETAILS, DETAILS | {"held_out_names_kept": 0.95})
    main()
    assert (
        "                  this model       floor\n"
        "bits per byte         0.7500      0.2500\n"
        "nats per token        1.5000      0.5000\n"
        "perplexity            4.4817      1.6487\n"
        "accuracy               62.5%\n"
        "names kept             11.0%   in stories; in the validation text 95.0%\n"
    ) in capsys.readouterr().out


def with_curves() -> None:
    write_csv(TRAIN_CURVE, [{"step": 10, "loss": 8.0}, {"step": 20, "loss": 2.0}])
    write_csv(VALID_CURVE, [{"step": 20, "loss": 2.0}])
    write_csv(FLOOR_CURVE, [{"step": step, "loss": 0.5} for step in (1, 20)])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_curves_in_the_characters_of_the_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    with_curves()
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding=encoding))
    main()
    curve = written.getvalue().decode(encoding).split("bits per byte")[0]
    valid, floor = ("•", "─") if encoding == "utf-8" else ("*", "-")
    assert f"loss (nats per token)  {valid} validation" in curve
    assert re.search(f"\n +0.50 .{re.escape(floor) * 40}", curve)
    assert "\\" not in curve
    assert max(map(len, curve.split("\n"))) <= 80


def test_what_is_next_can_be_done() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in NEXT:
        name = command.split()[-1]
        if command.startswith("make"):
            assert f"\n{name}: " in makefile
        else:
            assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("scores", [{}, SCORES | {"loss": "low"}, SCORES | {"loss": None}])
def test_damaged_results_are_named(scores: dict[str, object]) -> None:
    write_json(EVALUATE_METRICS, scores)
    message = r"error: models/metrics/evaluate\.json: (has no )?'loss'.*; run `dvc repro`"
    with pytest.raises(SystemExit, match=message):
        run_stage(main)


@pytest.mark.parametrize("missing", [SAMPLES, EVALUATE_DETAILS])
def test_no_results(folder: Path, missing: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(SystemExit, match="no results yet; run `dvc repro`"):
        run_stage(main)
