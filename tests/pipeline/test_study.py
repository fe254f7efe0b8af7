"""Predefined studies: their settings, their pages, and one of them run at tiny size."""

import copy
import dataclasses
import re
import shlex
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from lmlib.model import ModelParams, TransformerLM, flops_per_token
from lmlib.params import from_dict
from stages.study import (
    STUDIES_BY_NAME,
    Result,
    Study,
    chart,
    check_settings,
    committed,
    curves,
    own_settings,
    report,
)
from tests.pipeline.conftest import Project
from tests.pipeline.imports import ROOT
from tests.test_params import SECTIONS

PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
SIZES = Study(
    title="Width",
    axis="d_model",
    variants={"64": {"model.d_model": "64"}, "128": {}, "256": {"model.d_model": "256"}},
    settings={"train.num_steps": "10"},
    numeric=True,
    length=10,
)
RESULTS = [Result("64", 1000, 2560, 2.5, 1.25), Result("128", 4000, 2560, 2.25, 1.125)]


def resolved(study: Study, label: str) -> dict:
    """Return params.yaml as a variant of a study changes it."""
    params = copy.deepcopy(PARAMS)
    for key, value in (study.settings | study.variants[label]).items():
        section, name = key.split(".")
        assert name in params[section]
        params[section][name] = YAML(typ="safe").load(value)
    return params


VARIANTS = [(name, label) for name, study in STUDIES_BY_NAME.items() for label in study.variants]


@pytest.mark.parametrize(("name", "label"), VARIANTS)
def test_variants_are_valid(name: str, label: str) -> None:
    params = resolved(STUDIES_BY_NAME[name], label)
    for section, values in params.items():
        from_dict(SECTIONS[section], values, where=section)
    with_torch = from_dict(ModelParams, params["model"], where="model")
    TransformerLM(dataclasses.replace(with_torch, num_layers=1), 512, seed=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("optim.lr=1", "^-S optim.lr: is what the study changes; write"),
        ("train.seed", "^-S train.seed: has no value; write KEY=VALUE"),
        ("train.sed=2", "^-S train.sed: is not in params.yaml; write"),
        ("seed=2", "^-S seed: is not in params.yaml; write"),
    ],
)
def test_refuses_settings_that_the_table_would_belie(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_settings([given], STUDIES_BY_NAME["sweep-lr"], PARAMS)


def test_takes_other_settings() -> None:
    study = STUDIES_BY_NAME["sweep-lr"]
    assert own_settings(["train.seed=2", "corpus.train=[a=b]"], study, PARAMS) == {
        "train.seed": "2",
        "corpus.train": "[a=b]",
    }


def test_batch_sizes_see_equally_many_tokens() -> None:
    study = STUDIES_BY_NAME["sweep-batch"]
    trains = [resolved(study, label)["train"] for label in study.variants]
    assert len({train["batch_size"] * train["num_steps"] for train in trains}) == 1


def test_sizes_get_equal_compute() -> None:
    """Operations per step, counted from the model; steps are integers, hence 2%."""
    study = STUDIES_BY_NAME["scaling"]
    compute = []
    for label in study.variants:
        params = resolved(study, label)
        sizes = from_dict(ModelParams, params["model"], where="model")
        model = TransformerLM(sizes, params["tokenizer"]["vocab_size"], seed=1)
        compute.append(
            flops_per_token(model.params, model.vocab_size) * params["train"]["num_steps"]
        )
    assert max(compute) / min(compute) < 1.02


def test_report_by_hand() -> None:
    """The best is bold, and an unfinished experiment has a row."""
    page = report("width", SIZES, {"train.seed": "2"}, RESULTS)
    assert "all with `train.num_steps=10 train.seed=2`" in page
    assert page.splitlines()[-7:] == [
        "| d_model | changed | weights | tokens | loss (nats per token) | bits per byte |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| 64 | `model.d_model=64` | 1,000 | 2,560 | 2.5000 | 1.2500 |",
        "| 128 |  | 4,000 | 2,560 | 2.2500 | **1.1250** |",
        "| 256 | `model.d_model=256` | | | did not finish | |",
        "",
        "![Width](width.svg)",
    ]


@pytest.mark.parametrize("numeric", [True, False])
def test_chart_names_its_axes(numeric: bool) -> None:
    svg = chart(dataclasses.replace(SIZES, numeric=numeric), RESULTS)
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert {"Width", "d_model", "validation (bits per byte)", "64", "128"} <= set(texts)


@pytest.mark.parametrize("numeric", [True, False])
def test_the_floor_is_a_line_where_it_is_known(numeric: bool) -> None:
    study = dataclasses.replace(SIZES, numeric=numeric)
    known = [dataclasses.replace(result, floor=0.0661) for result in RESULTS]
    page = report("width", study, {}, known)
    assert "No model can be expected below 0.0661 bits per byte (the dashed line)." in page
    assert "stroke-dasharray" in chart(study, known)
    for results in (RESULTS, [known[0], RESULTS[1]]):  # unknown, or not the same text
        assert "No model" not in report("width", study, {}, results)
        assert "stroke-dasharray" not in chart(study, results)


def test_a_study_of_another_length_keeps_its_proportions() -> None:
    """Steps and validations; a warm-up gets shorter with the runs, and no longer."""
    study = STUDIES_BY_NAME["sweep-batch"]
    longer, shorter = study.of_length(1200, 100), study.of_length(300, 100)
    assert longer.variants["16"] | {"train.batch_size": "16"} == study.variants["16"] | {
        "train.num_steps": "300",
        "train.valid_every": "74",
    }
    assert shorter.variants["1"]["train.num_steps"] == "1200"
    assert shorter.variants["1"]["optim.warmup_steps"] == "120"
    assert shorter.variants["4"]["optim.warmup_steps"] == "30"
    assert study.of_length(600, 100) == study

    rates = STUDIES_BY_NAME["sweep-lr"]
    assert rates.of_length(2600, 100).settings == {
        "train.num_steps": "2600",
        "train.valid_every": "867",
    }
    assert rates.of_length(60, 100).settings == {
        "train.num_steps": "60",
        "train.valid_every": "20",
        "optim.warmup_steps": "10",
    }


@pytest.mark.parametrize("steps", [60, 600, 5000])
def test_studies_of_any_length_can_be_trained(steps: int) -> None:
    warmup = PARAMS["optim"]["warmup_steps"]
    for name, study in STUDIES_BY_NAME.items():
        scaled = study.of_length(steps, warmup)
        for label, settings in scaled.variants.items():
            check_settings(PARAMS, scaled.settings | settings, f"{name}, {label}")


def test_a_setting_that_no_training_takes_is_named_before_the_first_one() -> None:
    settings = {"train.num_steps": "50", "train.seed": "2"}
    with pytest.raises(ValueError, match=r"^sweep-lr, 1: optim\.warmup_steps is 100, not below"):
        check_settings(PARAMS, settings, "sweep-lr, 1")
    with pytest.raises(ValueError, match=r"^x: model\.num_layers is the text 'many'"):
        check_settings(PARAMS, {"model.num_layers": "many"}, "x")


def test_finds_pages_that_are_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a ü.md", "b.md"):
        Path(name).touch()
    for command in (["init", "--quiet"], ["add", "a ü.md"]):
        subprocess.run(["git", *command], check=True)
    assert committed([Path("a ü.md"), Path("b.md"), Path("c.md")]) == [Path("a ü.md")]


def test_curves_are_named_and_have_the_floor() -> None:
    results = [
        dataclasses.replace(result, floor=0.5, curve=((1e9, 3.0), (1e12, result.loss)))
        for result in RESULTS
    ]
    svg = curves(SIZES, results)
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    axes = {"FLOPs of the training", "loss (nats per token)", "floor"}
    assert {"Validation loss over compute", "d_model", "64", "128", *axes} <= set(texts)
    assert "stroke-dasharray" in svg
    study = dataclasses.replace(SIZES, curves=True)
    assert report("width", study, {}, results).endswith(
        "\n![Width](width.svg)\n\n![Validation loss over compute](width-curves.svg)\n"
    )


@pytest.mark.slow
@pytest.mark.pipeline
def test_study_of_real_experiments(project: Project, tmp_path: Path) -> None:
    """Each is an experiment with a row; a failed one has no result, whatever DVC shows."""
    lab = project.clone(tmp_path / "clone").with_real_processes()
    study = ("python", "-m", "stages.study", "scaling", "--jobs", "2", "--steps", "6")
    log = tmp_path / "study.log"

    def run_the_study() -> str:
        # not through a pipe: DVC's workers inherit it, and may stay after the queue is empty
        lab.run("sh", "-c", f"exec {shlex.join(study)} >'{log}' 2>&1")
        return log.read_text(encoding="utf-8")

    lab.run("dvc", "exp", "run", "--queue", "--name", "scaling-2", "evaluate", "-S", "train.seed=2")
    refused = lab.run(*study, status=1)
    assert "scaling-2 of an earlier call is still queued" in refused
    lab.run("dvc", "queue", "remove", "--queued")

    wrong = ("-S", "model.d_model=33")  # not a multiple of num_heads
    lab.run("dvc", "exp", "run", "--queue", "--name", "bad", "evaluate", *wrong)
    output = run_the_study()
    page = (lab.folder / "models/studies/scaling.md").read_text(encoding="utf-8")
    assert page in output
    scores = re.findall(r"\| \**(\d\.\d{4})\** \|$", page, re.MULTILINE)
    assert len(scores) == len(STUDIES_BY_NAME["scaling"].variants)
    assert len(set(scores)) > 1
    assert "did not finish" not in page
    assert (lab.folder / "models/studies/scaling.svg").is_file()
    assert (lab.folder / "models/studies/scaling-curves.svg").is_file()
    finished = "import stages.study as s; print(*s.experiments('success'))"
    names = {f"scaling-{number}" for number in range(1, len(scores) + 1)}
    assert set(lab.run("python", "-c", finished).split()) == names
    assert lab.run("git", "status", "--porcelain") == ""  # the page is the user's, not git's

    # a committed page stays, unless asked to
    lab.run("git", "add", "--force", "models/studies/scaling.md")
    refused = lab.run(*study, status=1)
    assert "models/studies/scaling.md is committed, and this study would replace it" in refused
    lab.run("git", "rm", "--quiet", "--cached", "models/studies/scaling.md")

    # again: from the run cache, in place of the first ones
    run_the_study()
    again = (lab.folder / "models/studies/scaling.md").read_text(encoding="utf-8")
    assert again == page
    assert set(lab.run("python", "-c", finished).split()) == names
