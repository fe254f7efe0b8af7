"""The tracker's side: send journals to MLflow, in a separate process.

Run: python -m lmlib.monitoring.tracking SPOOL [--journal NAME --trainer PID], from the root of
the repository, with MLFLOW_TRACKING_URI set. With a journal it follows that one until its trainer
has ended; without, it sends every journal that no process holds.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import posixpath
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

import mlflow.pyfunc
from filelock import Timeout
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

from lmlib.errors import is_about_threads
from lmlib.files import open_regular
from lmlib.monitoring.tracking.events import DAMAGED, RETRY, order, parse
from lmlib.monitoring.tracking.serving import SIGNATURE
from lmlib.monitoring.tracking.store import DatabaseError, Tracker
from lmlib.redaction import RedactingFormatter, redact

logger = logging.getLogger("lmlib.monitoring.tracking")

MAX_METRICS = 1000  # MLflow's limits for one log_batch
MAX_PARAMS = 100
FLUSH_EVERY_S = 2.0
POLL_EVERY_S = 0.1
MAX_PAUSE_S = 60.0  # between two tries at a tracker that does not answer
PATIENCE_S = 15.0  # at the end, with other processes that send this run or lock the database
# MLflow's errors for an event that it refuses every time; any other error may be temporary.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
# What lmlib imports to load a model and sample; MLflow's own inference of it takes seconds.
SERVING_NEEDS = (
    "torch",
    "numpy",
    "numba",
    "pandas",
    "psutil",
    "regex",
    "safetensors",
    "jaxtyping",
    "ruamel.yaml",
)
REGISTERED_NAME = "lm"
BEST = "best"


class Journal:
    """One journal on its way to MLflow: `read` what was appended, `send` what is pending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_regular(path, follow=False)
        self.rest = b""  # a line still being written
        self.lines = 0
        self.damage: list[str] = []
        self.pending: deque[dict[str, Any]] = deque()
        self.opening: dict[str, Any] = {}
        self.ended = False
        self.time_ms = 0  # of the last event
        self.run_id = ""  # "" while the run is not open
        self.parent_id = ""
        self.was_finished = False  # by an earlier journal
        self.last_step: dict[str, int] = {}
        self.steps: dict[str, set[int]] = {}  # all of a metric, once one came out of order
        self.tags: dict[str, str] = {}
        self.monitor: SystemMetricsMonitor | None = None

    def read(self) -> None:
        """Parse the lines appended since the last call."""
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        for line in lines:
            self._parse(line)

    def _parse(self, line: bytes) -> None:
        self.lines += 1
        line = line.strip(b"\0 ")  # a machine that lost power leaves zeros
        if not line:
            return
        try:
            event = parse(line)
        except ValueError as error:
            self.damage.append(f"line {self.lines}: {error}")
            return
        self.time_ms = event["time_ms"]
        self.ended |= event["kind"] == "end"
        if event["kind"] == "open":
            self.opening = event
        else:
            self.pending.append(event)

    def is_over(self, trainer: int) -> bool:
        """Read what was appended; return whether the run has ended or its trainer is gone."""
        is_gone = os.getppid() != trainer  # checked before reading, so nothing is missed
        self.read()
        return self.ended or is_gone

    def send(self, tracker: Tracker) -> None:
        """Send all pending events; after an exception those not confirmed are still pending."""
        try:
            if not self.run_id:
                self._open(tracker)
            while self.pending:
                count, metrics = self._next_metrics(tracker)
                try:
                    if count:
                        self._log_batches(tracker, self.run_id, metrics)
                    else:
                        count = 1
                        self._send_event(tracker, self.pending[0])
                except Exception as error:
                    if not _is_final(error):
                        raise
                    self.damage.append(f"MLflow refuses a part ({reason_of(error)})")
                for _ in range(count):
                    self.pending.popleft()
        except BaseException:
            self.run_id = ""  # ask again what the run holds: part of it may have arrived
            raise

    def close(self, tracker: Tracker) -> None:
        """End the run as KILLED if its process vanished, and remove the journal.

        A journal with damaged lines, or without its first, is set aside instead.
        """
        self._stop_monitor()
        if self.rest.strip(b"\0 "):
            self.damage.append(f"line {self.lines + 1}: cut off")
        if not self.opening and self.pending:
            self.damage.append("no event `open`")
        if self.opening and not self.ended:
            self._end(tracker, "KILLED", self.time_ms)
        self.file.close()
        if self.damage:
            more = f" and {len(self.damage) - 3} more" if len(self.damage) > 3 else ""
            rest = "the rest was sent" if self.opening else "nothing could be sent"
            set_aside(self.path, f"{', '.join(self.damage[:3])}{more}; {rest}")
            return
        shutil.rmtree(self.path.with_suffix(".files"), ignore_errors=True)
        self.path.unlink()

    def _end(self, tracker: Tracker, status: str, time_ms: int) -> None:
        """End the run; a damaged journal, which may be retried late, leaves a finished one so."""
        if self.damage and self.was_finished:
            status = "FINISHED"
        tracker.client.set_terminated(self.run_id, status, time_ms)

    def _stop_monitor(self) -> None:
        if self.monitor is not None:
            self.monitor.finish()

    def _open(self, tracker: Tracker) -> None:
        """Find or create the run, and learn which steps it holds."""
        client, opening = tracker.client, self.opening
        tags = opening["tags"] | {key: opening[key] for key in ("stage", "fingerprint")}
        if opening["parent"]:
            tags["parent_fingerprint"] = opening["parent"]
            parent = tracker.find(opening["experiment"], opening["parent"])
            if parent is not None:
                self.parent_id = tags["mlflow.parentRunId"] = parent.info.run_id
        if opening["dataset"]:
            digest = opening["dataset"]["digest"]
            tags["dataset_md5" if len(digest) == 32 else "dataset_sha256"] = digest
        run = tracker.find(opening["experiment"], opening["fingerprint"])
        if run is None:
            run = client.create_run(
                tracker.experiment_id(opening["experiment"]),
                opening["time_ms"],
                tags,
                run_name=opening["name"],
            )
        run_id = run.info.run_id
        self.was_finished |= run.info.status == "FINISHED"
        renamed = opening["name"] if "DVC_EXP_NAME" in tags else None
        client.update_run(run_id, "RUNNING", renamed)
        cut = {key: _cut(value, MAX_TAG_VAL_LENGTH) for key, value in tags.items()}
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in cut.items()])
        self._log_params(client, run, opening["params"])
        if opening["dataset"]:
            client.log_inputs(run_id, [_dataset_input(**opening["dataset"])])
        if opening["system_metrics"] and not self.ended:
            self._stop_monitor()  # its thread ends by itself when the tracker does not answer
            self.monitor = SystemMetricsMonitor(run_id, resume_logging=True)
            self.monitor.start()
        # _metric_objs: the public `metrics` has the last values, not their steps
        self.last_step = {metric.key: metric.step for metric in run.data._metric_objs}
        self.steps = {}
        self.tags = dict(run.data.tags)
        self.run_id = run_id

    def _log_params(self, client: MlflowClient, run: MlflowRun, params: dict[str, str]) -> None:
        """Log params that the run does not have; MLflow would raise on one that has changed."""
        new = {_name(key): _cut(value, MAX_PARAM_VAL_LENGTH) for key, value in params.items()}
        held = run.data.params
        changed = [key for key, value in new.items() if key in held and held[key] != value]
        if changed:
            logger.warning("run %s keeps its params %s", run.info.run_name, ", ".join(changed))
        items = [Param(key, value) for key, value in new.items() if key not in held]
        for start in range(0, len(items), MAX_PARAMS):
            client.log_batch(run.info.run_id, params=items[start : start + MAX_PARAMS])

    def _next_metrics(self, tracker: Tracker) -> tuple[int, list[Metric]]:
        """Return the number of `log` events at the front, and those of their metrics to store."""
        metrics: list[Metric] = []
        count = 0
        for event in self.pending:
            if event["kind"] != "log" or len(metrics) >= MAX_METRICS:
                break
            count += 1
            for name, value in event["metrics"].items():
                key, step = _name(name), event["step"]
                if step <= self.last_step.get(key, -1) and key not in self.steps:
                    history = tracker.client.get_metric_history(self.run_id, key)
                    self.steps[key] = {m.step for m in [*history, *metrics] if m.key == key}
                if key in self.steps and step in self.steps[key]:
                    continue
                self.last_step[key] = max(step, self.last_step.get(key, -1))
                self.steps.get(key, set()).add(step)
                metrics.append(Metric(key, value, event["time_ms"], step))
        return count, metrics

    def _log_batches(self, tracker: Tracker, run_id: str, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), MAX_METRICS):
            tracker.client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])

    def _send_event(self, tracker: Tracker, event: dict[str, Any]) -> None:
        client = tracker.client
        target = self.parent_id if event.get("on_parent") and self.parent_id else self.run_id
        match event["kind"]:
            case "summary":
                for run_id in {self.run_id, target}:
                    self._log_summary(tracker, run_id, event)
            case "non_finite":
                self._tag_non_finite(client, event)
            case "artifact":
                path = self._file(event["path"])
                if path.exists():  # else it was sent, and then removing the journal was interrupted
                    for run_id in dict.fromkeys((target, self.run_id)):
                        client.log_artifact(run_id, str(path), event["folder"] or None)
            case "model":
                files = {name: str(self._file(event[name])) for name in ("model", "tokenizer")}
                if Path(files["model"]).exists():
                    # where Model.log stores models
                    mlflow.set_experiment(
                        experiment_id=tracker.experiment_id(self.opening["experiment"])
                    )
                    _register(tracker, target, event | files)
            case "end":
                self._stop_monitor()
                self._end(tracker, event["status"], event["time_ms"])

    def _file(self, name: str) -> Path:
        """Return the path of a copy in the journal's own folder, wherever the spool is now."""
        folder = self.path.with_suffix(".files")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{name} is not in {folder}")
        for file in [path, *path.rglob("*")] if path.exists() else ():
            if not (file.is_file() or file.is_dir()) or not os.access(file, os.R_OK):
                raise ValueError(f"{file} cannot be read")
        return path

    def _log_summary(self, tracker: Tracker, run_id: str, event: dict[str, Any]) -> None:
        """Make the metrics of `event` the last values of the run, unless they already are."""
        held = {m.key: m for m in tracker.client.get_run(run_id).data._metric_objs}
        metrics = []
        for name, value in event["metrics"].items():
            key = _name(name)
            if key not in held or held[key].value != value:
                step = held[key].step if key in held else 0
                # of two values of a step, MLflow shows the later, and the clock may be set back
                after = held[key].timestamp + 1 if key in held else 0
                metrics.append(Metric(key, value, max(event["time_ms"], after), step))
        self._log_batches(tracker, run_id, metrics)

    def _tag_non_finite(self, client: MlflowClient, event: dict[str, Any]) -> None:
        """Add a metric to the tag `non_finite`, unless it is already there from before a resume."""
        places = [place for place in self.tags.get("non_finite", "").split(", ") if place]
        if event["name"] not in [place.split(" at step ")[0] for place in places]:
            at = "" if event["step"] is None else f" at step {event['step']}"
            self.tags["non_finite"] = ", ".join([*places, event["name"] + at])
            client.set_tag(self.run_id, "non_finite", self.tags["non_finite"])


def _is_final(error: Exception) -> bool:
    """Return whether every later try would fail too: such an event must not block the others."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    # network, disk, memory and threads may be there again later; a TypeError stays
    return not (isinstance(error, OSError | MemoryError) or is_about_threads(error))


def _is_lock(error: Exception) -> bool:
    """Return whether another process holds a local database."""
    is_remote = os.environ["MLFLOW_TRACKING_URI"].startswith(("http:", "https:"))
    return not is_remote and (isinstance(error, Timeout) or "locked" in str(error))


def _name(text: str) -> str:
    """Return `text` as a name that MLflow accepts."""
    return posixpath.normpath(re.sub(r"[^\w.\- :/]", "_", text)).strip("./")[:250] or "unnamed"


def _cut(text: str, length: int) -> str:
    """Return `text`, or as much of it as MLflow keeps, with a mark that it was cut."""
    mark = f" [cut: {len(text)} characters]"
    return text if len(text) <= length else text[: length - len(mark)] + mark


def _dataset_input(name: str, digest: str, source: str, context: str) -> DatasetInput:
    # MLflow takes 36 characters of a digest; the tag has all of it
    dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _register(tracker: Tracker, run_id: str, event: dict[str, Any]) -> None:
    """Register the model of `event` for the run, and move the alias `best` if it is better."""
    client, score = tracker.client, event["bits_per_byte"]
    of_run = client.search_model_versions(f"name = '{REGISTERED_NAME}' and run_id = '{run_id}'")
    if of_run:
        version = of_run[0].version
    else:
        here = Path(__file__)
        info = Model.log(
            artifact_path=None,
            name=REGISTERED_NAME,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            registered_model_name=REGISTERED_NAME,
            python_model=str(here.with_name("serving.py")),
            artifacts={"model": event["model"], "tokenizer": event["tokenizer"]},
            code_paths=[str(here.parents[2])],
            signature=SIGNATURE,
            model_config=event["sampling"],
            pip_requirements=[f"{name}=={version_of(name)}" for name in SERVING_NEEDS],
        )
        version = str(info.registered_model_version)
    if score is None:
        return
    client.set_model_version_tag(REGISTERED_NAME, version, "bits_per_byte", str(score))
    with tracker.lock:  # runs in parallel compare and move one at a time
        aliases = client.get_registered_model(REGISTERED_NAME).aliases
        best = float("inf")
        if BEST in aliases:
            holder = client.get_model_version(REGISTERED_NAME, aliases[BEST])
            best = float(holder.tags.get("bits_per_byte", "inf"))
        if score < best:
            client.set_registered_model_alias(REGISTERED_NAME, BEST, version)


def waiting(spool: Path, skip: str = "") -> Iterator[Path]:
    """Yield the journals in `spool`, oldest first, except the one named `skip`."""
    return (path for path in sorted(spool.glob("*.jsonl"), key=order) if path.name != skip)


def set_aside(path: Path, reason: str) -> None:
    """Rename a journal, so that it is not sent again until somebody asks for it."""
    aside = path.with_name(path.name + DAMAGED)
    try:
        path.rename(aside)
    except OSError as error:
        logger.warning("%s: %s; it cannot be set aside: %s", path, reason, error.strerror)
        return
    logger.warning(
        "%s: %s; it is set aside as %s: repair or delete it, then run `%s`, which sends it again",
        path,
        reason,
        aside.name,
        RETRY,
    )


def ship_left_over(path: Path, tracker: Tracker) -> bool:
    """Send the journal of a process that is gone; return False if another process holds it.

    One that cannot be sent is set aside. Raises what MLflow raises if it accepts nothing now.
    """
    try:
        journal = Journal(path)
    except FileNotFoundError:
        if path.is_symlink():
            set_aside(path, "it is a link to nothing")
        return True  # else another process has just sent it
    except OSError as error:
        set_aside(path, error.strerror or "not a file")
        return True
    with journal.file:
        try:
            fcntl.flock(journal.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if path.exists():
            journal.read()
            try:
                if journal.opening:
                    journal.send(tracker)
                journal.close(tracker)
            except Exception as error:
                if not _is_final(error):
                    raise
                set_aside(path, reason_of(error))
    return True


class Sender:
    """Sends one journal, once its turn has come, and tries as often as it takes.

    next_try:  the time.monotonic() of the earliest next try
    """

    def __init__(self, spool: Path, journal: Journal) -> None:
        self.spool = spool
        self.journal = journal
        self.tracker: Tracker | None = None
        self.failures = 0  # in a row
        self.next_try = 0.0

    def send(self, *, close: bool = False) -> Literal["sent", "busy", "locked", "failed"]:
        """Try once to send what is pending and, if `close`, to close the journal.

        "busy" means that another process is sending an earlier journal of this run or its parent;
        "locked", that another process holds the local database, which ends soon.
        """
        try:
            self.tracker = self.tracker or Tracker()
            is_ready = ready(self.spool, self.journal, self.tracker)
            if is_ready and self.journal.opening:
                self.journal.send(self.tracker)
            if is_ready and close:
                self.journal.close(self.tracker)
        except Exception as error:  # noqa: BLE001  # whatever the tracker's client raises
            is_refused = self.tracker is not None and _is_final(error)
            if is_refused and close:
                set_aside(self.journal.path, reason_of(error))
                return "sent"
            if not self.failures and not is_refused:
                report(error, self.spool)
            self.failures += 1
            self.next_try = time.monotonic() + min(2.0**self.failures, MAX_PAUSE_S)
            return "locked" if _is_lock(error) else "failed"
        self.next_try = time.monotonic() + FLUSH_EVERY_S
        if not is_ready:
            return "busy"
        self.failures = 0
        return "sent"


def follow(spool: Path, name: str, trainer: int) -> None:
    """Send the journal `name` while the process `trainer` writes it, and what is left at its end.

    The trainer waits for the rest to be sent. So a store that fails then is not tried again: a
    server may hang, and a full disk stays full. Other processes that send this run or lock a local
    database get PATIENCE_S. A journal that was not sent stays in the spool, for the next shipper.
    """
    journal = Journal(spool / name)
    with journal.file:
        sender = Sender(spool, journal)
        while not journal.is_over(trainer):
            if time.monotonic() >= sender.next_try:
                outcome = sender.send()
                if outcome == "failed" and journal.is_over(trainer):
                    return  # that try may have been slow, and the run ended meanwhile
            time.sleep(POLL_EVERY_S)

        deadline = time.monotonic() + PATIENCE_S
        while True:
            is_last_try = time.monotonic() > deadline
            outcome = sender.send(close=True)
            if outcome in ("sent", "failed"):
                return
            if is_last_try:
                if outcome == "busy":
                    logger.warning("another process is sending this run; %s waits", journal.path)
                return
            time.sleep(POLL_EVERY_S)


def ready(spool: Path, journal: Journal, tracker: Tracker) -> bool:
    """Send what earlier runs left; return False if this run or its parent is being sent."""
    if journal.run_id or not journal.opening:
        return True
    family = {journal.opening["fingerprint"][:16], (journal.opening["parent"] or "")[:16]} - {""}
    own = journal.path
    earlier = [path for path in waiting(spool, skip=own.name) if order(path) < order(own)]
    unsent, _ = ship_left_overs(earlier, tracker)
    return not any(f"-{member}-" in path.name for path in unsent for member in family)


def ship_left_overs(
    paths: Iterable[Path], tracker: Tracker
) -> tuple[list[Path], MlflowException | None]:
    """Send journals; return those that others hold or MLflow does not accept now, and its error.

    An error of MLflow may be about one journal, which must not block the others. It is raised if
    MLflow does not answer at all.
    """
    unsent: list[Path] = []
    failure: MlflowException | None = None
    for path in paths:
        try:
            is_sent = ship_left_over(path, tracker)
        except MlflowException as error:
            if _is_lock(error):
                raise
            tracker.client.search_experiments(max_results=1)
            failure, is_sent = error, False
        if not is_sent:
            unsent.append(path)
    return unsent, failure


def ship_all(spool: Path) -> None:
    """Send every journal in `spool` that nobody holds."""
    try:
        _, failure = ship_left_overs(waiting(spool), Tracker())
        if failure:
            raise failure
    except Exception as error:  # noqa: BLE001  # whatever the tracker's client raises
        report(error, spool)


def reason_of(error: Exception) -> str:
    """Return an error in one line, without secrets, which a cut could hide from the formatter."""
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


def report(error: Exception, spool: Path) -> None:
    """Log one line about a store that does not accept events."""
    later = f"nothing is lost: events wait in {spool}, and the next stage or `{RETRY}` sends them"
    if isinstance(error, DatabaseError):
        logger.warning("%s; %s", error, later)
    else:
        uri = os.environ["MLFLOW_TRACKING_URI"]
        logger.warning("MLflow at %s accepts no events now; %s (%s)", uri, later, reason_of(error))


def main() -> None:
    """Parse the command line, send, and write problems to stderr, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spool", type=Path)
    parser.add_argument("--journal")
    parser.add_argument("--trainer", type=int)
    arguments = parser.parse_args()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logger.addHandler(handler)
    logging.raiseExceptions = False  # stderr may have gone with the trainer
    os.nice(5)  # training has priority
    # hide MLflow's own output (progress bars, notices, tracebacks of errors it also raises)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        if arguments.journal:
            follow(arguments.spool, arguments.journal, arguments.trainer)
        else:
            ship_all(arguments.spool)
