"""Serve the MLflow UI for the runs of this repository, and open the table of runs, until Ctrl-C.

Run:    make ui   (by hand, from the repository root: python -m stages.ui --port 5001)
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from typing import Any

from lmlib.monitoring.tracking import LOCAL_URI, experiment_name, tracking_uri, without_proxy
from lmlib.redaction import redact
from stages.cli import run_stage, say
from stages.paths import root

logger = logging.getLogger(__name__)

API = "api/2.0/mlflow/experiments"
VIEW = "scores"
ANSWER_S = 10.0
START_S = 300.0  # a cold start on a busy machine takes a minute
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine, no proxy
# By default the table shows neither scores nor parameters. MLflow keeps this view in a tag of the
# experiment, and the page starts with it each time.
COLUMNS = [
    "metrics.`scores/bits_per_byte`",
    "metrics.`scores/loss`",
    "metrics.`loss/train`",
    "params.`model.parameters`",
    "params.`train.num_steps`",
    "params.`train.batch_size`",
    "params.`optim.lr`",
]
CHARACTER_PX, MARGIN_PX = 8, 40  # of a column's head, so that its whole name fits


def main() -> None:
    """Serve MLFLOW_TRACKING_URI, or the database of this repository."""
    parser = argparse.ArgumentParser(prog="python -m stages.ui", description="Serve the MLflow UI.")
    parser.add_argument("--port", type=_port, default=5000, metavar="PORT")
    port = parser.parse_args().port
    uri = tracking_uri(root())
    if uri.startswith(("http://", "https://")):
        say(f"the runs are on a tracking server: open {redact(uri)}\n")
        return
    address = f"http://127.0.0.1:{port}"
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(ANSWER_S)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise OSError(f'port {port} is in use; take another: make ui ARGS="--port {port + 1}"')
    # without job execution the server starts in a third of the time
    defaults = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings = without_proxy({**defaults, **os.environ})
    # not among the arguments, where other users would see a password
    settings["MLFLOW_BACKEND_STORE_URI"] = os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_URI
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1"]  # for one person
    command += ["--uvicorn-opts", "--log-level warning"]  # no line for each request
    say("starting MLflow, which takes a few seconds (on a busy machine, a minute)\n")
    _prepare(settings["MLFLOW_BACKEND_STORE_URI"])
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as after nohup
            signal.signal(signum, lambda number, _: sys.exit(128 + number))
    with subprocess.Popen(
        command,
        cwd=root(),
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # out of reach of Ctrl-C, at which it prints tracebacks
    ) as server:
        told = _Told(server)
        try:
            table = _runs_table(address, server)
            told.begin()
            say(f"Ctrl-C stops the server; its page is\n{table}\n")
            if sys.platform == "darwin" or os.environ.get("DISPLAY"):  # there is a desktop
                webbrowser.open(table)
            server.wait()
        except OSError:
            told.all()
            raise
        finally:
            told.end()
            stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server that leads a session of its own, and what it has started."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(ANSWER_S)


class _Told:
    """What the server writes: passed on to stderr from `begin` on, and before that kept."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        self.lines = server.stdout
        self.kept: list[str] = []
        self.is_ready = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for line in self.lines:
            text = redact(line.decode("utf-8", "replace"))
            if self.is_ready:
                sys.stderr.write(text)
            else:
                self.kept.append(text)

    def begin(self) -> None:
        """Pass on what comes from now on: before, it is notices and warnings about itself."""
        self.is_ready = True

    def end(self) -> None:
        """Keep what comes from now on, which is about its end."""
        self.is_ready = False

    def all(self) -> None:
        """Show what was kept, since the server does not answer."""
        self.thread.join(1.0)
        sys.stderr.write("".join(self.kept))


def _prepare(uri: str) -> None:
    """Make or check a local database, which the server would do with tracebacks."""
    from lmlib.monitoring.tracking.store import database_of, prepare  # imports MLflow: seconds

    if (database := database_of(uri, root())) is not None:
        prepare(database)


def _port(text: str) -> int:
    """Return a port number; raise ArgumentTypeError for anything else."""
    if not text.isdecimal() or not 0 < int(text[:9]) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def _runs_table(address: str, server: subprocess.Popen[bytes]) -> str:
    """Return the page of the runs once the server answers; raise OSError if it does not."""
    name = urllib.parse.quote(experiment_name(makes_model=True))
    deadline = time.monotonic() + START_S
    while server.poll() is None:
        if time.monotonic() > deadline:
            raise OSError(
                f"{address}: the MLflow server has not answered for {START_S:g} s; try another "
                "--port, or see `mlflow server --help`"
            )
        try:
            answer = _ask(f"{address}/{API}/get-by-name?experiment_name={name}")
            break
        except urllib.error.HTTPError as error:
            if error.code == 404:  # it runs, but no model was trained yet
                return address
            raise
        except OSError:  # it is still starting
            time.sleep(0.2)
    else:
        raise OSError(f"the MLflow server ended with status {server.returncode}; see above")
    experiment = answer["experiment"]
    page = f"{address}/#/experiments/{experiment['experiment_id']}/runs"
    page += "?workflowType=machine_learning"
    try:
        _add_view(address, experiment)
    except OSError as error:  # a run may have locked the database
        logger.warning("the table shows MLflow's default columns: %s", error)
        return page
    return f"{page}&viewStateShareKey={VIEW}"


def _add_view(address: str, experiment: dict[str, Any]) -> None:
    """Add the view to an experiment, unless it has one, which the user may have edited."""
    key = f"mlflow.sharedViewState.{VIEW}"
    if key not in [tag["key"] for tag in experiment.get("tags", [])]:
        names = {column: column.split("`")[1] for column in COLUMNS}
        widths = {column: MARGIN_PX + CHARACTER_PX * len(name) for column, name in names.items()}
        state = {"selectedColumns": COLUMNS, "columnOrder": COLUMNS, "columnWidths": widths}
        tag = {"key": key, "value": json.dumps(state)}
        found = {"experiment_id": experiment["experiment_id"]}
        _ask(f"{address}/{API}/set-experiment-tag", found | tag)


def _ask(url: str, body: dict[str, str] | None = None) -> Any:
    """Return what the server answers to GET, or to POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with _DIRECT.open(request, timeout=ANSWER_S) as answer:
        return json.load(answer)


if __name__ == "__main__":
    run_stage(main)
