"""Tracking against real MLflow stores, read back through MlflowClient.

Each run starts a process that imports mlflow (3 s), so runs whose order does not matter are left
to their shippers (wait_s=0) and awaited together.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from lmlib.checkpoint import load_model, save_model
from lmlib.model import ModelParams, TransformerLM
from lmlib.monitoring.tracking import Dataset, flatten, open_run, replay
from lmlib.monitoring.tracking.journal import _status_after
from lmlib.sampling import SamplingParams, generate_text
from lmlib.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("forked")
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Store:
    """A folder in place of a repository, with its sqlite store and its spool."""

    root: Path

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)

    def run(self, fingerprint: str) -> Run:
        """Return the one run with this fingerprint."""
        experiment = self.client.get_experiment_by_name("lm")
        assert experiment is not None
        found = self.client.search_runs(
            [experiment.experiment_id], f"tags.fingerprint = '{fingerprint}'"
        )
        assert len(found) == 1
        return found[0]

    def steps(self, fingerprint: str, metric: str) -> list[int]:
        history = self.client.get_metric_history(self.run(fingerprint).info.run_id, metric)
        return [point.step for point in history]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of warnings and errors, without what a run says while it waits."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def wait_until_sent(spool: Path) -> None:
    """Return when no journal is left in the spool; the limit only ends a broken test."""
    for _ in range(2400):
        if not list(spool.glob("*.jsonl")):
            return
        time.sleep(0.1)
    raise AssertionError(f"still waiting: {list(spool.iterdir())}")


def wait_until_stored(store: Store, fingerprint: str, metrics: set[str]) -> None:
    """Return once the run exists and has these metrics; the limit only ends a broken test."""
    for _ in range(1200):
        with suppress(AssertionError):
            if metrics <= store.run(fingerprint).data.metrics.keys():
                return
        time.sleep(0.2)
    raise AssertionError(f"not in the store: {metrics}")


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a database and the experiment, made before the first test.

    Two tests that create the database would collide. An experiment that is created through a server
    keeps its artifacts there, so that all tests without a server would wait in vain after it.
    """
    store = Store(tmp_path_factory.mktemp("store"))
    store.client.create_experiment("lm", artifact_location=(store.root / "mlartifacts").as_uri())
    return store


@pytest.fixture
def store(shared_store: Store, caplog: pytest.LogCaptureFixture) -> Iterator[Store]:
    """One store for the tests of this file, since making a database takes seconds."""
    yield shared_store
    wait_until_sent(shared_store.spool)


def write_damaged_journals(spool: Path) -> None:
    """Write what a power cut leaves: the journal of one step with torn lines, and an empty file."""
    opening = {
        "kind": "open",
        "time_ms": 1_700_000_000_000,
        "stage": "train",
        "experiment": "lm",
        "name": "by hand",
        "fingerprint": "a7" * 16,
        "parent": None,
        "params": {},
        "tags": {},
        "dataset": None,
        "system_metrics": False,
    }
    point = {"kind": "log", "time_ms": 1_700_000_000_001, "step": 3, "metrics": {"x": 0.5}}
    lines = [json.dumps(opening), json.dumps(point), "\0\0\0", json.dumps(point)[:20]]
    (spool / f"1-{'a7' * 8}-1.jsonl").write_text("\n".join(lines))
    (spool / f"2-{'a8' * 8}-1.jsonl").write_text("")


def run_script(store: Store, body: str) -> subprocess.Popen[str]:
    """Start a process that tracks; `body` may use open_run, ROOT and SPOOL."""
    script = f"import os, sys, time\nsys.executable = {sys.executable!r}\n"
    script += "from lmlib.monitoring.tracking import open_run\n"
    script += f"ROOT, SPOOL = {str(store.root)!r}, {str(store.spool)!r}\n" + body
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_flatten() -> None:
    """Dataclasses and dicts of any depth become dotted names."""
    dataset = Dataset("toy", "d" * 32, "data/train.npy")
    flat = flatten({"optim": {"betas": (0.9, 0.95), "inner": {"lr": 1e-3}}, "data": dataset})
    assert flat["optim.betas"] == (0.9, 0.95)
    assert flat["optim.inner.lr"] == 1e-3
    assert flat["data.name"] == "toy"


def test_one_run_with_params_tags_metrics_dataset_and_artifact(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Everything recorded is stored, without a warning."""
    monkeypatch.setenv("DVC_EXP_NAME", "bumpy-cafe")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "5" * 40)
    sample = tmp_path / "samples.md"
    sample.write_text("Once upon a time")
    with open_run(
        "train",
        "a1" * 16,
        root=store.root,
        spool=store.spool,
        params={"optim.lr": 1e-3, **{f"model.p{i}": i for i in range(150)}},
        tags={"corpus": "toystories"},
        dataset=Dataset("toystories", "d" * 64, "data/tokens/train.npy"),
    ) as run:
        for step in range(300):  # 8 metrics: more than MLflow takes in one call
            run.log(step, {f"train/m{i}": step + i for i in range(8)})
        run.artifact(sample, "samples")
        sample.unlink()
    assert not warnings(caplog)
    assert not list(store.spool.iterdir())

    stored = store.run("a1" * 16)
    assert stored.info.run_name == "bumpy-cafe"
    assert stored.info.status == "FINISHED"
    assert stored.data.params["optim.lr"] == "0.001"
    assert len(stored.data.params) == 151
    expected = {
        "stage": "train",
        "corpus": "toystories",
        "DVC_EXP_NAME": "bumpy-cafe",
        "DVC_EXP_BASELINE_REV": "5" * 40,
        "dataset_sha256": "d" * 64,
    }
    assert stored.data.tags.items() >= expected.items()
    for metric in ("train/m0", "train/m7"):
        assert store.steps("a1" * 16, metric) == list(range(300))
    assert stored.inputs is not None
    (dataset,) = stored.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("toystories", "d" * 36)
    assert "data/tokens/train.npy" in dataset.dataset.source
    copy = store.client.download_artifacts(stored.info.run_id, "samples/samples.md", str(tmp_path))
    assert Path(copy).read_text() == "Once upon a time"


def test_child_mirrors_its_summary_on_the_parent_and_a_repeat_changes_nothing(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Evaluation belongs to a training run, whose row in the table shows its scores."""
    with open_run(
        "train", "b1" * 16, root=store.root, spool=store.spool, params={"lr": 1}, wait_s=0
    ) as run:
        run.log(7, {"train/loss": 2.0})
    caplog.clear()  # that wait was too short, as intended
    for params in ({"top_k": 1}, {"top_k": 2}):  # MLflow itself raises on a changed param
        with open_run(
            "evaluate",
            "b2" * 16,
            root=store.root,
            spool=store.spool,
            parent="b1" * 16,
            params=params,
        ) as run:
            run.summary({"evaluate/loss": 1.5}, on_parent=True)
            run.summary({"evaluate/own": 3.0})
    parent, child = store.run("b1" * 16), store.run("b2" * 16)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == {"top_k": "1"}
    assert [
        record.message for record in caplog.records if "keeps its params top_k" in record.message
    ]
    assert child.data.metrics == {"evaluate/loss": 1.5, "evaluate/own": 3.0}
    assert parent.data.metrics == {"train/loss": 2.0, "evaluate/loss": 1.5}
    assert parent.info.status == "FINISHED"
    assert store.steps("b1" * 16, "evaluate/loss") == [0]


def test_killed_and_resumed_run_is_one_run_with_each_step_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill -9 leaves a run KILLED; the resumed process starts before the last shipped step."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.5")
    trainer = run_script(
        store,
        "with open_run('train', 'c1' * 16, root=ROOT, spool=SPOOL, system_metrics=True) as run:\n"
        "    for step in range(100): run.log(step, {'train/loss': 1 / (step + 1)})\n"
        "    print('logged', flush=True)\n"
        "    time.sleep(300)\n",
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "logged\n"
    wait_until_stored(store, "c1" * 16, {"train/loss", "system/cpu_utilization_percentage"})
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    with open_run("train", "c1" * 16, root=store.root, spool=store.spool) as run:
        for step in range(60, 150):
            run.log(step, {"train/loss": 1 / (step + 1)})
    assert store.run("c1" * 16).info.status == "FINISHED"
    assert store.steps("c1" * 16, "train/loss") == list(range(150))


def test_statuses_non_finite_and_odd_values(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Each way to end has its status; NaN and infinity become a tag; odd values raise nothing.

    A parent missing from the store, as in a clone that pulled the model, does no harm.
    """

    def end_with(fingerprint: str, error: BaseException) -> None:
        with (
            pytest.raises(type(error)),
            open_run("train", fingerprint, root=store.root, spool=store.spool, wait_s=0),
        ):
            raise error

    end_with("d1" * 16, ZeroDivisionError())
    end_with("d2" * 16, KeyboardInterrupt())
    vanished = run_script(
        store, "with open_run('train', 'd3' * 16, root=ROOT, spool=SPOOL): os._exit(1)"
    )
    vanished.communicate()
    caplog.clear()
    with open_run("train", "d4" * 16, root=store.root, spool=store.spool, parent="d9" * 16) as run:
        run.log(12, {"train/loss": float("nan"), "good": 1.0})
        run.log(13, {"train/loss": float("nan"), "norm": float("-inf")})
        run.log(14, {"good": 2.0, "text": "many", "odd, name!": 3})
        run.log("later", {"good": 1})  # type: ignore[arg-type]
        run.summary({"final": float("inf"), "score": 0.5}, on_parent=True)
        run.artifact("no/such/file")
    wait_until_sent(store.spool)
    statuses = [store.run(f"d{i}" * 16).info.status for i in range(1, 5)]
    assert statuses == ["FAILED", "KILLED", "KILLED", "FINISHED"]
    stored = store.run("d4" * 16)
    assert stored.data.metrics == {"good": 2.0, "odd_ name_": 3.0, "score": 0.5}
    assert "mlflow.parentRunId" not in stored.data.tags
    assert stored.data.tags["non_finite"] == "train/loss at step 12, norm at step 13, final"
    (warning,) = warnings(caplog)
    assert "text at step 14 is 'many', which is not a number" in warning


def test_tracker_that_is_down_gets_its_events_later(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Nothing listens on the port; training succeeds, and replay fills the next store."""
    with socket.socket() as probe:  # a port that was free a moment ago
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spool = tmp_path / "spool"
    sample = tmp_path / "samples.md"
    sample.write_text("Once upon a time")
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with open_run("train", "e1" * 16, root=store.root, spool=spool) as run:
            for step in range(50):
                run.log(step, {"train/loss": float(step)})
            run.artifact(sample)
        sample.unlink()
        assert replay(spool, store.root) == 0
    assert len([r for r in caplog.records if "accepts no events now" in r.message]) == 2
    write_damaged_journals(spool)
    # open, steps, artifact, end: no event of a journal that was set aside
    assert replay(spool, store.root) == 1 + 50 + 1 + 1
    (damaged,) = [path.name for path in spool.iterdir() if path.is_file()]
    assert damaged == f"1-{'a7' * 8}-1.jsonl.damaged"
    assert replay(spool, store.root) == 0
    assert store.steps("e1" * 16, "train/loss") == list(range(50))
    stored = store.run("e1" * 16)
    assert stored.info.status == "FINISHED"
    (artifact,) = store.client.list_artifacts(stored.info.run_id)
    assert artifact.path == "samples.md"
    assert store.steps("a7" * 16, "x") == [3]
    assert store.run("a7" * 16).info.status == "KILLED"


class Refusing(BaseHTTPRequestHandler):
    """A tracking server that rejects every request."""

    def do_GET(self) -> None:
        self.send_error(403)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_tracker_that_hangs_or_refuses_gets_its_events_at_the_next_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that never answers, one that answers 403, then one that works."""
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as hanging, monkeypatch.context() as broken:
        broken.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        hanging_port, refusing_port = hanging.getsockname()[1], server.server_port
        for port in (hanging_port, refusing_port):
            broken.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            with open_run("train", f"{port:032x}", root=store.root, spool=store.spool) as run:
                run.log(1, {"train/loss": 1.0})
            (warning,) = warnings(caplog)
            assert "accepts no events now" in warning
            caplog.clear()
    server.shutdown()
    server.server_close()
    with open_run("train", "f1" * 16, root=store.root, spool=store.spool):
        pass
    assert not warnings(caplog)
    assert store.steps(f"{hanging_port:032x}", "train/loss") == [1]
    assert store.steps(f"{refusing_port:032x}", "train/loss") == [1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(0), "FINISHED"),
        (SystemExit(2), "FAILED"),
        (SystemExit("params.yaml: no such file"), "FAILED"),
        (SystemExit(128 + signal.SIGTERM), "KILLED"),
    ],
)
def test_status_after_sys_exit(error: SystemExit, status: str) -> None:
    """128 + n is how a shell names the signal n."""
    assert _status_after(error) == status


def test_spool_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training continues untracked."""
    (tmp_path / "spool").write_text("a file, not a folder")
    with open_run("train", "b5" * 16, root=tmp_path, spool=tmp_path / "spool") as run:
        run.log(1, {"train/loss": 1.0})
        run.artifact(tmp_path / "spool")
    (warning,) = warnings(caplog)
    assert warning.startswith("tracking: this run is not recorded: _open: FileExistsError: ")
    assert f"{tmp_path / 'spool'}: file exists; move what is there away" in warning


@pytest.mark.slow
def test_server_that_dies_in_the_middle_of_a_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps arrive while the server lives; the others are replayed; each is stored once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--host 127.0.0.1 --port {port} --workers 1".split()
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, *options],
        cwd=store.root,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with monkeypatch.context() as remote:
            remote.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            remote.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.5")
            with open_run(
                "train", "a5" * 16, root=store.root, spool=store.spool, system_metrics=True
            ) as run:
                for step in range(50):
                    run.log(step, {"train/loss": float(step)})
                wait_until_stored(
                    store, "a5" * 16, {"train/loss", "system/cpu_utilization_percentage"}
                )
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                caplog.clear()  # it may have been slow to start
                for step in range(50, 100):
                    run.log(step, {"train/loss": float(step)})
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert "accepts no events now" in warnings(caplog)[-1]
    assert replay(store.spool, store.root) == 1 + 100 + 1
    assert store.steps("a5" * 16, "train/loss") == list(range(100))
    assert store.run("a5" * 16).info.status == "FINISHED"


def test_four_processes_create_the_database_at_once(tmp_path: Path) -> None:
    """As `dvc queue start -j 4` does in a fresh clone. The trainers never import mlflow."""
    store = Store(tmp_path)
    trainers = [
        run_script(
            store,
            f"with open_run('train', '{i}' * 32, root=ROOT, spool=SPOOL, wait_s=60) as run:\n"
            f"    run.log(1, {{'train/loss': {i}}})\n"
            "assert 'mlflow' not in sys.modules and 'torch' not in sys.modules\n",
        )
        for i in range(4)
    ]
    assert [trainer.communicate() for trainer in trainers] == [("", "")] * 4
    for i in range(4):
        assert store.run(str(i) * 32).data.metrics == {"train/loss": i}


@pytest.mark.slow
def test_model_is_registered_and_writes_text_and_the_best_one_has_the_alias(
    store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """`best` has the fewest bits per byte; a run has one version, even if evaluated repeatedly."""
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"<|endoftext|>"}
    Tokenizer(vocab, [], ["<|endoftext|>"]).save(tmp_path / "tokenizer")
    params = ModelParams(context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=16)
    save_model(tmp_path / "lm", TransformerLM(params, len(vocab)))
    greedy = SamplingParams(
        prompts=(), max_tokens=5, temperature=0.0, top_k=0, top_p=1.0, seed=0, num_samples=2
    )
    sampling = asdict(greedy)

    def log(fingerprint: str, *scores: float) -> None:
        with open_run(
            "train", fingerprint * 16, root=store.root, spool=store.spool, wait_s=0
        ) as run:
            for score in scores:
                run.model(tmp_path / "lm", tmp_path / "tokenizer", sampling, bits_per_byte=score)

    def best() -> ModelVersion:
        wait_until_sent(store.spool)
        return store.client.get_model_version_by_alias("lm", "best")

    log("a2", 1.5)  # in parallel, as queued experiments are
    log("a3", 1.3, 1.25)
    assert best().run_id == store.run("a3" * 16).info.run_id
    assert best().tags["bits_per_byte"] == "1.25"
    log("a4", 1.75)
    assert best().run_id == store.run("a3" * 16).info.run_id
    log("a2", 1.125)  # evaluated again
    assert best().run_id == store.run("a2" * 16).info.run_id
    assert len(store.client.search_model_versions("name = 'lm'")) == 3
    assert not [warning for warning in warnings(caplog) if "does not have all" not in warning]

    (logged,) = store.client.search_logged_models(
        [store.run("a2" * 16).info.experiment_id], f"source_run_id = '{best().run_id}'"
    )
    assert logged.artifact_location.startswith((store.root / "mlartifacts").as_uri())

    # from another folder: the registered model carries the code it needs
    script = (
        "import json, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model('models:/lm@best')\n"
        "print(json.dumps(model.predict(['Once upon a time', 'Tom'])))\n"
    )
    served = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": store.uri},
        capture_output=True,
        text=True,
    )
    assert served.returncode == 0, served.stderr
    model, tokenizer = load_model(tmp_path / "lm"), Tokenizer.load(tmp_path / "tokenizer")
    expected = generate_text(model, tokenizer, ["Once upon a time", "Tom"], greedy)
    assert json.loads(served.stdout) == [first for first, _ in expected]
