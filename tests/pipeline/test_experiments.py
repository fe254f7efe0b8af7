"""The day of a user with the real commands: try, compare, decide, keep."""

import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from lmlib.threads import num_cores
from tests.pipeline.conftest import WAY_BACK, Project, go_back
from tests.pipeline.imports import ROOT

pytestmark = pytest.mark.pipeline
# only in this module's lab: clones share a cache, so what ran in one does not run in another
SETTINGS = ["-S", "optim.lr=1e-5", "-S", "optim.betas=[0.8,0.9]"]
OTHER = ["-S", "optim.lr=2e-5"]


@pytest.fixture(scope="module")
def lab(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone with one experiment: another learning rate, other betas."""
    lab = project.clone(tmp_path_factory.mktemp("lab") / "clone")
    ran = lab.stages_run("dvc", "exp", "run", "--temp", "--name", "slow", *SETTINGS)
    assert ran == ["train", "evaluate", "export"]  # no tokenising
    lab.wait_until_tracked()
    return lab


def in_json(project: Project, *command: str) -> Any:
    """Return what a command of DVC prints as JSON."""
    return json.loads(project.run("dvc", *command, "--json").splitlines()[-1])


def tracked(project: Project) -> MlflowClient:
    """Return the store of a clone."""
    uri = f"sqlite:///{project.folder}/mlflow.db"
    return MlflowClient(uri, uri)


def runs_of(project: Project, stage: str) -> list[Run]:
    """Return the runs of a stage in the store of a clone, in the order of their start."""
    client = tracked(project)
    experiment = client.get_experiment_by_name("lm")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'")
    return sorted(runs, key=lambda run: run.info.start_time)


def artifact(project: Project, run: Run, path: str) -> str:
    """Return the text of an artifact of a run."""
    with tempfile.TemporaryDirectory() as folder:
        copy = tracked(project).download_artifacts(run.info.run_id, path, folder)
        return Path(copy).read_text(encoding="utf-8")


def shown(project: Project) -> dict[str, dict[str, Any]]:
    """Return what `dvc exp show` knows of each experiment, by name."""
    (baseline,) = [row for row in in_json(project, "exp", "show") if row["rev"] != "workspace"]
    experiments = [entry for group in baseline["experiments"] or [] for entry in group["revs"]]
    return {entry["name"]: entry for entry in experiments}


def test_temporary_experiment_leaves_the_workspace_alone(lab: Project) -> None:
    """Its run is in the repository's own store, not in the temporary folder."""
    assert lab.run("git", "status", "--porcelain") == ""
    assert "up to date" in lab.run("dvc", "status")
    assert len(runs_of(lab, "train")) == 1


def test_run_and_experiment_lead_to_each_other(lab: Project) -> None:
    """By the name, which `dvc exp show` prints, and by the commit that it started from."""
    (run,) = runs_of(lab, "train")
    entry = shown(lab)["slow"]
    assert run.info.run_name == "slow"
    head = lab.run("git", "rev-parse", "HEAD").strip()
    expected = {"DVC_EXP_NAME": "slow", "DVC_EXP_BASELINE_REV": head, "git_commit": head}
    assert run.data.tags.items() >= expected.items()
    metrics = entry["data"]["metrics"]["models/metrics/evaluate.json"]["data"]
    assert run.data.metrics["scores/bits_per_byte"] == metrics["bits_per_byte"]


def test_numbers_arrive_as_numbers(lab: Project) -> None:
    """DVC writes 1e-05, which is a text to YAML 1.1, and a list as a list."""
    (run,) = runs_of(lab, "train")
    assert float(run.data.params["optim.lr"]) == 1e-5
    assert run.data.params["optim.betas"] == "[0.8, 0.9]"
    recorded = YAML(typ="safe").load(artifact(lab, run, "params.yaml"))["optim"]
    optim = shown(lab)["slow"]["data"]["params"]["params.yaml"]["data"]["optim"]
    for values in (recorded, optim):
        assert (values["lr"], values["betas"]) == (1e-5, [0.8, 0.9])


def test_diffs(lab: Project) -> None:
    """Exactly what was changed, and its results."""
    params = in_json(lab, "params", "diff", "main", "slow")["params.yaml"]
    assert {key: change["new"] for key, change in params.items()} == {
        "optim.lr": 1e-5,
        "optim.betas": "[0.8, 0.9]",
    }
    metrics = in_json(lab, "metrics", "diff", "main", "slow")
    train = metrics["models/metrics/train.json"]
    assert train["train_loss"]["diff"] > 0  # too small a rate to learn
    assert "models/metrics/tokenizer.json" not in metrics
    both = in_json(lab, "exp", "diff", "main", "slow")
    assert both["params"]["params.yaml"].keys() == params.keys()
    assert both["metrics"]["models/metrics/train.json"] == train
    (chart,) = in_json(lab, "plots", "diff", "main", "slow")["data"]["Training and validation loss"]
    rows = [row for row in chart["content"]["data"]["values"] if row["filename"] == "train.csv"]
    last = {row["rev"]: float(row["loss"]) for row in rows}
    assert last["slow"] - last["main"] == pytest.approx(train["train_loss"]["diff"])


def test_apply_and_branch(lab: Project) -> None:
    """An experiment becomes the workspace, or a branch, without rerunning a stage."""
    lab.run("dvc", "exp", "apply", "slow")
    assert lab.stages_run("dvc", "repro") == []
    optim = YAML(typ="safe").load(lab.folder / "params.yaml")["optim"]
    assert (optim["lr"], optim["betas"]) == (1e-5, [0.8, 0.9])
    go_back(lab)
    lab.run("dvc", "exp", "branch", "slow", "slower")
    lab.run("git", "checkout", "--quiet", "slower")
    lab.run("dvc", "checkout", "--quiet")
    optim = YAML(typ="safe").load(lab.folder / "params.yaml")["optim"]
    assert (optim["lr"], optim["betas"]) == (1e-5, [0.8, 0.9])
    assert "up to date" in lab.run("dvc", "status")
    lab.run("git", "checkout", "--quiet", "main")
    lab.run("dvc", "checkout", "--quiet")


@pytest.fixture(scope="module")
def desk(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with an experiment, a text of the user's and the page of a study."""
    desk = project.clone(tmp_path_factory.mktemp("desk") / "clone")
    desk.run("dvc", "exp", "run", "--temp", "--name", "slow", *OTHER)
    for name in ("books/a.txt", "models/studies/mine.md"):
        (desk.folder / name).parent.mkdir()
        (desk.folder / name).write_text("mine", encoding="utf-8")
    return desk


def without_a_name(project: Project) -> Project:
    """Return the project of a user who gave git no name and no address."""
    nameless = project.at(project.folder)
    for key in [key for key in project.env if re.match("GIT_(AUTHOR|COMMITTER)_", key)]:
        del nameless.env[key]
    return nameless


def assert_as_committed(project: Project) -> None:
    """Git and DVC see the last commit, and the user's own files are there."""
    assert project.run("git", "status", "--porcelain") == "?? books/\n"
    assert "up to date" in project.run("dvc", "status")
    for name in ("books/a.txt", "models/studies/mine.md"):
        assert (project.folder / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("change", "command", "status"),
    [
        ({}, "git status", 0),
        ({}, "dvc exp run -S optim.lr=2e-5", 0),
        ({}, "dvc exp apply slow", 0),
        pytest.param({"optim.lr": "2e-5"}, "dvc repro", 0, marks=pytest.mark.slow),
        ({}, "dvc exp run -S model.d_model=33", 255),
        pytest.param({"model.d_model": "33"}, "dvc repro", 255, marks=pytest.mark.slow),
    ],
)
def test_way_back_leads_to_the_last_commit(
    desk: Project, change: dict[str, str], command: str, status: int
) -> None:
    """From an experiment, a `dvc repro` (which stages dvc.lock), a failure, or nothing at all."""
    desk.set_params(change)
    desk.run(*command.split(), status=status)
    go_back(without_a_name(desk))
    assert_as_committed(desk)


@pytest.mark.slow
def test_what_the_way_back_left_comes_again(desk: Project) -> None:
    """Edits of parameters and code, an added file, and the resulting model."""
    desk.set_params({"optim.lr": "2e-5"})
    desk.run("dvc", "repro")
    with (desk.folder / "stages/ui.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    (desk.folder / "notes.txt").write_text("mine", encoding="utf-8")
    desk.run("git", "add", "notes.txt")
    model = (desk.folder / "models/lm/model.safetensors").read_bytes()
    go_back(desk)
    assert_as_committed(desk)
    desk.run("sh", "-c", "git stash pop && dvc checkout")
    assert "up to date" in desk.run("dvc", "status")
    assert (desk.folder / "models/lm/model.safetensors").read_bytes() == model
    assert "# edited" in (desk.folder / "stages/ui.py").read_text(encoding="utf-8")
    assert (desk.folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    go_back(desk)


def test_outs_that_no_cache_has_are_not_lost(desk: Project) -> None:
    """The way back stops before a model that `python -m stages.train` made; --force removes it."""
    desk.set_params({"optim.lr": "2e-5", "train.num_steps": "6"})
    desk.run("python", "-m", "stages.train")
    model = (desk.folder / "models/lm/model.safetensors").read_bytes()
    refused = desk.run("sh", "-c", WAY_BACK, status=255)
    assert "Use `--force` to force" in refused
    assert (desk.folder / "models/lm/model.safetensors").read_bytes() == model
    desk.run("dvc", "checkout", "--force")
    assert_as_committed(desk)


@pytest.mark.slow
def test_what_was_built_here_is_committed_before_a_way_back(
    project: Project, tmp_path: Path
) -> None:
    """The hashes of a commit may be of bits from another processor, which no cache here has.

    Until then the way back ends without a model, and `git stash pop && dvc checkout` brings it.
    """
    clone = project.clone(tmp_path / "clone")
    lock = clone.folder / "dvc.lock"
    of_here = lock.read_text(encoding="utf-8")
    outs = YAML(typ="safe").load(of_here)["stages"]["train"]["outs"]
    (md5,) = [out["md5"] for out in outs if out["path"] == "models/lm"]
    other = md5.removesuffix(".dir")[::-1] + ".dir"
    lock.write_text(of_here.replace(md5, other), encoding="utf-8")
    clone.run("git", "commit", "--quiet", "--all", "--message=built elsewhere")
    clone.run("dvc", "repro")
    assert lock.read_text(encoding="utf-8") == of_here  # what was built here
    assert "Is your cache up to date?" in clone.run("sh", "-c", WAY_BACK, status=255)

    clone.run("sh", "-c", "git stash pop && dvc checkout")
    clone.run("git", "commit", "--quiet", "--all", "--message=built here")
    clone.run("dvc", "exp", "run", *OTHER)
    go_back(clone)
    assert clone.run("git", "status", "--porcelain") == ""
    assert "up to date" in clone.run("dvc", "status")


def test_readme_gives_the_way_back() -> None:
    """The line that these tests go back by, and no other."""
    for name in ("README.md", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert WAY_BACK in text
        assert "git checkout ." not in text


@pytest.mark.slow
def test_sampling_only_evaluates(lab: Project) -> None:
    """The model and its row stay; the row gets the scores and samples of the new evaluation."""
    warmer = [*SETTINGS, "-S", "sampling.temperature=1.5"]
    ran = lab.stages_run("dvc", "exp", "run", "--name", "warm", *warmer)
    assert ran == ["evaluate", "export"]
    assert {"slow", "warm"} <= shown(lab).keys()
    written = (lab.folder / "models/samples.md").read_text(encoding="utf-8")
    scores = {}
    for name in ("evaluate", "evaluate_details"):
        scores |= json.loads((lab.folder / f"models/metrics/{name}.json").read_text())
    go_back(lab)

    lab.wait_until_tracked()
    (row,) = runs_of(lab, "train")
    first, second = runs_of(lab, "evaluate")
    assert row.info.run_name == "slow"
    assert (first.info.run_name, second.info.run_name) == ("evaluate-slow", "evaluate-warm")
    for child in (first, second):
        assert child.data.tags["mlflow.parentRunId"] == row.info.run_id
    usual = YAML(typ="safe").load(lab.folder / "params.yaml")["sampling"]["temperature"]
    assert float(first.data.params["sampling.temperature"]) == usual
    assert second.data.params["sampling.temperature"] == "1.5"
    assert first.data.metrics["scores/distinct_2"] != scores["distinct_2"]
    for run in (row, second):
        of_run = {name: run.data.metrics[f"scores/{name}"] for name in scores}
        assert of_run == scores
        assert artifact(lab, run, "samples/samples.md") == written
    assert f"Temperature {usual:g}," in artifact(lab, first, "samples/samples.md")
    assert "Temperature 1.5," in written
    (version,) = tracked(lab).search_model_versions("name = 'lm'")
    assert version.run_id == row.info.run_id


@pytest.mark.slow
def test_sweep_in_parallel_on_a_fresh_clone(project: Project, tmp_path: Path) -> None:
    """Three trainers share the cores and one database, in which each has a row."""
    clone = project.clone(tmp_path / "clone")
    del clone.env["OMP_NUM_THREADS"]  # as users run it
    assert not (clone.folder / "mlflow.db").exists()
    sweep = ["-S", "optim.lr=1e-3,3e-4,1e-4"]
    queued = clone.run("dvc", "exp", "run", "--queue", "train", *sweep)
    names = set(re.findall(r"Queued experiment '(\S+)'", queued))
    assert len(names) == 3
    # the workers inherit its output, and may stay for long after the queue is empty
    clone.run("sh", "-c", "dvc queue start --jobs 3 >/dev/null 2>&1")
    wait_for_queue(clone)
    status = clone.run("dvc", "queue", "status")
    assert status.count("Success") == 3, status
    for name in names:
        log = clone.run("dvc", "queue", "logs", name)
        assert f"on {num_cores()} cores (OMP_NUM_THREADS={max(1, num_cores() // 3)}" in log
    clone.wait_until_tracked()
    runs = runs_of(clone, "train")
    assert {run.info.run_name for run in runs} == names == shown(clone).keys()
    assert {float(run.data.params["optim.lr"]) for run in runs} == {1e-3, 3e-4, 1e-4}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert clone.run("git", "status", "--porcelain") == ""


def wait_for_queue(project: Project) -> None:
    """Return when nothing runs or waits; the limit only ends a broken test."""
    deadline = time.monotonic() + 1200
    while re.search("Queued|Running", status := project.run("dvc", "queue", "status")):
        assert time.monotonic() < deadline, status
        time.sleep(1)


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"corpus.seed": "2"}, {"download", "export"}),
        ({"tokenizer.pattern": "cl100k"}, {"train_tokenizer", "export"}),
        ({"model.d_ff": "96"}, {"train"}),
        ({"optim.lr": "1e-5"}, {"train", "export"}),
        ({"train.seed": "2"}, {"train", "export"}),
        ({"evaluation.stride": "16"}, {"evaluate"}),
        ({"sampling.top_k": "5"}, {"evaluate"}),
    ],
)
def test_a_parameter_is_read_by_few_stages(
    lab: Project, change: dict[str, str], stages: set[str]
) -> None:
    """`dvc status` names them; stages that need their outs follow."""
    lab.set_params(change)
    changed = in_json(lab, "status")
    go_back(lab)
    assert changed.keys() == stages


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("lmlib/sampling/warpers.py", {"evaluate"}),
        ("lmlib/optim/adamw.py", {"train"}),
        (
            "lmlib/toystories/words.txt",
            {"download", "train_tokenizer", "encode", "evaluate"},
        ),  # data files belong to their package
        ("lmlib/tokenizer/CLUSTER.md", set()),
        ("lmlib/monitoring/tracking/journal.py", set()),
    ],
)
def test_a_module_is_behind_few_stages(lab: Project, module: str, stages: set[str]) -> None:
    """Changing sampling does not retrain; tracking and documentation affect no out."""
    with (lab.folder / module).open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    changed = in_json(lab, "status")
    go_back(lab)
    assert changed.keys() == stages
