"""`python -m stages.report` in a folder of its own."""

from pathlib import Path

import pytest

from lmlib.files import write_json
from stages.cli import run_stage
from stages.paths import EVALUATE_METRICS, SAMPLES
from stages.report import main

SCORES = {"loss": 1.5, "perplexity": 4.48, "bits_per_byte": 0.71, "accuracy": 0.625}
PAGE = (
    "# Samples\n\n> **Once** upon\x0c a\u2028time\x85 there\r was\n> a dog.\n\nnone\n\n> **Two**\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with results."""
    monkeypatch.chdir(tmp_path)
    write_json(EVALUATE_METRICS, SCORES)
    SAMPLES.write_bytes(PAGE.encode())
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_sample_is_shown_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines end at newlines, and at nothing else."""
    main()
    assert capsys.readouterr().out == (
        "\n--------------------\n**Once** upon\x0c a\u2028time\x85 there\r was\na dog.\n"
        "\n--------------------\n**Two**\n\n"
        "validation loss  1.5000 nats per token\nperplexity       4.480\n"
        "bits per byte    0.7100\ntoken accuracy   62.5%\n\nCompare runs in MLflow:  make ui\n"
    )


@pytest.mark.usefixtures("folder")
def test_the_floor_and_the_names_have_lines(capsys: pytest.CaptureFixture[str]) -> None:
    floor = {"floor_bits_per_byte": 0.0661, "excess_bits_per_byte": 0.6439}
    names = {"names_kept": 0.11, "names_counted": 1234, "held_out_names_kept": 0.95}
    write_json(EVALUATE_METRICS, SCORES | floor | names)
    main()
    assert (
        "bits per byte    0.7100\n"
        "above the floor  0.6439 bits per byte; the floor, the text's entropy, is 0.0661\n"
        "token accuracy   62.5%\n"
        "names kept       11.0% of 1,234 in stories (validation text: 95.0%)\n"
    ) in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("scores", [{}, SCORES | {"loss": "low"}, SCORES | {"loss": None}])
def test_damaged_results_are_named(scores: dict[str, object]) -> None:
    write_json(EVALUATE_METRICS, scores)
    message = r"error: models/metrics/evaluate\.json: (has no )?'loss'.*; run `dvc repro`"
    with pytest.raises(SystemExit, match=message):
        run_stage(main)


def test_no_results(folder: Path) -> None:
    (folder / SAMPLES).unlink()
    with pytest.raises(SystemExit, match="no results yet; run `dvc repro`"):
        run_stage(main)
