"""What a user finds in MLflow, and sees on its pages, after the pipeline has run."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from lmlib.evaluation.samples import quoted
from lmlib.files import sha256_file
from lmlib.monitoring.tracking import flatten
from stages import ui
from tests.browser import Browser, open_browser
from tests.pipeline.conftest import Project
from tests.pipeline.imports import ROOT

pytestmark = pytest.mark.pipeline
LINES = "document.querySelectorAll('path.js-line').length"


@pytest.fixture(scope="module")
def client(project: Project) -> MlflowClient:
    uri = f"sqlite:///{project.folder}/mlflow.db"
    return MlflowClient(uri, uri)


@pytest.fixture(scope="module")
def trained(project: Project, client: MlflowClient) -> Run:
    """The run of the model that `dvc repro` trained."""
    experiment = client.get_experiment_by_name("lm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train'")
    return run


@pytest.fixture(scope="module")
def evaluated(client: MlflowClient, trained: Run) -> Run:
    """The run of its evaluation."""
    (run,) = client.search_runs(
        [trained.info.experiment_id], f"tags.`mlflow.parentRunId` = '{trained.info.run_id}'"
    )
    return run


def test_params_of_all_sections(project: Project, trained: Run, evaluated: Run) -> None:
    """The row also names the text and the tokenizer; sampling params belong to its child."""
    values = flatten(YAML(typ="safe").load(project.folder / "params.yaml"))
    # names without a dot are MLflow's: the `model_config` of the registered model
    of_model = {name for name in trained.data.params if "." in name}
    of_child = evaluated.data.params.keys()
    assert of_model - values.keys() == {"model.parameters"}
    assert {name for name in of_child if name.startswith(("evaluation.", "sampling."))} == of_child
    of_both = of_model | of_child
    assert of_both == values.keys() - {"train.sample_every"} | {"model.parameters"}
    assert not of_model & of_child
    assert trained.data.params["corpus.source"] == "toystories"
    assert trained.data.params["tokenizer.vocab_size"] == "512"
    assert float(trained.data.params["optim.lr"]) == values["optim.lr"]
    assert float(evaluated.data.params["sampling.temperature"]) == values["sampling.temperature"]


def test_data_has_the_name_that_dvc_gives_it(project: Project, trained: Run) -> None:
    """`data_md5` is the hash of data/tokens in dvc.lock, so the data can be found in the cache."""
    lock = YAML(typ="safe").load(project.folder / "dvc.lock")
    (tokens,) = lock["stages"]["encode"]["outs"]
    assert tokens["path"] == "data/tokens"
    assert trained.data.tags["data_md5"] == tokens["md5"]


def test_dataset(project: Project, trained: Run) -> None:
    """The tokens that were trained on; MLflow accepts 36 characters of a digest."""
    assert trained.inputs is not None
    (used,) = trained.inputs.dataset_inputs
    digest = sha256_file(project.folder / "data/tokens/train/index.json")
    assert (used.dataset.name, used.dataset.digest) == ("tokens", digest[:36])
    assert json.loads(used.dataset.source) == {"uri": "data/tokens/train"}


def test_artifacts(project: Project, trained: Run, client: MlflowClient, tmp_path: Path) -> None:
    """Copies of what the pipeline wrote, and of the parameters used."""
    copies = Path(client.download_artifacts(trained.info.run_id, "", str(tmp_path)))
    files = {"params.yaml": "params.yaml", "samples/samples.md": "models/samples.md"}
    files |= {"samples/while_training.md": ""}  # of which the workspace has no copy
    files |= {f"curves/{x}.csv": f"models/plots/{x}.csv" for x in ("train", "valid", "position")}
    found = [path for path in copies.rglob("*") if path.is_file()]
    assert {path.relative_to(copies).as_posix() for path in found} == files.keys()
    for copy, original in files.items():
        if original:
            assert (copies / copy).read_bytes() == (project.folder / original).read_bytes()


def test_samples_while_training(trained: Run, client: MlflowClient, tmp_path: Path) -> None:
    """A continuation at steps 10 and 20, the newest first."""
    page = client.download_artifacts(
        trained.info.run_id, "samples/while_training.md", str(tmp_path)
    )
    text = Path(page).read_text(encoding="utf-8")
    assert re.findall(r"^## Step (\d+)\n\n> \*\*Once upon a time\*\*", text, re.M) == ["20", "10"]


@pytest.mark.slow
def test_registered_model_writes_text(
    project: Project, trained: Run, client: MlflowClient, tmp_path: Path
) -> None:
    """By its alias, from a folder without the project's code."""
    best = client.get_model_version_by_alias("lm", "best")
    assert best.run_id == trained.info.run_id
    scores = json.loads((project.folder / "models/metrics/evaluate.json").read_text())
    assert float(best.tags["bits_per_byte"]) == scores["bits_per_byte"]
    script = (
        "import json, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model('models:/lm@best')\n"
        "print(json.dumps(model.predict(['Once upon a time'])))\n"
    )
    elsewhere = Project(tmp_path)
    elsewhere.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{project.folder}/mlflow.db"
    (text,) = json.loads(elsewhere.run("python", "-c", script).splitlines()[-1])
    assert text
    (first, *_) = text.split("\n")
    assert f"**Once upon a time**{quoted(first)}" in (
        project.folder / "models/samples.md"
    ).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(project: Project) -> Iterator[str]:
    """The address of the model, served as README says."""
    with socket.socket() as probe:  # a port that was free a moment ago
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = "mlflow models serve -m models:/lm@best --env-manager local"
    with subprocess.Popen(
        [*command.split(), "--port", port],
        cwd=project.folder,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            start = time.monotonic()
            while not answers(f"http://127.0.0.1:{port}/ping"):
                assert server.poll() is None, "mlflow models serve ended"
                assert time.monotonic() - start < 240  # only ends a broken test
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            server.terminate()


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=1).ok
    except requests.RequestException:
        return False


@pytest.mark.slow
def test_the_registered_model_is_served(project: Project, served: str) -> None:
    """Lists and tables of prompts; what a call does not set is that of params.yaml."""
    prompt = "Once upon a time"
    arguments = ("--json", "--prompt", prompt, "--max-tokens", "9", "--top-p", "0.9", "--seed", "4")
    line = project.run("python", "-m", "stages.sample", *arguments, "--num-samples", "1")
    text = json.loads(line.splitlines()[-1])["text"]
    params = {"max_tokens": 9, "top_p": 0.9, "seed": 4}
    for asked in (
        {"inputs": [prompt]},
        {"dataframe_split": {"columns": ["prompt"], "data": [[prompt]]}},
        {"dataframe_records": [{"prompt": prompt}]},
    ):
        answer = requests.post(served, json={**asked, "params": params}, timeout=60)
        assert answer.json() == {"predictions": [text]}

    refused = requests.post(served, json={"inputs": ["a"], "params": {"top_p": 2.0}}, timeout=60)
    assert refused.status_code == 400
    assert "params: top_p is 2.0; it must be" in refused.json()["message"]


@pytest.fixture(scope="module")
def table(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address that `make ui` prints; Ctrl-C then ends all of it, without a traceback."""
    with socket.socket() as probe:  # a port that was free a moment ago
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("ui")
    printed, errors = folder / "stdout", folder / "stderr"
    with (
        printed.open("w") as file,
        errors.open("w") as error_file,
        subprocess.Popen(
            ["python", "-m", "stages.ui", "--port", port],
            cwd=project.folder,
            env=project.env | {"DISPLAY": "", "http_proxy": "http://127.0.0.1:9"},  # nobody
            stdout=file,
            stderr=error_file,
            start_new_session=True,
        ) as server,
    ):
        try:
            start = time.monotonic()
            while not (found := re.search(r"^(http\S+)$", printed.read_text(), re.M)):
                assert server.poll() is None, "stages.ui ended"
                assert time.monotonic() - start < 240  # only ends a broken test
                time.sleep(0.1)
            yield found[1]
        finally:
            os.killpg(server.pid, signal.SIGINT)  # as a terminal sends Ctrl-C: to all of them
    assert server.returncode == 130
    assert "Traceback" not in errors.read_text(encoding="utf-8")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()


def test_ui_tells_what_the_server_said_if_it_does_not_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without that, only what comes once it answers: before, it has warnings about itself."""
    code = "echo about itself; read go; echo a request failed >&2"
    with subprocess.Popen(
        ["sh", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        told = ui._Told(server)
        while not told.kept:
            time.sleep(0.01)
        told.begin()
        assert server.stdin
        server.stdin.write(b"\n")
        server.stdin.close()
        told.thread.join()
        assert capsys.readouterr().err == "a request failed\n"
        told.all()
        assert capsys.readouterr().err == "about itself\n"


def test_ui_says_that_its_port_is_taken(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        output = project.run("python", "-m", "stages.ui", "--port", port, status=1)
    assert f"port {port} is in use; take another: make ui ARGS=" in output


class Answering(BaseHTTPRequestHandler):
    """A server that answers every request with its path."""

    def do_GET(self) -> None:
        content = json.dumps(self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_ui_asks_no_proxy_for_an_address_of_this_machine(tmp_path: Path) -> None:
    """Urllib reads the proxy when it is first used, so this needs a process of its own."""
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import sys; from stages import ui; print(ui._ask(sys.argv[1]), "
        "ui.urllib.request.getproxies())"
    )
    elsewhere = Project(tmp_path)
    elsewhere.env |= {"http_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    address = f"http://127.0.0.1:{server.server_port}/x"
    output = elsewhere.run("python", "-c", script, address)
    server.shutdown()
    server.server_close()
    assert output.startswith("/x {'http': 'http://127.0.0.1:9'")


def test_ui_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "START_S", 0.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as hanging,
        subprocess.Popen(["sleep", "600"]) as server,
    ):
        monkeypatch.setattr("time.monotonic", iter((0.0, 1.0)).__next__)
        address = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with pytest.raises(
            OSError, match="the MLflow server has not answered for 0 s; try another"
        ):
            ui._runs_table(address, server)
        server.kill()


def run_ui(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("sys.argv", ["ui", "--port", "1"])
    ui.main()


def test_ui_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_ui(monkeypatch, "http://user:PW@host:5000/mlflow?token=PW")
    assert "open http://***@host:5000/mlflow" in (shown := capsys.readouterr().out)
    assert "PW" not in shown


def test_ui_names_a_database_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=f"{tmp_path}: a folder, where MLflow's database belongs"):
        run_ui(monkeypatch, f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("port", ["x", "0", "70000", "-1", "9" * 5000])
def test_ui_names_a_wrong_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    monkeypatch.setattr("sys.argv", ["ui", f"--port={port}"])
    with pytest.raises(SystemExit):
        ui.main()
    assert "is not a number from 1 to 65535" in capsys.readouterr().err


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as browser:
        yield browser


def says(text: str) -> str:
    return f"document.body.innerText.includes({json.dumps(text)})"


def test_columns_of_the_table_are_there(trained: Run) -> None:
    named = [column.replace("`", "").split(".", 1) for column in ui.COLUMNS]
    assert [name for kind, name in named if name not in getattr(trained.data, kind)] == []


def test_columns_are_as_wide_as_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """And in the order of COLUMNS, scores first."""
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(ui, "_ask", lambda _, body: asked.append(body))
    ui._add_view("", {"experiment_id": "1"})
    state = json.loads(asked[0]["value"])
    assert state["columnOrder"] == state["selectedColumns"] == ui.COLUMNS
    assert state["columnWidths"].keys() == set(ui.COLUMNS)
    assert state["columnWidths"]["metrics.`scores/bits_per_byte`"] == 40 + 8 * 20


def test_a_view_that_was_changed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(ui, "_ask", lambda _, body: asked.append(body))
    ui._add_view("", {"experiment_id": "1"})
    (tag,) = asked
    ui._add_view("", {"experiment_id": "1", "tags": [{"key": tag["key"], "value": "{}"}]})
    assert asked == [tag]


@pytest.mark.slow
def test_pages_of_the_ui(browser: Browser, table: str, project: Project, trained: Run) -> None:
    """The table has the run and its score, the loss chart has a line, the samples are shown.

    The page of the run begins with the loss, and evaluation's bars are below the curves.
    """
    assert "/runs?workflowType=machine_learning" in table
    browser.open(table)
    name = trained.info.run_name
    assert name
    browser.wait_for(says(name))
    browser.wait_for(says("scores/bits_per_byte"))
    browser.wait_for(says(str(trained.data.metrics["scores/bits_per_byte"])))

    experiment, run = trained.info.experiment_id, trained.info.run_id
    server = table.partition("#")[0]
    chart = {"runs": [run], "experiments": [experiment], "metric": "loss/train"}
    chart |= {"plot_metric_keys": ["loss/train"]}
    query = "&".join(f"{key}={json.dumps(value)}" for key, value in chart.items())
    browser.open(f"{server}#/metric?{query}")
    browser.wait_for(LINES)
    browser.wait_for(says(f"{trained.data.metrics['loss/train']} (step=20)"))

    browser.open(f"{server}#/experiments/{experiment}/runs/{run}/model-metrics")
    browser.wait_for(says("scores\n("))
    page = browser.value("document.body.innerText")
    found = re.findall(r"^(\w+)\n\(\d+\)$", page, re.MULTILINE)
    assert found == ["loss", "optim", "performance", "scores"]

    browser.open(f"{server}#/experiments/{experiment}/runs/{run}/artifacts/samples/samples.md")
    samples = (project.folder / "models/samples.md").read_text(encoding="utf-8")
    (scores,) = [line for line in samples.splitlines() if line.startswith("Validation loss")]
    browser.wait_for(says(scores))
    browser.wait_for(says("Once upon a time"))
