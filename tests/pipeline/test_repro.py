"""The pipeline end to end at tiny size, with the real commands."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML
from tokenizers import Tokenizer as HuggingFaceTokenizer

from lmlib.files import sha256_file
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline
MakeProject = Callable[..., Project]

# md5, as dvc.lock has them, of what the preset `tiny` makes on every machine. They change with the
# text (see tests/toystories) or the preset, and never otherwise.
SAME_EVERYWHERE = {
    "data/raw": "d54d873ced6898058f392c5e55fe6b53.dir",
    "models/tokenizer": "3339b0c32148e3f2696b564b25776091.dir",
    "data/tokens": "44f57822b53d60013a2412a64f0c3c63.dir",
}


def rows(project: Project, path: str) -> list[dict[str, str]]:
    with (project.folder / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(project: Project, path: str) -> dict:
    return json.loads((project.folder / path).read_text(encoding="utf-8"))


def runs(project: Project, experiment: str = "lm") -> list:
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def test_outs_belong_together(project: Project) -> None:
    """Tokens decode to the text, losses are finite numbers of the right size, samples are there."""
    folder = project.folder
    tokenizer = Tokenizer.load(folder / "models/tokenizer")
    for name in ("train", "valid"):
        tokens = np.load(folder / f"data/tokens/{name}/00000.npy", mmap_mode="r")
        text = (folder / f"data/raw/{name}.txt").read_bytes()
        assert tokens.dtype == np.uint16
        assert tokenizer.decode_bytes(tokens) == text
        info = read_json(project, f"data/tokens/{name}/index.json")
        assert info["tokens"] == len(tokens)
        assert info["source_bytes"] == len(text)
        assert info["documents"] == text.count(SEPARATOR.encode())
    huggingface = HuggingFaceTokenizer.from_file(str(folder / "models/tokenizer/tokenizer.json"))
    story = text.decode()[:2000]
    assert huggingface.encode(story).ids == tokenizer.encode(story)

    steps = [int(row["step"]) for row in rows(project, "models/plots/train.csv")]
    assert steps == [5, 10, 15, 20]
    assert [int(row["step"]) for row in rows(project, "models/plots/valid.csv")] == [10, 20]
    scores = read_json(project, "models/metrics/evaluate.json")
    assert scores.keys() == {"bits_per_byte", "excess_bits_per_byte", "loss", "accuracy"}
    scores |= read_json(project, "models/metrics/evaluate_details.json")
    floor = scores["floor_bits_per_byte"]
    assert read_json(project, "models/metrics/corpus.json") == {"valid_floor_bits_per_byte": floor}
    assert scores["excess_bits_per_byte"] == scores["bits_per_byte"] - floor > 0
    line = [(row["step"], float(row["loss"])) for row in rows(project, "models/plots/floor.csv")]
    nats = scores["loss"] * floor / scores["bits_per_byte"]  # both losses are of the same tokens
    assert line == [("1", pytest.approx(nats)), ("20", pytest.approx(nats))]
    losses = [float(row["loss"]) for row in rows(project, "models/plots/train.csv")]
    assert losses[-1] < losses[0] - 0.1  # it has learnt
    assert 2.0 < scores["loss"] < np.log(512) + 0.5  # untrained: ln 512 = 6.2
    assert scores["tokens"] == read_json(project, "data/tokens/valid/index.json")["tokens"]
    assert 0 < scores["accuracy"] < 1
    assert 0 < scores["copied_part"] <= 1
    contexts = [float(row["context"]) for row in rows(project, "models/plots/position.csv")]
    assert contexts == sorted(contexts)
    assert contexts[-1] <= 32  # model.context_length
    samples = (folder / "models/samples.md").read_text(encoding="utf-8")
    assert samples.count("\n> **") == 3
    assert "bits per byte" in project.run("python", "-m", "stages.report")


def test_nothing_large_is_left_to_git(project: Project) -> None:
    """Git holds only small files of data/ and models/: numbers and curves."""
    tracked = project.run("git", "ls-files", "data", "models").split()
    assert set(tracked) == {
        "data/.gitignore",
        "models/.gitignore",
        "models/metrics/corpus.json",
        "models/metrics/evaluate.json",
        "models/metrics/evaluate_details.json",
        "models/metrics/tokenizer.json",
        "models/metrics/train.json",
        "models/plots/.gitignore",
        "models/plots/losses.svg",
        "models/plots/position.csv",
        "models/plots/token_lengths.csv",
        "models/plots/train.csv",
        "models/plots/valid.csv",
    }


def test_second_repro_does_nothing(project: Project) -> None:
    assert "up to date" in project.run("dvc", "status")
    output = project.run("dvc", "repro")
    assert "Running stage" not in output
    assert "up to date" in output


def test_text_tokenizer_and_tokens_are_the_same_everywhere(project: Project) -> None:
    lock = YAML(typ="safe").load(project.folder / "dvc.lock")
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    hashes = {out["path"]: out["md5"] for out in outs if out["path"] in SAME_EVERYWHERE}
    assert hashes == SAME_EVERYWHERE


@pytest.mark.slow
def test_another_clone_makes_the_same_bits(project: Project, make_project: MakeProject) -> None:
    """dvc.lock has the hash of every out; nothing comes from the first clone's cache."""
    other = make_project("other")
    other.run("dvc", "repro")
    locks = [(each.folder / "dvc.lock").read_text(encoding="utf-8") for each in (project, other)]
    assert locks[0] == locks[1]


def test_mlflow_has_one_row_for_the_model(project: Project) -> None:
    """The evaluation is a child of the training run, and its scores are on the parent too."""
    parents = [run for run in runs(project) if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs(project) if "mlflow.parentRunId" in run.data.tags]
    (parent,) = parents
    assert parent.info.status == "FINISHED"
    assert parent.data.params["model.d_model"] == "32"
    assert parent.data.tags["stage"] == "train"
    scores = read_json(project, "models/metrics/evaluate.json")
    assert parent.data.metrics["scores/bits_per_byte"] == pytest.approx(scores["bits_per_byte"])
    assert parent.info.run_id in {run.data.tags["mlflow.parentRunId"] for run in children}
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    history = client.get_metric_history(parent.info.run_id, "loss/train")
    assert [point.step for point in history] == [5, 10, 15, 20]
    written = [float(row["loss"]) for row in rows(project, "models/plots/train.csv")]
    assert [point.value for point in history] == pytest.approx(written)


def test_data_stages_have_runs_of_their_own(project: Project) -> None:
    stages = [run.data.tags["stage"] for run in runs(project, "lm-data")]
    assert stages == ["download", "train_tokenizer", "encode"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [["dvc", "repro", "train"], ["dvc", "exp", "run", "--temp"]])
def test_killed_training_goes_on_to_the_same_bits(
    make_project: MakeProject, command: list[str]
) -> None:
    """kill -9 during training; the last run resumes, and an uninterrupted one agrees.

    MLflow has one run with each point once, and so have the curves.
    """
    kills = 6
    num_steps = 200 + 250 * (kills - 1)
    rhythm = {"train.num_steps": str(num_steps), "train.checkpoint_every": "20"}
    project = make_project(f"killed-{command[1]}", **rhythm).with_real_processes()
    project.run("dvc", "repro", "encode")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message=data")
    moments = random.Random(0)
    for _ in range(kills):
        kill_trainer(project, command, after_s=moments.uniform(0, 0.4))
    assert not (project.folder / "models/lm/model.safetensors").exists()

    output = project.run(*command)
    assert "resuming after step" in output
    if command[1] == "exp":
        (name,) = re.findall(r"Ran experiment\(s\): (\S+)", output)
        project.run("dvc", "exp", "apply", name)
    project.run("dvc", "repro")
    assert not list(project.folder.glob("models/.resume/*/*"))  # DVC has the model now
    (run,) = [run for run in runs(project) if run.data.tags["stage"] == "train"]
    assert run.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    steps = list(range(5, num_steps + 1, 5))
    stored = {
        name: [point.step for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert stored["loss/train"] == steps
    assert [name for name, of_name in stored.items() if len(set(of_name)) < len(of_name)] == []
    assert [int(row["step"]) for row in rows(project, "models/plots/train.csv")] == steps

    lock = (project.folder / "dvc.lock").read_text(encoding="utf-8")
    assert "resuming" not in project.run("dvc", "repro", "--force", "--single-item", "train")
    assert (project.folder / "dvc.lock").read_text(encoding="utf-8") == lock  # the same hashes


def kill_trainer(project: Project, command: list[str], after_s: float) -> None:
    """Start a command; kill its trainer some seconds after it has saved a new state."""

    def saved() -> set[Path]:
        return set(project.folder.glob("models/.resume/*/step-*.pt"))

    before = saved()
    dvc = subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while saved() <= before:
        assert dvc.poll() is None, dvc.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(after_s)
    os.kill(trainer_below(dvc.pid), signal.SIGKILL)
    dvc.communicate()
    assert dvc.returncode != 0


def trainer_below(pid: int) -> int:
    """Return the process of `stages.train` among the descendants of `pid`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            session = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session == pid and b"stages.train" in command and command[0].endswith(b"python"):
            return int(entry.name)
    raise AssertionError("no trainer runs")


@pytest.mark.slow
def test_second_repro_at_a_time_is_refused(project: Project, tmp_path: Path) -> None:
    """It names the busy process, and the first one ends as if it were alone."""
    clone = project.clone(tmp_path / "clone")
    clone.set_params({"train.num_steps": "400"})
    first = subprocess.Popen(
        ["dvc", "repro"], cwd=clone.folder, env=clone.env, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(clone.folder.glob("models/.resume/*/step-*.pt")):  # it trains
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    refused = clone.run("dvc", "repro", status=255)
    assert re.search(
        r"is busy, it is being blocked by:.*\(PID \d+\): .*dvc repro", refused, re.DOTALL
    )
    assert first.wait() == 0
    assert clone.stages_run("dvc", "repro") == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.d_model": "33"}, "d_model is 33, not divisible by num_heads 2"),
        ({"optim.lr": "'3e-4'"}, "params.yaml: optim.lr is the text '3e-4'"),
        ({"train.device": "tpu"}, "train.device is 'tpu'"),
        ({"model.context_length": "20000"}, "too few for model.context_length=20000"),
    ],
)
def test_bad_input_gets_one_sentence(
    project: Project, overrides: dict[str, str], message: str
) -> None:
    """The sentence is the last line, without a traceback, and existing files stay."""
    before = (project.folder / "params.yaml").read_text(encoding="utf-8")
    model = sha256_file(project.folder / "models/lm/model.safetensors")
    project.set_params(overrides)
    try:
        output = project.run("python", "-m", "stages.train", status=1)
    finally:
        (project.folder / "params.yaml").write_text(before, encoding="utf-8")
    assert output.strip().splitlines()[-1].startswith("error: ")
    assert message in output
    assert "Traceback" not in output
    assert sha256_file(project.folder / "models/lm/model.safetensors") == model
