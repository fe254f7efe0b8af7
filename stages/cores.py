"""How the stages share the processor's cores with each other and with other programs.

PyTorch splits an operation among threads and waits for the last of them. Meanwhile its OpenMP
library lets the others spin, for 300,000 rounds. On free cores, spinning saves the time to wake a
thread, and 10,000 rounds save as much. On busy cores, any spinning takes time from the very threads
that it waits for, so not spinning is fastest (tests/benchmarks/RESULTS.md, "While other
programs run"). So a stage checks, when it starts, whether the cores are free.

How threads wait changes no bits. Their number does, so it must not depend on the present load: it
is the number of cores or, in a queue of experiments, each worker's share of them.
"""

import os
import sys
import time
from pathlib import Path

from lmlib.threads import num_cores

# in rounds for GNU's OpenMP; in milliseconds for LLVM's, which PyTorch uses on macOS
SPIN = "KMP_BLOCKTIME" if sys.platform == "darwin" else "GOMP_SPINCOUNT"
SPIN_WHERE_FREE = "1" if sys.platform == "darwin" else "10000"
THREADS = "OMP_NUM_THREADS"
CHOSEN = "STAGES_SPIN"  # a stage's own choice, which the processes that it starts replace
STAT = Path("/proc/stat")
LOOK_SECONDS = 0.1  # ten ticks of the counters in STAT


def share_cores() -> None:
    """Set the variables that OpenMP reads when PyTorch is imported, unless the user set them."""
    if THREADS not in os.environ and (workers := count_queue_workers()) > 1:
        os.environ[THREADS] = str(threads_of_each(workers))
    set_by_user = os.environ.get(SPIN) != os.environ.get(CHOSEN)
    if not set_by_user and "OMP_WAIT_POLICY" not in os.environ:
        threads = os.environ.get(THREADS, "")
        free = are_free(int(threads) if threads.isdecimal() else num_cores())
        os.environ[SPIN] = os.environ[CHOSEN] = SPIN_WHERE_FREE if free else "0"


def are_free(cores: int) -> bool:
    """Return whether other programs leave this process that many of its cores, as far as is known.

    If few threads run on the whole machine, one reading is enough. Otherwise this process's cores
    are watched for LOOK_SECONDS. On systems other than Linux, which do not tell, return True.
    """
    try:
        running, before = read_cores()
        if running - 1 + cores <= num_cores():  # 1: this process
            return True
        time.sleep(LOOK_SECONDS)
        idle = read_cores()[1] - before
    except (OSError, LookupError, ValueError):
        return True
    return idle > (cores - 0.5) * LOOK_SECONDS


def read_cores() -> tuple[int, float]:
    """Return the number of running threads, and the idle seconds of this process's cores.

    The threads are those of the whole machine; the seconds are a sum over the cores since boot.
    """
    lines = STAT.read_text(encoding="ascii").splitlines()
    numbers = {name: values for name, *values in map(str.split, lines) if values}
    mine = [numbers[f"cpu{core}"] for core in os.sched_getaffinity(0)]
    ticks = sum(int(idle) + int(waiting) for _, _, _, idle, waiting, *_ in mine)
    return int(numbers["procs_running"][0]), ticks / os.sysconf("SC_CLK_TCK")


def threads_of_each(jobs: int) -> int:
    """Return the number of threads for each of `jobs` runs that train at the same time."""
    return max(1, num_cores() // jobs)


def count_queue_workers() -> int:
    """Return the number of DVC queue workers that run experiments of this project; 0 outside one.

    `dvc queue start -j N` starts N processes `dvc exp queue-worker NAME`, which run stages in a
    temporary copy of the project. The NAMEs of a project differ only in a number at the end.
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
    """Return, for the log, the settings that were chosen here or by the user."""
    names = (THREADS, "OMP_WAIT_POLICY", SPIN)
    chosen = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    quiet = os.environ.get(CHOSEN) != "0"
    busy = "" if quiet else "\nother programs run, so threads do not spin"
    return f"{num_threads} threads on {num_cores()} cores ({chosen}){busy}"
