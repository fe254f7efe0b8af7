"""The trainer's side of tracking: append events to a journal, and start the process that ships it.

The first event of a journal is `open`; its last is `end` if all went well. It is locked (flock)
while its trainer or that trainer's shipper lives, so that no other process ships it meanwhile.
"""

import fcntl
import functools
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from _thread import LockType
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import lmlib
from lmlib.errors import describe
from lmlib.files import open_regular, sync
from lmlib.monitoring.tracking.events import DAMAGED, RETRY, order
from lmlib.redaction import redact
from lmlib.threads import start_thread

logger = logging.getLogger(__name__)
P = ParamSpec("P")

# MLflow's defaults wait up to 245 s for a dead server; the shipper retries by itself.
SHIPPER_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


QUIET_S = 2.0  # how long a run waits for the shipper without a word
LOCAL_URI = "sqlite:///mlflow.db"


@dataclass(frozen=True)
class Dataset:
    """What a run learns from: its name, the hex md5 or sha256 of its bytes, and its path."""

    name: str
    digest: str
    source: str
    context: str = "training"


def never_raises(
    method: "Callable[Concatenate[Run, P], None]",
) -> "Callable[Concatenate[Run, P], None]":
    """Wrap a method of Run so that its errors are logged, once per run, and training continues."""

    @functools.wraps(method)
    def wrapper(self: "Run", *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # no tracker call may fail a run
            what = "" if self._fd is not None else "this run is not recorded: "
            self._warn(f"{what}{method.__name__}: {type(error).__name__}: {describe(error)}")

    return wrapper


class Run:
    """An open run. Its methods return at once and never raise: errors become one warning."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._journal = spool  # its path, once it is open
        self._fd: int | None = None  # None: no journal is open, so nothing is recorded
        self._unwritten = b""  # what a full disk did not take; tried again with the next event
        self._files = 0
        self._non_finite: set[str] = set()
        self._warned = False
        self._relay: LockType | None = None  # free once the shipper has ended

    @never_raises
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record `metrics` at `step`; the steps of a metric must not decrease.

        A step that the run already holds (after a resume) is stored once. Values that are not
        finite are not stored, because MLflow would write infinity as 1.8e308; the tag
        `non_finite` names each such metric and the step at which it first was.
        """
        finite = {}
        for name, value in metrics.items():
            try:
                number = float(value)
            except (TypeError, ValueError, RuntimeError):
                self._warn(f"log: {name} at step {step} is {value!r:.80}, which is not a number")
                continue
            if math.isfinite(number):
                finite[name] = number
            elif name not in self._non_finite:
                self._non_finite.add(name)
                self._append("non_finite", name=name, step=int(step))
        if finite:
            self._append("log", step=int(step), metrics=finite)

    @never_raises
    def summary(self, metrics: Mapping[str, float], *, on_parent: bool = False) -> None:
        """Record final `metrics`, on the parent run too if `on_parent`.

        A value replaces an earlier one in the runs table. Use names that no curve has, such as
        `scores/loss`: under the name of a curve, a value would add a point to it.
        """
        numbers = {name: float(value) for name, value in metrics.items()}
        for name in [name for name, value in numbers.items() if not math.isfinite(value)]:
            del numbers[name]
            self._append("non_finite", name=name, step=None)
        self._append("summary", metrics=numbers, on_parent=on_parent)

    @never_raises
    def artifact(self, path: str | Path, folder: str = "", *, on_parent: bool = False) -> None:
        """Store a copy of the file `path` as an artifact, in `folder` of the run.

        The copy of a YAML file is without the secrets of the addresses in it. With `on_parent`,
        store it in the parent run too, replacing an artifact of that name.
        """
        self._append("artifact", path=self._keep(path), folder=folder, on_parent=on_parent)

    @never_raises
    def model(
        self,
        model_folder: str | Path,
        tokenizer_folder: str | Path,
        sampling: Mapping[str, Any],
        *,
        bits_per_byte: float | None = None,
        on_parent: bool = False,
    ) -> None:
        """Register a copy of the model as a new version of `lm`, an MLflow pyfunc.

        `sampling` holds the fields of SamplingParams that it generates text with. The alias
        `best` moves to it when its `bits_per_byte` of the validation text is the lowest of all
        versions. A run has one version: a second call changes only its `bits_per_byte`.
        """
        self._append(
            "model",
            model=self._keep(model_folder),
            tokenizer=self._keep(tokenizer_folder),
            sampling=dict(sampling),
            bits_per_byte=bits_per_byte,
            on_parent=on_parent,
        )

    def _keep(self, path: str | Path) -> str:
        """Copy `path`, since it may change or vanish; return where, in the journal's folder."""
        if self._fd is None:
            return ""
        path = Path(path).resolve()
        name = f"{self._files}/{path.name}"
        copy = self._journal.with_suffix(".files") / name
        self._files += 1
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy)
        elif path.suffix in (".yaml", ".yml"):
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            copy.write_text(redact(text), encoding="utf-8", errors="surrogateescape")
        else:
            shutil.copy2(path, copy)
        return name

    @never_raises
    def sync(self) -> None:
        """Bring what was recorded to the disk, before a state is saved that relies on it.

        Without it, a run that resumes from the state after a power cut would lack these points.
        """
        if self._fd is not None:
            os.fsync(self._fd)

    def _append(self, kind: str, **fields: Any) -> None:
        if self._fd is not None:
            event = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}
            self._unwritten += json.dumps(_redacted(event)).encode() + b"\n"
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("tracking: %s; later errors of this run are not reported", redact(text))
        self._warned = True

    @never_raises
    def _open(self, opening: dict[str, Any], root: Path) -> None:
        """Create the journal, lock it, write its first event and start its shipper."""
        self._spool.mkdir(parents=True, exist_ok=True)
        number = 1 + max((order(path)[0] for path in self._spool.iterdir()), default=0)
        self._journal = (
            self._spool / f"{number:06d}-{opening['fingerprint'][:16]}-{os.getpid()}.jsonl"
        )
        # other shippers see it once it is locked: an empty one that nobody holds they would remove
        new = self._journal.with_suffix(".new")
        self._fd = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._append("open", **opening)
        new.rename(self._journal)
        sync(self._spool)
        command = [str(self._spool), "--journal", self._journal.name]
        command += ["--trainer", str(os.getpid())]
        shipper = _start_shipper(command, root, keep_open=self._fd)
        self._relay = start_thread(functools.partial(_relay_warnings, shipper))

    @never_raises
    def _close(self, status: str, wait_s: float) -> None:
        """Write the last event and wait, at most `wait_s`, until the shipper is done."""
        try:
            self._append("end", status=status)
            self.sync()
        finally:
            if self._fd is not None:
                os.close(self._fd)  # the shipper keeps the lock
                self._fd = None
        if self._relay is None or self._relay.acquire(timeout=min(QUIET_S, wait_s)):
            return
        if wait_s > QUIET_S:
            logger.info("waiting for MLflow to store the run, at most %.0f s", wait_s)
        if not self._relay.acquire(timeout=max(0.0, wait_s - QUIET_S)):
            logger.warning(
                "tracking: MLflow does not have all of %s yet; it is being sent, and what is left "
                "then is sent by the next stage or `%s`",
                self._journal,
                RETRY,
            )


@contextmanager
def open_run(
    stage: str,
    fingerprint: str,
    *,
    root: str | Path,
    spool: str | Path,
    params: Mapping[str, Any] | None = None,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    dataset: Dataset | None = None,
    makes_model: bool = True,
    system_metrics: bool = False,
    wait_s: float = 20.0,
) -> Iterator[Run]:
    """Open the run of `fingerprint`: a new one, or that of an interrupted process.

    root      folder of the local store, see `tracking_uri`
    spool     folder of the journals, on this machine; it outlives the process and is not an out
    params    flat, see `flatten`
    parent    fingerprint of the run that this one belongs to
    wait_s    how long leaving waits, at most, for all events to be sent

    The run is in the experiment that MLFLOW_EXPERIMENT_NAME names, else `lm`. A stage that only
    prepares data passes `makes_model=False`: its run is in `lm-data`, so that `lm` has one row per
    model. The run ends as FINISHED; as FAILED after an exception; as KILLED after Ctrl-C, an exit
    status above 128 (a signal), or if its process vanished.
    """
    exp_name = os.environ.get("DVC_EXP_NAME")
    label = f"{stage}-{exp_name or fingerprint[:8]}"
    opening = {
        "stage": stage,
        "name": exp_name if exp_name and stage == "train" else label,
        "experiment": experiment_name(makes_model),
        "fingerprint": fingerprint,
        "parent": parent,
        "params": {name: str(value) for name, value in (params or {}).items()},
        "tags": _context_tags() | {name: str(value) for name, value in (tags or {}).items()},
        "dataset": asdict(dataset) if dataset else None,
        "system_metrics": system_metrics,
    }
    run = Run(Path(spool).resolve())
    run._open(opening, Path(root))
    try:
        yield run
    except BaseException as error:
        run._close(_status_after(error), wait_s)
        raise
    run._close("FINISHED", wait_s)


def replay(spool: str | Path, root: str | Path) -> int:
    """Send what earlier runs left in `spool`; return the number of events sent.

    Journals that were set aside are tried again; those of open runs are left alone. If the tracker
    does not answer, a warning says so and the events stay. `root` is the folder of the local store,
    see `tracking_uri`.
    """
    spool = Path(spool).resolve()
    for path in spool.glob(f"*.jsonl{DAMAGED}"):
        path.rename(path.with_suffix(""))
    waiting = {journal: _count_lines(journal) for journal in spool.glob("*.jsonl")}
    if waiting:
        _relay_warnings(_start_shipper([str(spool)], Path(root)))
    return sum(
        events
        for journal, events in waiting.items()
        if not journal.exists() and not journal.with_name(journal.name + DAMAGED).exists()
    )


def flatten(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"model": ModelParams(d_model=8)}` as `{"model.d_model": 8}`, at any depth."""
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        inner = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        if isinstance(inner, Mapping):
            flat |= {f"{name}.{key}": item for key, item in flatten(inner).items()}
        else:
            flat[name] = inner
    return flat


def tracking_uri(root: str | Path) -> str:
    """Return MLFLOW_TRACKING_URI if it is set, else the local store: `mlflow.db` in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(root).resolve()}/mlflow.db"


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no proxy is asked for addresses of this machine."""
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY")
    exempt = ",".join(filter(None, [exempt, "localhost,127.0.0.0/8,::1"]))
    return {**environment, "no_proxy": exempt, "NO_PROXY": exempt}


def experiment_name(makes_model: bool) -> str:
    """Return the MLflow experiment of runs that train a model, or of those that prepare data."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lm"
    return name if makes_model else f"{name}-data"


def _redacted(value: Any) -> Any:
    """Return a JSON value without the secrets of the addresses in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return value


def _count_lines(journal: Path) -> int:
    try:
        with open_regular(journal, follow=False) as file:
            return sum(1 for _ in file)
    except OSError:  # the shipper says why
        return 0


def _context_tags() -> dict[str, str]:
    """Return the tags that link MLflow to git and DVC."""
    names = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
    tags = {name: os.environ[name] for name in names if os.environ.get(name)}
    with suppress(OSError):  # git is not installed
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        if git.returncode == 0:  # else: no repository, or no commit yet
            tags["git_commit"] = tags["mlflow.source.git.commit"] = git.stdout.strip()
    return tags


def _status_after(error: BaseException) -> str:
    """Return the MLflow status of a run that `error` ended."""
    if isinstance(error, SystemExit):
        if not error.code:
            return "FINISHED"
        return "KILLED" if isinstance(error.code, int) and error.code > 128 else "FAILED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _start_shipper(
    arguments: list[str], root: Path, keep_open: int | None = None
) -> subprocess.Popen[str]:
    """Start the shipper in a session of its own, so that Ctrl-C does not reach it.

    `keep_open` is the journal's file: sharing it, trainer and shipper share its lock.
    """
    here = str(Path(lmlib.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    environment = without_proxy({**SHIPPER_DEFAULTS, **os.environ})
    environment["PYTHONPATH"] = path
    # relative to `root`: an address cannot have `?` in a path
    environment["MLFLOW_TRACKING_URI"] = environment.get("MLFLOW_TRACKING_URI") or LOCAL_URI
    environment["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"  # what is sent has then arrived
    # -P: `root` may hold another lmlib than this one, which may be in a temporary copy
    command = [sys.executable, "-P", "-W", "ignore", "-m", "lmlib.monitoring.tracking", *arguments]
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        pass_fds=() if keep_open is None else (keep_open,),
    )


def _relay_warnings(shipper: subprocess.Popen[str]) -> None:
    """Log each line that `shipper` writes, until it ends."""
    assert shipper.stderr is not None
    with shipper.stderr as lines:
        for line in lines:
            logger.warning("tracking: %s", line.rstrip())
    shipper.wait()
