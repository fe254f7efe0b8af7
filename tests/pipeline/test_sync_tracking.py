"""A run whose tracking server hangs, and the command that sends what it missed."""

import json
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.pipeline.conftest import Project
from tests.pipeline.imports import ROOT

pytestmark = pytest.mark.pipeline


@pytest.mark.slow
def test_training_beside_a_hanging_server_is_sent_later(project: Project, tmp_path: Path) -> None:
    """The server never answers: training produces the same bits, and nothing is lost."""
    clone = project.clone(tmp_path / "clone")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        clone.env |= {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        output = clone.run("dvc", "repro", "--force", "--single-item", "train")
        # which of them depends on how busy the machine is
        assert "accepts no events now" in output or "MLflow does not have all" in output
        assert clone.run("git", "status", "--porcelain") == ""  # the hashes in dvc.lock, too

        (journal,) = clone.folder.glob("models/.tracking/*.jsonl")
        opening = json.loads(journal.read_text(encoding="utf-8").splitlines()[0])
        assert opening["system_metrics"]  # a tiny training ends before the first of them

        output = clone.run("python", "-m", "stages.sync_tracking", status=1)
        assert "0 events sent" in output
        assert "1 runs are still there" in output.strip().splitlines()[-1]
        assert "Traceback" not in output

    del clone.env["MLFLOW_TRACKING_URI"]
    output = clone.run("python", "-m", "stages.sync_tracking")
    sent, _, rest = output.partition(" ")
    assert int(sent) > 4  # steps
    assert rest.startswith(f"events sent to sqlite:///{clone.folder}/mlflow.db")
    assert clone.run("python", "-m", "stages.sync_tracking").startswith("0 events sent")

    client = MlflowClient(f"sqlite:///{clone.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("lm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss/train")
    assert [point.step for point in history] == [5, 10, 15, 20]
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_damaged_run_is_named_until_it_is_repaired(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.env["PYTHONPATH"] = str(ROOT)
    spool = tmp_path / "models" / ".tracking"
    spool.mkdir(parents=True)
    journal = spool / "1-0000000000000000-1.jsonl"
    journal.write_text('{"kind": "end", "time_ms": 1}\n', encoding="utf-8")
    for _ in range(2):
        output = project.run("python", "-m", "stages.sync_tracking", status=1)
        assert f"{journal}: line 1: `end` without `status`; nothing could be sent" in output
        assert "0 events sent" in output
        assert output.strip().endswith(
            f"error: {spool}: 1 runs are damaged (see above); repair or delete them, then run "
            "`python -m stages.sync_tracking`"
        )
    next(spool.iterdir()).unlink()
    assert project.run("python", "-m", "stages.sync_tracking").startswith("0 events sent")
