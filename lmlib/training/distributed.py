"""Training one model in several processes, each with its part of every batch.

DDP keeps the whole model in each process and averages the gradients. FSDP gives each process a part
of every parameter, gradient and optimizer state, and gathers a block's parameters when they are
needed.
"""

import contextlib
import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lmlib.sharding import is_sharded, shard_like, whole

Parallel = Literal["ddp", "fsdp"]


class World:
    """The processes of a run; `World()` is a single process, for which every method is a no-op.

    A method called in one process must be called in all, because they wait for each other. Small
    values travel from CPU to CPU (gloo), so that no process waits for a GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that logs and writes."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: each process gets one GPU of its machine."""
        if self.size > 1 and device.type == "cuda":
            return torch.device("cuda", self.local_rank)
        return device

    def part(self, rows: Tensor) -> Tensor:
        """Return this process's rows: one of `size` equal blocks."""
        return rows.chunk(self.size)[self.rank] if self.size > 1 else rows

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of x over the processes, with the same bits in all of them."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def max(self, value: int | float) -> int | float:
        """Return the largest of the processes' values."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.item()

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.max(0)

    def gathered(self, x: Any) -> Any:
        """Return x with its sharded tensors gathered on the CPU, in the main process only.

        In the other processes they are empty. x may be a tensor, or dicts and lists of tensors.
        """
        if isinstance(x, dict):
            return {key: self.gathered(value) for key, value in x.items()}
        if isinstance(x, list | tuple):
            return type(x)(map(self.gathered, x))
        if not is_sharded(x):
            return x
        gathered = whole(x)
        return gathered.cpu() if self.is_main else torch.empty(0)


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of whole tensors into the optimizer of a model, sharded or not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        i: {name: shard_like(value, parameters[i]) for name, value in values.items()}
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_parameters})


def shard(
    module: nn.Module, blocks: Iterable[nn.Module], device: torch.device, dtype: torch.dtype
) -> None:
    """Shard the parameters of `module` in place (FSDP); they are gathered block by block.

    Those of the blocks travel in `dtype`, in which their products are computed; gradients are added
    in float32, and what goes from block to block keeps its dtype.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    blocks = list(blocks)
    for part in [*blocks, module]:
        narrow = part is not module and dtype != torch.float32
        policy = MixedPrecisionPolicy(
            param_dtype=dtype if narrow else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        # the root too: between steps all parameters are sharded, even after a validation
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        if device.type == "cpu":  # gloo adds, but does not average
            sharded.set_force_sum_reduction_for_comms(True)


def replicate(module: nn.Module) -> nn.Module:
    """Wrap a module so that backward passes average the gradients over the processes (DDP)."""
    # the new name came with PyTorch 2.13
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(module, **options)


def averaging(module: nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Return a context for the forward and backward pass of a micro-batch.

    Processes average the gradients only if `now`, which is true in the last micro-batch of a step;
    before that, each accumulates its own (with FSDP, those of whole parameters).
    """
    if isinstance(module, DistributedDataParallel) and not now:
        return module.no_sync()
    if (synchronise := getattr(module, "set_requires_gradient_sync", None)) is not None:  # FSDP
        synchronise(now)
    return contextlib.nullcontext()


class SharedLoss(nn.Module):
    """The mean losses of a batch whose rows the processes share; all get the same values."""

    def __init__(self, next_token_loss: nn.Module, world: World) -> None:
        super().__init__()
        self.next_token_loss, self.world = next_token_loss, world

    def forward(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means over all rows of a batch (`NextTokenLoss`), however few there are."""
        own = slice(self.world.rank, None, self.world.size)
        all_rows = len(batch["inputs"])
        rows = len(batch["inputs"][own])
        if not rows:  # compute a row with weight 0: with FSDP the others wait for this process
            own = slice(1)
        share = rows * self.world.size / all_rows
        losses = self.next_token_loss(**{name: x[own] for name, x in batch.items()})
        loss, unweighted = self.world.mean(torch.stack(losses) * share)
        return loss, unweighted
