"""Sharded tensors, as FSDP makes them: each process holds a part of the whole tensor.

A sharded tensor is a `torch.distributed.tensor.DTensor`. The functions that take or make one return
any other tensor unchanged, so that callers need not know whether several processes train. The last
two divide work among processes, all of which must call them.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Matrices = Float[Tensor, "batch rows columns"]


def is_sharded(x: Any) -> bool:
    """Return whether x is a DTensor."""
    return hasattr(x, "full_tensor")  # not isinstance: a single process need not import DTensor


def local(x: Any) -> Any:
    """Return this process's part of x."""
    return x.to_local() if is_sharded(x) else x


def whole(x: Any) -> Any:
    """Return the whole x, gathered in every process."""
    return x.full_tensor() if is_sharded(x) else x


def shard_like(x: Any, like: Any) -> Any:
    """Return x, a whole tensor present in every process, sharded as `like` is.

    Anything but a tensor of the shape of `like` is returned unchanged.
    """
    if not is_sharded(like) or not isinstance(x, Tensor) or x.shape != like.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    # no source rank: each process takes its part from its own copy
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state dict of whole tensors into a model, sharded or not."""
    own = model.state_dict()
    model.load_state_dict({name: shard_like(x, own.get(name)) for name, x in state.items()})


def divided(function: Callable[[Matrices], Matrices], matrices: Matrices) -> Matrices:
    """Return function(matrices), of which each process computes an equal part.

    The matrices are the same in all processes. `function` treats each by itself and keeps its
    shape.
    """
    size, rank = dist.get_world_size(), dist.get_rank()
    share = -(-len(matrices) // size)
    own = function(matrices[rank * share : (rank + 1) * share])
    own = F.pad(own, (0, 0, 0, 0, 0, share - len(own)))
    results = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(results, own)
    return torch.cat(results)[: len(matrices)]


def divided_shards(
    function: Callable[[Matrices], Matrices], parts: Matrices, like: Any
) -> Matrices:
    """Return this process's rows of function(matrices), of which it computes an equal part.

    parts:  its rows of each matrix; all matrices are sharded by rows, as `like` is.

    The processes exchange rows, so that each has its share of the matrices whole, and send the
    rows of the results back.
    """
    group, size, rows = like.device_mesh.get_group(), like.device_mesh.size(), like.shape[0]
    batch, own_rows, columns = parts.shape
    share, height = -(-batch // size), -(-rows // size)
    sent = F.pad(parts, (0, 0, 0, height - own_rows, 0, size * share - batch))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    whole = received.view(size, share, height, columns).transpose(0, 1).flatten(1, 2)
    results = F.pad(function(whole[:, :rows]), (0, 0, 0, size * height - rows))
    sent = results.view(share, size, height, columns).transpose(0, 1).contiguous()
    dist.all_to_all_single(received, sent.flatten(0, 1), group=group)
    return received[:batch, :own_rows]
