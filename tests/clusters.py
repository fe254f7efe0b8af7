"""A Dask cluster of processes on loopback, and texts that end its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmlib.files import read_json

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cluster:
    """The address of a scheduler, and its process."""

    address: str
    scheduler: subprocess.Popen[bytes]


@contextmanager
def dask_cluster(folder: Path, num_workers: int) -> Iterator[Cluster]:
    """Start a scheduler and workers, each in a process of its own that a nanny replaces."""
    file = folder / "scheduler.json"
    common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    # the limit ends the cluster if this process is killed
    scheduler = ["scheduler", "--port", "0", "--idle-timeout", "300"]
    worker = ["worker", "--nthreads", "1", "--local-directory", str(folder), "--death-timeout", "9"]
    with ExitStack() as stack:
        processes = []
        for command in (scheduler, *([worker] * num_workers)):
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, *common],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,  # a log
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            processes.append(process)
        end = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        yield Cluster(read_json(file)["address"], processes[0])


@dataclass(frozen=True)
class DeadlyText:
    """A text of which a process dies, once: when a worker has read it to its end.

    victim   the process that is killed; 0: the worker
    note     a file that exists from then on, with the id of the worker
    """

    path: Path
    note: Path
    victim: int = 0
    digest: str | None = None
    num_bytes: int | None = None
    is_in_place: bool = False

    @property
    def name(self) -> str:
        return self.path.name

    @contextmanager
    def open(self) -> Iterator[Path]:
        yield self.path
        if not self.note.exists():
            self.note.write_text(str(os.getpid()), encoding="utf-8")
            os.kill(self.victim or os.getpid(), signal.SIGKILL)
            if self.victim:
                time.sleep(5)  # the result of this task never arrives
