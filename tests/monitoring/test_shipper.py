"""lmlib/monitoring/tracking/shipper.py: how long sending a journal is tried, without MLflow."""

import json
import os
import warnings
from pathlib import Path
from types import ModuleType

import pytest

OPEN = {"kind": "open", "time_ms": 1, "fingerprint": "a" * 16, "parent": None}
END = {"kind": "end", "time_ms": 2, "status": "FINISHED"}
NAME = f"1-{'a' * 16}-1.jsonl"


@pytest.fixture(scope="module")
def shipper() -> ModuleType:
    """The module, which imports MLflow: that takes seconds and warns about its type hints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lmlib.monitoring.tracking import shipper
    return shipper


@pytest.fixture
def spool(tmp_path: Path, shipper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool with the journal of a finished run, and hardly any patience."""
    monkeypatch.setattr(shipper, "PATIENCE_S", 0.2)
    monkeypatch.setattr(shipper, "POLL_EVERY_S", 0.01)
    (tmp_path / NAME).write_text(f"{json.dumps(OPEN)}\n{json.dumps(END)}\n", encoding="utf-8")
    return tmp_path


def failing_tracker(shipper: ModuleType, monkeypatch: pytest.MonkeyPatch, uri: str) -> list[None]:
    """Make MLflow at `uri` fail; return a list that gets an item for each try."""
    tries: list[None] = []

    def fail() -> None:
        tries.append(None)
        raise ConnectionError("nobody there")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(shipper, "Tracker", fail)
    return tries


def test_a_server_that_fails_at_the_end_is_asked_once(
    shipper: ModuleType,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second try may hang as the first did, and the stage waits for it."""
    tries = failing_tracker(shipper, monkeypatch, "http://127.0.0.1:9")
    shipper.follow(spool, NAME, os.getppid())
    assert len(tries) == 1
    assert (spool / NAME).exists()
    assert "accepts no events now" in caplog.text


def test_a_local_store_that_fails_at_the_end_is_tried_for_a_while(
    shipper: ModuleType,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another process may have locked it; the error is reported once."""
    tries = failing_tracker(shipper, monkeypatch, "sqlite:///mlflow.db")
    shipper.follow(spool, NAME, os.getppid())
    assert len(tries) > 1
    assert (spool / NAME).exists()
    assert len(caplog.records) == 1


def test_a_run_that_another_process_sends_waits(
    shipper: ModuleType,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setattr(shipper, "Tracker", object)
    monkeypatch.setattr(shipper, "ready", lambda *_: False)
    shipper.follow(spool, NAME, os.getppid())
    assert (spool / NAME).exists()
    assert [record.message for record in caplog.records] == [
        f"another process is sending this run; {spool / NAME} waits"
    ]


def test_the_pauses_between_failures_grow(
    shipper: ModuleType, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2, 4, 8, ... seconds, at most MAX_PAUSE_S."""
    failing_tracker(shipper, monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    sender = shipper.Sender(spool, shipper.Journal(spool / NAME))
    pauses = []
    for _ in range(7):
        assert sender.send() == "failed"
        pauses.append(sender.next_try - 100.0)
    sender.journal.file.close()
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
