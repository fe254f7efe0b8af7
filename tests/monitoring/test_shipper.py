"""lmlib/monitoring/tracking/shipper.py: how long sending is tried, and what damage costs."""

import ast
import json
import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
from filelock import Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from tests.pipeline import imports

OPEN = {
    "kind": "open",
    "time_ms": 1,
    "stage": "train",
    "name": "train-1",
    "experiment": "lm",
    "fingerprint": "a" * 16,
    "parent": None,
    "params": {},
    "tags": {},
    "dataset": None,
    "system_metrics": False,
}
END = {"kind": "end", "time_ms": 9, "status": "FINISHED"}
NOT_AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
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


def failing_tracker(
    shipper: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    error: Exception | None = None,
) -> list[None]:
    """Make MLflow at `uri` fail; return a list that gets an item for each try."""
    tries: list[None] = []

    def fail() -> None:
        tries.append(None)
        raise error or ConnectionError("nobody there")

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


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("database is locked"), Timeout("mlflow.db.lock")]
)
def test_a_local_store_that_is_locked_at_the_end_is_tried_for_a_while(
    shipper: ModuleType,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Another process writes; the error is reported once."""
    tries = failing_tracker(shipper, monkeypatch, "sqlite:///mlflow.db", error)
    shipper.follow(spool, NAME, os.getppid())
    assert len(tries) > 1
    assert (spool / NAME).exists()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("reason", ["mlflow.db: read-only; make it writable", "disk is full"])
def test_a_local_store_that_cannot_recover_is_not_waited_for(
    shipper: ModuleType,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: str,
) -> None:
    """What is said is what is wrong, where the events are, and how they are sent."""
    error = shipper.DatabaseError if "read-only" in reason else sqlite3.OperationalError
    tries = failing_tracker(shipper, monkeypatch, "sqlite:///mlflow.db", error(reason))
    shipper.follow(spool, NAME, os.getppid())
    assert len(tries) == 1
    assert (spool / NAME).exists()
    (message,) = [record.message for record in caplog.records]
    assert reason in message
    assert f"events wait in {spool}" in message
    assert "`python -m stages.sync_tracking` sends them" in message


def test_a_password_of_the_server_is_not_shown(
    shipper: ModuleType,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the lines that the shipper writes for the trainer, and in the reason that MLflow gives."""
    uri = "http://user:PW-1@127.0.0.1:9"
    failing_tracker(
        shipper, monkeypatch, uri, ConnectionError(f"cannot reach {uri}/api?token=PW-2")
    )
    monkeypatch.setattr("sys.argv", ["", str(spool)])
    monkeypatch.setattr("os.nice", lambda _: 0)
    shipper.main()
    shown = capsys.readouterr().err
    assert "MLflow at http://***@127.0.0.1:9 accepts no events now" in shown
    assert "PW-" not in shown
    for handler in shipper.logger.handlers[:]:
        shipper.logger.removeHandler(handler)


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


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory, shipper: ModuleType) -> Path:
    database = tmp_path_factory.mktemp("database") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lmlib.monitoring.tracking import store
    store.prepare(database)
    return database


class Project:
    """A folder with a database and a spool, whose journals are written by hand."""

    def __init__(self, folder: Path, shipper: ModuleType) -> None:
        self.folder, self.shipper = folder, shipper
        self.spool = folder / "spool"
        self.spool.mkdir()

    def write(self, number: int, *lines: object, fingerprint: str = "a" * 16) -> Path:
        """Write a journal of events, or of bytes that are none."""
        path = self.spool / f"{number}-{fingerprint}-1.jsonl"
        content = [
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines
        ]
        path.write_bytes(b"".join(content))
        return path

    def ship(self) -> None:
        self.shipper.ship_all(self.spool)

    def run(self, fingerprint: str = "a" * 16) -> Run:
        (run,) = MlflowClient().search_runs(["1"], f"tags.fingerprint = '{fingerprint}'")
        return run

    def steps(self, name: str = "x") -> list[int]:
        history = MlflowClient().get_metric_history(self.run().info.run_id, name)
        return sorted(point.step for point in history)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.spool.iterdir())


@pytest.fixture
def project(
    tmp_path: Path, shipper: ModuleType, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    shutil.copy2(empty_database, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # both of which MLflow sets, too
        monkeypatch.setenv(name, f"sqlite:///{tmp_path}/mlflow.db")
    yield Project(tmp_path, shipper)
    mlflow.set_tracking_uri("")
    mlflow.set_registry_uri("")


def opening(letter: str = "a", **fields: Any) -> dict[str, Any]:
    return OPEN | {"fingerprint": letter * 16} | fields


def point(step: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "log", "time_ms": step, "step": step, "metrics": {"x": 0.5}} | fields


BAD_LINES = [
    b"5\n",
    json.dumps({"kind": "log", "tame_ms": 1, "step": 1, "metrics": {"x": 1}}).encode() + b"\n",
    json.dumps(point(2) | {"step": "2"}).encode() + b"\n",
    json.dumps(point(2)).encode()[:20] + b"\n",
    b"[" * 100_000 + b"\n",
    json.dumps(point(10**30)).encode() + b"\n",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_costs_itself_and_its_journal_is_set_aside(
    project: Project, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of it is sent, and so are the journals after it."""
    bad = project.write(1, OPEN, point(1), line, point(3), END)
    project.write(2, opening("b"), END)
    project.ship()
    assert project.steps() == [1, 3]
    assert [project.run(letter * 16).info.status for letter in "ab"] == ["FINISHED"] * 2
    assert project.names() == [f"{bad.name}.damaged"]
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(f"{bad}: line 3: ")
    assert "the rest was sent; it is set aside as 1-aaaaaaaaaaaaaaaa-1.jsonl.damaged" in message
    assert "then run `python -m stages.sync_tracking`" in message


def test_a_journal_is_complete_once_its_line_is_repaired(project: Project) -> None:
    """A later journal has finished the run; points are sent once, and its status stays."""
    good = point(2)
    bad = project.write(1, OPEN, point(1), json.dumps(good).encode()[:-1] + b"\n", point(3))
    project.write(2, OPEN, point(4), END)
    project.ship()
    assert project.steps() == [1, 3, 4]
    project.write(1, OPEN, point(1), good, point(3), b"{}\n")
    bad.with_name(f"{bad.name}.damaged").unlink()
    project.ship()
    assert project.steps() == [1, 2, 3, 4]
    assert project.run().info.status == "FINISHED"


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize(
    "make",
    [
        make_folder,
        os.mkfifo,
        lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_text("5\n"),
        lambda path: path.write_text(json.dumps(point(1)) + "\n"),
        lambda path: path.write_text(json.dumps(opening(experiment=5)) + "\n"),
    ],
    ids=["folder", "pipe", "dangling", "device", "number", "no open", "wrong open"],
)
@pytest.mark.parametrize("name", ["x.jsonl", f"1-{'a' * 16}-1.jsonl"])
def test_what_is_no_journal_is_set_aside_and_blocks_nothing(
    project: Project, make: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(project.spool / name)
    project.write(2, OPEN, point(1), END)
    project.ship()
    assert project.run().info.status == "FINISHED"
    assert project.names() == [f"{name}.damaged"]
    assert f"{project.spool / name}: " in caplog.text
    assert f"set aside as {name}.damaged" in caplog.text


@pytest.mark.parametrize(
    ("error", "is_final"),
    [
        (TypeError("a float is needed"), True),
        (MlflowException("no such run", INVALID_PARAMETER_VALUE), True),
        (MlflowException("try later"), False),
        (OSError("no route"), False),
        (MemoryError(), False),
        (RuntimeError("can't start new thread"), False),
    ],
)
def test_what_may_pass_is_tried_again(
    shipper: ModuleType, error: Exception, is_final: bool
) -> None:
    assert shipper._is_final(error) == is_final


def test_a_journal_that_mlflow_does_not_accept_blocks_no_other(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says nothing about the journal, but MLflow answers other questions."""
    create, failing = MlflowClient.create_run, {"a", "c"}

    def create_run(client: MlflowClient, *args: Any, **kwargs: Any) -> Run:
        if args[2]["fingerprint"][0] in failing:
            raise MlflowException("something is wrong")
        return create(client, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    kept = [project.write(1, opening("a"), END, fingerprint="a" * 16)]
    project.write(2, opening("b"), END, fingerprint="b" * 16)
    kept.append(project.write(3, opening("c"), END, fingerprint="c" * 16))
    project.write(4, opening("d"), END, fingerprint="d" * 16)
    project.ship()
    assert [project.run(letter * 16).info.status for letter in "bd"] == ["FINISHED"] * 2
    assert project.names() == [path.name for path in kept]
    assert "accepts no events now" in caplog.text

    project.write(4, opening("d"), END, fingerprint="d" * 16)
    own = project.shipper.Journal(project.write(5, opening("e"), END, fingerprint="e" * 16))
    own.read()
    own.file.close()
    tracker = project.shipper.Tracker()
    assert project.shipper.ready(project.spool, own, tracker)
    own.opening["parent"] = "c" * 16
    assert not project.shipper.ready(project.spool, own, tracker)

    def fail(*_: Any, **__: Any) -> None:
        raise MlflowException("nothing works")

    monkeypatch.setattr(MlflowClient, "search_experiments", fail)
    with pytest.raises(MlflowException, match="nothing works"):
        project.shipper.ready(project.spool, own, tracker)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\n\n"])
def test_a_journal_that_holds_nothing_is_removed(
    project: Project, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine lost power before anything but the file's size was on its disk."""
    project.write(1, content)
    project.ship()
    assert project.names() == []
    assert not caplog.records


def test_a_line_that_arrives_in_two_parts_is_one_event(shipper: ModuleType, tmp_path: Path) -> None:
    """The shipper may look while the trainer writes."""
    path, content = tmp_path / NAME, f"{json.dumps(OPEN)}\n{json.dumps(END)}\n"
    path.write_text(content[:-10], encoding="utf-8")
    journal = shipper.Journal(path)
    with journal.file:
        journal.read()
        assert (journal.opening["name"], journal.ended) == ("train-1", False)
        with path.open("a", encoding="utf-8") as file:
            file.write(content[-10:])
        journal.read()
        assert (journal.ended, journal.damage) == (True, [])


class FakeTracker:
    """A tracker whose run holds some steps of `loss`, and whose server fails at first."""

    def __init__(self, held: list[int], failures: int = 0) -> None:
        self.client: Any = self
        self.held = held
        self.failures = failures

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return [Metric(key, 0.5, 1, step) for step in self.held]

    def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody there")
        self.held += [metric.step for metric in metrics]


@pytest.fixture
def resumed(shipper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the journal of a resumed run, which logs some steps again."""

    def open_(journal: Any, tracker: FakeTracker) -> None:
        journal.run_id, journal.steps = "run", {}
        journal.last_step = {"loss": max(tracker.held)}

    monkeypatch.setattr(shipper.Journal, "_open", open_)

    def make(*steps: int) -> Any:
        logs = [{"kind": "log", "time_ms": 2, "step": s, "metrics": {"loss": 0.5}} for s in steps]
        (tmp_path / NAME).write_text("".join(f"{json.dumps(x)}\n" for x in [OPEN, *logs]))
        journal = shipper.Journal(tmp_path / NAME)
        with journal.file:
            journal.read()
        return journal

    return make


@pytest.mark.parametrize("first", [3, 4, 5, 6])
def test_a_resumed_run_has_each_step_once(resumed: Any, first: int) -> None:
    """It may begin with the very step that was stored last."""
    tracker = FakeTracker([1, 2, 3, 4, 5])
    resumed(*range(first, 8)).send(tracker)
    assert tracker.held == [1, 2, 3, 4, 5, 6, 7]


def test_what_a_server_did_not_take_is_sent_again(resumed: Any) -> None:
    """A late step too: it is not taken for one that the run holds."""
    tracker = FakeTracker([1, 2, 5], failures=1)
    journal = resumed(3, 4, 6)
    with pytest.raises(ConnectionError):
        journal.send(tracker)
    journal.send(tracker)
    assert tracker.held == [1, 2, 5, 3, 4, 6]


def test_zeros_among_the_events_are_no_damage(project: Project) -> None:
    """A machine that loses power leaves zeros; the run that resumes repeats these steps."""
    project.write(1, OPEN, point(1), b"\0" * 4096, point(4), b"\0" * 100)
    project.write(2, OPEN, *(point(step) for step in range(2, 7)), END)
    project.ship()
    assert project.steps() == [1, 2, 3, 4, 5, 6]
    assert project.names() == []


def test_a_clock_that_was_set_back(project: Project) -> None:
    """Journals are sent in the order of their numbers, and the newest summary is shown."""
    summary = {"kind": "summary", "on_parent": False}
    first = summary | {"time_ms": 5000, "metrics": {"score": 1.0}}
    second = summary | {"time_ms": 2000, "metrics": {"score": 0.5}}
    project.write(10, opening(time_ms=2000), second, point(2), END)
    project.write(9, opening(time_ms=5000), first, point(1), END | {"status": "FAILED"})
    project.ship()
    assert project.run().info.status == "FINISHED"
    assert project.run().data.metrics["score"] == 0.5
    assert project.steps() == [1, 2]


def test_a_journal_that_mlflow_refuses_is_set_aside(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    bad = project.write(1, opening(experiment=""), END)
    project.write(2, opening("b"), END)
    project.ship()
    assert project.names() == [f"{bad.name}.damaged"]
    assert project.run("b" * 16).info.status == "FINISHED"
    assert f"{bad}: " in caplog.text


def test_artifacts_are_found_after_the_spool_has_moved(project: Project, tmp_path: Path) -> None:
    """Only those of the journal itself."""
    artifact = {"kind": "artifact", "time_ms": 1, "folder": "", "on_parent": False}
    (tmp_path / "secret.txt").write_text("secret")
    other = artifact | {"path": str(tmp_path / "secret.txt")}
    journal = project.write(1, OPEN, artifact | {"path": "0/a.txt"}, other, END)
    files = journal.with_suffix(".files") / "0"
    files.mkdir(parents=True)
    (files / "a.txt").write_text("text")
    project.spool = project.spool.rename(tmp_path / "moved")
    project.ship()
    (sent,) = MlflowClient().list_artifacts(project.run().info.run_id)
    assert sent.path == "a.txt"
    assert project.names() == [f"1-{'a' * 16}-1.files", f"{journal.name}.damaged"]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.touch(mode=0), marks=NOT_AS_ROOT),
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: (path.mkdir(), (path / "link").symlink_to("nothing")),
    ],
    ids=["forbidden", "pipe", "loop", "dangling"],
)
def test_an_artifact_that_cannot_be_read_blocks_nothing(project: Project, make: Any) -> None:
    artifact = {"kind": "artifact", "time_ms": 1, "folder": "", "on_parent": False, "path": "a"}
    journal = project.write(1, OPEN, artifact, END)
    journal.with_suffix(".files").mkdir()
    make(journal.with_suffix(".files") / "a")
    project.write(2, opening("b"), END)
    project.ship()
    assert project.run("b" * 16).info.status == "FINISHED"
    assert f"{journal.name}.damaged" in project.names()


def test_a_value_that_is_too_long_for_mlflow_is_marked(project: Project) -> None:
    for number in (1, 2):
        project.write(number, opening(params={"p": "x" * 7000}, tags={"t": "y" * 9000}), END)
        project.ship()
    data = project.run().data
    assert data.params["p"].endswith("xxx [cut: 7000 characters]")
    assert data.tags["t"].endswith("yyy [cut: 9000 characters]")
    assert (len(data.params["p"]), len(data.tags["t"])) == (6000, 8000)


def test_the_environment_of_a_served_model_has_what_it_imports(
    shipper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports inside functions, too."""
    monkeypatch.setattr(imports, "PLUMBING", ())
    needed = set[str]()
    for path in imports.modules_behind(Path("lmlib/monitoring/tracking/serving.py")):
        for node in ast.walk(ast.parse((imports.ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                needed.add(node.module.partition(".")[0])
    brought = {"mlflow", "llvmlite", "fsspec"}  # by MLflow, Numba and PyTorch
    needed -= {"lmlib", *brought, *sys.stdlib_module_names}
    assert needed == {name.partition(".")[0] for name in shipper.SERVING_NEEDS}
