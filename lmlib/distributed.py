"""Several processes that train one model together, each on its part of every batch.

DDP keeps the whole model in each process and averages the gradients; FSDP leaves each with its
part of every parameter, gradient and optimizer state, gathered (as a DTensor is) where needed.
"""

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lmlib.signals import Interrupted
from lmlib.threads import start_thread

logger = logging.getLogger(__name__)

Parallel = Literal["ddp", "fsdp"]


class World:
    """The processes of a training; `World()` is this process alone, to which it all is nothing.

    What is called on one must be called on all: they wait for each other. Small values travel
    from CPU to CPU (gloo), so that no GPU is waited for.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def is_main(self) -> bool:
        """Whether this is the process that logs and writes."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: the GPUs of a machine go to its processes."""
        if self.size > 1 and device.type == "cuda":
            return torch.device("cuda", self.local_rank)
        return device

    def part(self, rows: Tensor) -> Tensor:
        """Return the rows of this process: rows side by side, as many for each."""
        return rows.chunk(self.size)[self.rank] if self.size > 1 else rows

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of x over the processes, the same bits on all."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def max(self, value: float) -> float:
        """Return the largest of the processes' values, on which all then agree."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.item()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.max(0)

    def gathered(self, x: Any) -> Any:
        """Return x; a sharded tensor whole and on the CPU, in the main process alone."""
        gathered = whole(x)
        return gathered if gathered is x or self.is_main else torch.empty(0)


def whole(x: Any) -> Any:
    """Return x; a sharded tensor whole and on the CPU, in every process."""
    return x.full_tensor().cpu() if hasattr(x, "full_tensor") else x


def sharded_like(x: Any, like: Any) -> Any:
    """Return this process's part of x where `like`, of the same shape, is sharded; else x."""
    if not hasattr(like, "full_tensor") or not isinstance(x, Tensor) or x.shape != like.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    # without a source, each process cuts its part from its own copy
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a model, sharded or not, the weights of a state dict of whole tensors."""
    own = model.state_dict()
    parts = {name: sharded_like(x, own[name]) if name in own else x for name, x in state.items()}
    model.load_state_dict(parts)


def shard(module: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Shard the parameters of `module` in place (FSDP), to be gathered block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in [*blocks, module]:
        # the root, too: between two steps all parameters are sharded, also after a validation
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        if device.type == "cpu":  # gloo adds, but does not average
            sharded.set_force_sum_reduction_for_comms(True)


def replicate(module: nn.Module) -> nn.Module:
    """Return the module such that backward passes average the gradients over the processes."""
    return DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)


def averaging(module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Return a context for a forward and backward pass of a part of a step.

    A replicated module averages the gradients when it is `now`, at the last part; before, each
    process adds up its own.
    """
    if isinstance(module, DistributedDataParallel) and not now:
        return module.no_sync()
    return contextlib.nullcontext()


class SharedLoss(nn.Module):
    """The mean loss of a batch of which each process computes some rows, the same on all."""

    def __init__(self, next_token_loss: nn.Module, world: World) -> None:
        super().__init__()
        self.next_token_loss, self.world = next_token_loss, world

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all rows, however few there are."""
        own = slice(self.world.rank, None, self.world.size)
        rows = len(inputs[own])
        if not rows:  # it takes part in what the others gather, with a row that does not count
            own = slice(1)
        share = rows * self.world.size / len(inputs)
        return self.world.mean(self.next_token_loss(inputs[own], targets[own]) * share)


# -- processes


def under_torchrun() -> bool:
    """Whether torchrun started this process, as one of several or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ  # RANK alone: other launchers set it, too


def count_processes(wanted: int | Literal["auto"], device: torch.device) -> int:
    """Return how many processes train: what torchrun says, else `wanted` on this machine.

    `auto` is one for each CUDA device; raise ValueError where the device does not do for so many.
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
            f"train.device is {device}, with {size} processes; these need cpu or cuda, whose "
            "devices are shared out (or train.num_processes: 1)"
        )
    if size > 1 and device.type == "cuda" and here > torch.cuda.device_count():
        raise ValueError(
            f"{here} processes on a machine with {torch.cuda.device_count()} CUDA devices; each "
            "needs one of its own: lower train.num_processes, or write auto"
        )
    return size


def launch(module: str, num_processes: int) -> None:
    """Run `python -m module` in so many processes on this machine, under PyTorch's torchrun.

    SIGINT and SIGTERM are passed on; Interrupted is raised when the processes ended by one.
    Raises ChildProcessError when one failed, which stops the others.
    """
    # the states of a large model take longer to write than torchrun's 30 s
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // num_processes)))
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    for name in ("agent.server.api", "multiprocessing.api"):  # what they warn of is said here
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    # by number: on many laptops the machine's own name leads nowhere
    command = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={num_processes}"]
    command += ["--module", module]
    try:
        with tempfile.TemporaryDirectory() as logs:  # torchrun would leave its own behind
            run(parse_args([f"--log-dir={logs}", *command, *sys.argv[1:]]))
    except SignalException as error:
        raise Interrupted(error.sigval) from None
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        # once one is gone, the others end with 1, or by torchrun's SIGTERM
        rank, code = min(codes.items(), key=lambda item: item[1] in (1, -15))
        if code > 128:
            raise Interrupted(code - 128) from None
        name = error.failures[rank].signal_name()
        end = f"was killed by {name}" if code < 0 else f"ended with status {code} (see above)"
        raise ChildProcessError(
            f"rank {rank} of {num_processes} {end}, and the others were stopped. The states saved "
            "before are kept: run again to go on"
        ) from None


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Give the processes that torchrun started, connected; without it, this process alone.

    Within, the processes other than the main one log errors alone. When one of this machine
    vanishes, the others end with a message instead of waiting for it. All leave together, unless
    one of them fails.
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
        except (Interrupted, FloatingPointError) as error:  # on which all agree
            world.wait()
            if isinstance(error, FloatingPointError) and not world.is_main:
                sys.exit(1)  # the main process says why
            raise
        world.wait()
    except RuntimeError as error:
        # a process that reads from a dead one notices before the watch
        if "peer" in str(error):
            raise ConnectionError(_LOST.format(rank=rank)) from error
        raise
    finally:
        watch.stop()
    dist.destroy_process_group()


_LOST = (
    "rank {rank}: lost another process of the training. The states saved before are kept: run "
    "again to go on"
)


class _Watch:
    """Ends this process when another of this machine has vanished.

    A process that waits for a dead one in the middle of an operation hears no signal: Python
    handles them between its own instructions. Without this, torchrun would kill it after 30 s.
    """

    interval_s = 1.0

    def __init__(self, world: World) -> None:
        self._rank = world.rank
        self._left = threading.Event()
        mine = (os.environ["GROUP_RANK"], os.getpid())
        processes: list[tuple[str, int]] = [mine] * world.size
        dist.all_gather_object(processes, mine)
        self._pids = [pid for node, pid in processes if node == mine[0]]
        start_thread(self._watch)

    def _watch(self) -> None:
        if os.name != "posix":  # where a signal 0 asks nothing, but ends the process
            return
        while not self._left.wait(self.interval_s):
            if not all(map(_exists, self._pids)):
                logger.error(_LOST.format(rank=self._rank))
                os._exit(1)

    def stop(self) -> None:
        """Watch no longer."""
        self._left.set()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
