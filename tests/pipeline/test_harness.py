"""`make lm-eval`'s script: what it records, what it refuses, and that it asks no network."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stages import harness, paths
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline
SCORE = ("python", "-m", "stages.harness", "--limit", "4")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def scored(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project whose exported model was scored, where no network is asked."""
    folder = tmp_path_factory.mktemp("scored ü") / "copy"
    shutil.copytree(project.folder, folder, symlinks=True)
    copy = project.at(folder)
    copy.env |= dict.fromkeys(("http_proxy", "https_proxy", "HF_ENDPOINT"), NOWHERE)
    copy.env["no_proxy"] = "127.0.0.1"
    copy.env["HF_HOME"] = str(folder / "nothing")
    copy.run(*SCORE)
    copy.wait_until_tracked()
    return copy


def lm_eval_json(project: Project) -> dict:
    return json.loads((project.folder / paths.HARNESS_METRICS).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_dvc_shows_the_scores_and_has_nothing_to_do(scored: Project) -> None:
    shown = json.loads(scored.run("dvc", "metrics", "show", "--json"))[""]["data"]
    of_tasks = shown[paths.HARNESS_METRICS.as_posix()]["data"]
    assert of_tasks == lm_eval_json(scored)
    assert of_tasks["stories_name"]["documents"] == 4
    assert 0 <= of_tasks["stories_ending"]["acc_norm"] <= 1
    assert "stories_name.acc" in scored.run("dvc", "exp", "show", "--csv")
    assert "up to date" in scored.run("dvc", "status")
    assert scored.run("git", "status", "--porcelain").split() == ["??", str(paths.HARNESS_METRICS)]


def test_dvc_complains_of_no_missing_scores(project: Project) -> None:
    assert not (project.folder / paths.HARNESS_METRICS).exists()
    output = project.run("dvc", "metrics", "show")
    assert "evaluate.json" in output
    assert "fail" not in output


def test_the_row_of_the_model_has_the_scores(scored: Project) -> None:
    """And a run below it, which says what was asked."""
    uri = f"sqlite:///{scored.folder}/mlflow.db"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("lm")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    of_stage = {run.data.tags["stage"]: run for run in runs}
    row, below = of_stage["train"], of_stage["lm-eval"]
    assert below.data.tags["mlflow.parentRunId"] == row.info.run_id
    assert below.data.params == {
        "lm_eval.tasks": "stories_ending,stories_name",
        "lm_eval.limit": "4",
    }
    for task in ("stories_ending", "stories_name"):
        for name, value in lm_eval_json(scored)[task].items():
            for run in (row, below):
                assert run.data.metrics[f"lm_eval/{task}/{name}"] == value


@pytest.fixture
def copy(scored: Project, tmp_path: Path) -> Project:
    copy = scored.at(tmp_path / "copy")
    copy.env = scored.env
    shutil.copytree(scored.folder, copy.folder, symlinks=True)
    return copy


def test_scores_of_a_model_add_up(copy: Project) -> None:
    """And stay when the same model is exported again."""
    copy.run("python", "-m", "stages.harness", "--limit", "3", "--tasks", "stories_name")
    documents = [
        lm_eval_json(copy)[task]["documents"] for task in ("stories_ending", "stories_name")
    ]
    assert documents == [4, 3]

    before = lm_eval_json(copy)
    copy.run("python", "-m", "stages.export")
    assert lm_eval_json(copy) == before


@pytest.mark.slow
def test_scores_go_with_their_model(copy: Project) -> None:
    """Nor does MLflow get those of a model that params.yaml no longer describes."""
    copy.set_params({"train.seed": "7"})
    output = copy.run(*SCORE)
    assert "not recorded in MLflow: models/hf is not what code, data and params.yaml" in output
    copy.run("dvc", "repro")
    assert not (copy.folder / paths.HARNESS_METRICS).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("--tasks", "storys"), "'storys' is not a task of lm-eval", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--tasks", "arc_easy"),
            "--tasks arc_easy: their data are on the Hugging Face Hub, which",
            marks=pytest.mark.slow,
        ),
        (("--address", NOWHERE), f"--address {NOWHERE}: nothing answers there; start the server"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_sentence(
    scored: Project, arguments: tuple[str, ...], message: str
) -> None:
    before = lm_eval_json(scored)
    output = scored.run(*SCORE, *arguments, status=1)
    assert f"error: {message}" in output
    assert "Traceback" not in output
    assert lm_eval_json(scored) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", ","), "names no task"),
        (("--limit", "-1"), "is not a number of questions"),
        (("--batch-size", "0"), "is not a positive number"),
    ],
)
def test_arguments_that_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["harness", "=".join(arguments)])
    with pytest.raises(SystemExit):
        harness.main()
    assert message in capsys.readouterr().err


def test_without_an_exported_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hf: no exported model \(no such folder\)"):
        harness.require_export(tmp_path / "hf")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "README.md").touch()
    with pytest.raises(FileNotFoundError, match=r"no exported model \(its README.md says why\)"):
        harness.require_export(tmp_path / "hf")


@pytest.mark.slow
def test_the_served_model_has_the_scores_of_the_exported_one(scored: Project) -> None:
    """Two programs, our decoder and that of transformers: the same table."""
    with socket.socket() as probe:  # a port that was free a moment ago
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["python", "-m", "stages.serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=scored.folder, env=scored.env) as server:
        try:
            start = time.monotonic()
            while not answers(port):
                assert server.poll() is None, "stages.serve ended"
                assert time.monotonic() - start < 240  # only ends a broken test
                time.sleep(0.1)
            served = table(scored.run(*SCORE, "--address", f"http://127.0.0.1:{port}"))
        finally:
            server.terminate()
    assert served == table(scored.run(*SCORE))


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def table(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("|")]
