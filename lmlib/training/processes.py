"""The processes of a run: start them, connect them, and notice when one has died."""

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Literal

import torch
import torch.distributed as dist

from lmlib.threads import start_thread
from lmlib.training.distributed import World
from lmlib.training.signals import Interrupted

logger = logging.getLogger(__name__)


def under_torchrun() -> bool:
    """Return whether torchrun started this process, as one of several or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ  # not RANK: other launchers set it too


def count_processes(wanted: int | Literal["auto"], device: torch.device) -> int:
    """Return the number of processes: what torchrun says, else `wanted` on this machine.

    `auto` is one for each CUDA device. Raises ValueError if the device cannot serve that many.
    """
    if under_torchrun():
        here, size = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    elif wanted == "auto":
        several = device.type == "cuda" and device.index is None
        here = size = torch.cuda.device_count() if several else 1
    else:
        here = size = wanted
    if size > 1 and (device.index is not None or device.type not in ("cpu", "cuda")):
        raise ValueError(
            f"train.device is {device}, which {size} processes cannot share; choose cpu or cuda "
            "without a number, or train.num_processes: 1"
        )
    if size > 1 and device.type == "cuda" and here > torch.cuda.device_count():
        raise ValueError(
            f"{here} processes on a machine with {torch.cuda.device_count()} CUDA devices; each "
            "process needs its own: lower train.num_processes, or choose auto"
        )
    return size


def launch(module: str, num_processes: int) -> None:
    """Run `python -m module` in `num_processes` processes on this machine, under torchrun.

    SIGINT and SIGTERM are passed on. Raises Interrupted when a signal has ended the processes, and
    ChildProcessError when a process has failed, which stops the others.
    """
    # saving the state of a large model can take longer than torchrun's limit of 30 s
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // num_processes)))
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    for name in ("agent.server.api", "multiprocessing.api"):  # repeated below
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    # by number: on many laptops the host name does not resolve
    command = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={num_processes}"]
    command += ["--module", module]
    try:
        with tempfile.TemporaryDirectory() as logs:  # torchrun's own would stay behind
            run(parse_args([f"--log-dir={logs}", *command, *sys.argv[1:]]))
    except SignalException as error:
        raise Interrupted(error.sigval) from None
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        # after the first failure, the others end with 1 or by torchrun's SIGTERM
        rank, code = min(codes.items(), key=lambda item: item[1] in (1, -15))
        if code > 128:
            raise Interrupted(code - 128) from None
        name = error.failures[rank].signal_name()
        end = f"was killed by {name}" if code < 0 else f"ended with status {code} (see above)"
        raise ChildProcessError(
            f"rank {rank} of {num_processes} {end}; the others were stopped, and the states saved "
            "before are kept: run again to resume"
        ) from None


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Connect the processes that torchrun started; without it, yield a world of one process.

    Within the context, only the main process logs anything but errors. When a process of this
    machine dies, the others end with a message instead of waiting for it. All processes leave
    together, unless one fails.
    """
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield World()
        return
    rank, size, local_rank = (int(os.environ[n]) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = World(rank, size, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(world.device(device))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    if not world.is_main:
        logging.getLogger("lmlib").setLevel(logging.ERROR)
    watch = _Watch(world)
    try:
        try:
            yield world
        except (Interrupted, FloatingPointError) as error:  # raised by all processes
            world.wait()
            if isinstance(error, FloatingPointError) and not world.is_main:
                sys.exit(1)  # the main process reports the error
            raise
        world.wait()
    except RuntimeError as error:
        # a process that reads from a dead one notices before _Watch does
        if "peer" in str(error):
            raise ConnectionError(_LOST.format(rank=rank)) from error
        raise
    finally:
        watch.stop()
    dist.destroy_process_group()


_LOST = (
    "rank {rank}: lost another process of the run; the states saved before are kept: run again to "
    "resume"
)


class _Watch:
    """Ends this process when another one on this machine has died.

    A process that waits for a dead one inside an operation cannot handle signals, since Python
    handles them only between its own instructions. Without this, torchrun would kill it after 30 s.
    """

    interval_s = 1.0

    def __init__(self, world: World) -> None:
        self._rank = world.rank
        self._stopped = threading.Event()
        mine = (os.environ["GROUP_RANK"], os.getpid())
        processes: list[tuple[str, int]] = [mine] * world.size
        dist.all_gather_object(processes, mine)
        self._pids = [pid for node, pid in processes if node == mine[0]]
        start_thread(self._watch)

    def _watch(self) -> None:
        if os.name != "posix":  # elsewhere, signal 0 would end the process
            return
        while not self._stopped.wait(self.interval_s):
            if not all(map(_exists, self._pids)):
                logger.error(_LOST.format(rank=self._rank))
                os._exit(1)

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
