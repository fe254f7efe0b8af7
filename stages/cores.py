"""How the stages share the processor's cores with each other and with other programs.

PyTorch splits an operation among threads, and the results of each wait for the last of them. Its
OpenMP library lets the others spin meanwhile, for 300,000 rounds: long enough to take the cores
from the very threads they wait for, when other programs run too. A shorter spin loses nothing
where the cores are free; where they are not it is not yet good enough (tests/benchmarks/RESULTS.md,
"Beside other programs"). How threads wait changes no bits. Their number does, so it does not depend
on what the machine does at the moment: as many as there are cores, or, in a queue of experiments,
as many as each of its workers gets of them.
"""

import os
import sys
from pathlib import Path

from lmlib.threads import num_cores

# rounds of GNU's OpenMP; or milliseconds of LLVM's, which PyTorch has on macOS
SPIN = {"KMP_BLOCKTIME": "1"} if sys.platform == "darwin" else {"GOMP_SPINCOUNT": "10000"}
WAITING = ("OMP_WAIT_POLICY", *SPIN)
THREADS = "OMP_NUM_THREADS"


def share_cores() -> None:
    """Set, for this process and those it starts, what OpenMP reads when PyTorch is imported.

    What the user has set stays.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(SPIN)
    if THREADS not in os.environ and (workers := count_queue_workers()) > 1:
        os.environ[THREADS] = str(threads_of_each(workers))


def threads_of_each(jobs: int) -> int:
    """Return how many threads each of several trainings takes that run side by side."""
    return max(1, num_cores() // jobs)


def count_queue_workers() -> int:
    """Return how many workers of DVC's queue run experiments of this project, 0 outside of it.

    `dvc queue start -j N` starts N processes `dvc exp queue-worker NAME`, which run a stage in a
    temporary copy of the project. NAME is the same for all of a project but for a number.
    """
    root = os.environ.get("DVC_ROOT")
    if root is None or Path(root).resolve() == Path.cwd():
        return 0
    import psutil  # DVC needs it

    def worker_name(process: psutil.Process) -> str:
        try:
            command = process.cmdline()
        except psutil.Error:  # it has ended, or belongs to another user
            return ""
        return command[command.index("queue-worker") + 1] if "queue-worker" in command else ""

    mine = next(filter(None, map(worker_name, psutil.Process().parents())), "")
    if not mine:
        return 0
    project = mine.rpartition("-")[0]
    names = {worker_name(process) for process in psutil.process_iter()}
    return sum(name.rpartition("-")[0] == project for name in names if name)


def describe(num_threads: int) -> str:
    """Return, for the log, what was chosen here or set by the user."""
    chosen = [f"{name}={os.environ[name]}" for name in (THREADS, *WAITING) if name in os.environ]
    return f"{num_threads} threads on {num_cores()} cores ({', '.join(chosen)})"
