"""What a user finds in MLflow after the pipeline has run, and sees in its pages."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from lmlib.tracking import flatten
from tests.browser import Browser, open_browser
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline
LINES = "document.querySelectorAll('path.js-line').length"


@pytest.fixture(scope="module")
def client(project: Project) -> MlflowClient:
    uri = f"sqlite:///{project.folder}/mlflow.db"
    return MlflowClient(uri, uri)


@pytest.fixture(scope="module")
def trained(project: Project, client: MlflowClient) -> Run:
    """The run of the model that `dvc repro` has trained."""
    experiment = client.get_experiment_by_name("lm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train'")
    return run


def test_params_of_all_sections_that_made_the_model(project: Project, trained: Run) -> None:
    """The row says from which text and tokenizer, too; how it is sampled belongs to its child."""
    values = flatten(YAML(typ="safe").load(project.folder / "params.yaml"))
    made_by = {name for name in values if not name.startswith(("evaluation.", "sampling."))}
    # names without a dot are MLflow's: the `model_config` of the registered model
    dotted = {name for name in trained.data.params if "." in name}
    assert dotted == made_by | {"model.parameters"}
    assert trained.data.params["corpus.source"] == "toystories"
    assert trained.data.params["tokenizer.vocab_size"] == "512"
    assert float(trained.data.params["optim.lr"]) == values["optim.lr"]


def test_data_has_the_name_that_dvc_gives_it(project: Project, trained: Run) -> None:
    """`data_md5` is what dvc.lock says of data/tokens, so that the cache can be asked for it."""
    lock = YAML(typ="safe").load(project.folder / "dvc.lock")
    (tokens,) = lock["stages"]["encode"]["outs"]
    assert tokens["path"] == "data/tokens"
    assert trained.data.tags["data_md5"] == tokens["md5"]


def test_artifacts(trained: Run, client: MlflowClient) -> None:
    def names(folder: str) -> set[str]:
        return {file.path for file in client.list_artifacts(trained.info.run_id, folder)}

    assert names("curves") == {f"curves/{name}.csv" for name in ("train", "valid", "position")}
    assert names("samples") == {"samples/samples.md"}
    assert "params.yaml" in names("")


def test_registered_model_writes_text(
    project: Project, trained: Run, client: MlflowClient, tmp_path: Path
) -> None:
    """By its alias, from a folder without the code of the project."""
    assert client.get_model_version_by_alias("lm", "best").run_id == trained.info.run_id
    script = (
        "import json, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model('models:/lm@best')\n"
        "print(json.dumps(model.predict(['Once upon a time'])))\n"
    )
    elsewhere = Project(tmp_path)
    elsewhere.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{project.folder}/mlflow.db"
    (text,) = json.loads(elsewhere.run("python", "-c", script).splitlines()[-1])
    assert text
    assert f"**Once upon a time**{text.splitlines()[0]}" in (
        project.folder / "models/samples.md"
    ).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table(project: Project) -> Iterator[str]:
    """The address that `make ui` prints."""
    with socket.socket() as probe:  # a port that was free a moment ago
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        ["python", "-m", "stages.ui", "--port", str(port)],
        cwd=project.folder,
        env=project.env | {"DISPLAY": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        found = None
        for line in server.stdout:
            if found := re.match(r"open (\S+) in a browser", line):
                break
        assert found, "stages.ui ended"
        yield found[1]
        server.terminate()


def test_ui_says_that_its_port_is_taken(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        output = project.run("python", "-m", "stages.ui", "--port", port, status=1)
    assert f"port {port} is taken by another program; take another with --port" in output


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as browser:
        yield browser


def says(text: str) -> str:
    return f"document.body.innerText.includes({json.dumps(text)})"


def test_pages_of_the_ui(browser: Browser, table: str, trained: Run) -> None:
    """The table has the run, the chart of the loss its line, the artifact its text."""
    assert "/runs?workflowType=machine_learning" in table
    browser.open(table)
    name = trained.info.run_name
    assert name
    browser.wait_for(says(name))

    experiment, run = trained.info.experiment_id, trained.info.run_id
    server = table.partition("#")[0]
    chart = {"runs": [run], "experiments": [experiment], "metric": "train/loss"}
    chart |= {"plot_metric_keys": ["train/loss"]}
    query = "&".join(f"{key}={json.dumps(value)}" for key, value in chart.items())
    browser.open(f"{server}#/metric?{query}")
    browser.wait_for(LINES)
    browser.wait_for(says(f"{trained.data.metrics['train/loss']} (step=20)"))

    browser.open(f"{server}#/experiments/{experiment}/runs/{run}/artifacts/samples/samples.md")
    browser.wait_for(says("Once upon a time"))
