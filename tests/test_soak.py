"""tests/soak.py: what counts as a difference, and who is hit."""

import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mlflow import MlflowClient

from tests import soak
from tests.pipeline.conftest import Project
from tests.soak import Result, Round

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

LOCK = "stages:\n  train:\n    md5: 1\n    outs: a\n"
TRAIN: dict[str, Any] = {
    "status": "FINISHED",
    "train/loss": [(5, 2.5), (10, 2.0)],
    "train/lr": [(5, None)],
}
UNDISTURBED = Result(LOCK, {"lm/train": [TRAIN], "lm-data/encode": [{"status": "FINISHED"}]})


def runs(train: list[Any]) -> Result:
    return dataclasses.replace(UNDISTURBED, runs=UNDISTURBED.runs | {"lm/train": train})


@pytest.mark.parametrize(
    ("other", "differences"),
    [
        (UNDISTURBED, []),
        (
            dataclasses.replace(UNDISTURBED, lock=LOCK.replace("md5: 1", "md5: 2")),
            ["dvc.lock has `md5: 2`"],
        ),
        (dataclasses.replace(UNDISTURBED, lock="stages:\n"), ["dvc.lock lacks lines"]),
        (runs([TRAIN, TRAIN]), ["MLflow has 2 runs of lm/train in place of 1"]),
        (runs([]), ["MLflow has 0 runs of lm/train in place of 1"]),
        (
            runs([TRAIN | {"status": "KILLED"}]),
            ["MLflow, lm/train, status: KILLED in place of FINISHED"],
        ),
        (
            runs([TRAIN | {"train/loss": [(5, 2.5), (5, 2.5), (10, 2.0)]}]),
            [
                "MLflow, lm/train, train/loss: point 1 is (5, 2.5) in place of (10, 2.0) "
                "(3 and 2 points)"
            ],
        ),
        (
            runs([TRAIN | {"train/loss": [(5, 2.5)]}]),
            [
                "MLflow, lm/train, train/loss: point 1 is None in place of (10, 2.0) "
                "(1 and 2 points)"
            ],
        ),
        (
            runs([TRAIN | {"other": [(1, None)]}]),
            ["MLflow, lm/train, other: [(1, None)] in place of None"],
        ),
    ],
)
def test_differences(other: Result, differences: list[str]) -> None:
    assert UNDISTURBED.differences(other) == differences


def test_what_mlflow_holds(tmp_path: Path) -> None:
    """Losses with their values, speeds without, system metrics not at all."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("lm", artifact_location=tmp_path.as_uri())
    for status in ("KILLED", "FINISHED"):
        run = client.create_run(experiment, tags={"stage": "train"}).info.run_id
        for step in (5, 10):
            for name in ("train/loss", "train/tokens_per_second", "system/cpu"):
                client.log_metric(run, name, 1.5, step=step)
        client.set_terminated(run, status)
    points = {
        "train/loss": [(5, 1.5), (10, 1.5)],
        "train/tokens_per_second": [(5, None), (10, None)],
    }
    expected = [{"status": status} | points for status in ("KILLED", "FINISHED")]
    assert soak.runs_of(tmp_path) == {"lm/train": expected}


def test_what_is_left_over(tmp_path: Path) -> None:
    """Temporary files next to outs and states; those of DVC's cache are its own."""
    left = [
        "mlflow.db.tmp",
        "data/raw/.train.txt.ab12.part",
        "models/.resume/f/step-000000005.pt",
        "models/lm/.x.tmp",
    ]
    for name in [*left, "data/raw/train.txt", ".dvc/tmp/x.tmp", "models/.resume/f.lock"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert soak.leftovers(tmp_path) == sorted(left)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose build has a child, named like a stage, that does not end."""
    project = Project(tmp_path / "copy")
    project.folder.mkdir()
    build = "sh -c 'sleep 1000; : -m stages.x'; exit 3"
    (project.folder / "build.sh").write_text(build, encoding="utf-8")
    monkeypatch.setattr(soak, "COMMAND", ("sh", "build.sh"))
    yield project
    soak.stop(list(soak.processes_in(tmp_path)), signal.SIGKILL)


@pytest.mark.parametrize(
    ("way", "status", "num_left"),
    [
        ("kill dvc", -signal.SIGKILL, 2),
        pytest.param("terminate dvc", -signal.SIGTERM, 2, marks=pytest.mark.slow),
        ("kill stage", 3, 1),
        pytest.param("kill group", -signal.SIGKILL, 0, marks=pytest.mark.slow),
        pytest.param("Ctrl-C", -signal.SIGINT, 0, marks=pytest.mark.slow),
        ("kill all", -signal.SIGKILL, 0),
        ("kill shipper", None, 3),
    ],
)
def test_who_is_hit(way: str, status: int | None, num_left: int, project: Project) -> None:
    """dvc is the shell that was started, a stage its child, and sleep a process of the stage."""
    build = soak.start(project, soak.COMMAND)
    # sleep itself: before it is that, the stage's child has the stage's command line
    while "sleep 1000" not in soak.processes_in(project.folder).values():
        assert build.poll() is None
    victims, how = soak.WAYS[way]
    hit = victims(build.pid, project.folder)
    assert soak.stop(hit, how) == (status is not None)
    if status is not None:
        assert build.wait() == status
    assert len(soak.wait_until_gone(project.folder, 1.0)) == num_left
    soak.stop(list(soak.processes_in(project.folder)), signal.SIGKILL)
    assert soak.wait_until_gone(project.folder, 60.0) == {}
    assert soak.stop([build.pid], how) == (status is None)  # not yet waited for
    build.wait()


def test_builds_are_killed_again_and_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "WAYS", {"kill all": soak.WAYS["kill all"]})
    one = Round(project.folder)
    soak.disturb(project, Random(1), 0.2, one, wanted=6)
    assert (one.kills.total(), one.restarts, one.wrong) == (6, 6, [])


def test_processes_that_are_left_are_a_difference(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "WAYS", {"kill dvc": soak.WAYS["kill dvc"]})
    monkeypatch.setattr(soak, "PATIENCE_S", 0.5)
    one = Round(project.folder)
    soak.disturb(project, Random(1), 0.2, one, wanted=6)
    assert one.wrong
    assert one.wrong[0].startswith("left after `kill dvc`: ")


def test_a_build_that_fails_is_a_difference(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "COMMAND", ("sh", "-c", "echo no space left; exit 3"))
    one = Round(project.folder)
    soak.disturb(project, Random(1), 1000.0, one, wanted=3)
    assert one.wrong == ["`dvc repro` ended with 3 by itself: no space left"]
    assert not soak.finish(project, one)
    assert one.wrong[1:] == ["`sh -c echo no space left; exit 3` ended with 3: no space left"]
    one.wrong += ["x"] * 8
    assert str(one).startswith("0 kills, 0 restarts: `dvc repro` ended with 3")
    assert str(one).endswith("; x; x; and 5 more")
