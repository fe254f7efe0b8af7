"""Sharded tensors, as FSDP makes them: each process holds a part of the whole tensor.

A sharded tensor is a `torch.distributed.tensor.DTensor`. These functions return any other tensor
unchanged, so that callers need not know whether several processes train.
"""

from typing import Any

from torch import Tensor, nn


def is_sharded(x: Any) -> bool:
    """Return whether x is a DTensor."""
    return hasattr(x, "full_tensor")  # not isinstance: a single process need not import DTensor


def local(x: Any) -> Any:
    """Return this process's part of x."""
    return x.to_local() if is_sharded(x) else x


def whole(x: Any) -> Any:
    """Return the whole x, gathered in every process."""
    return x.full_tensor() if is_sharded(x) else x


def whole_like(part: Tensor, like: Any) -> Tensor:
    """Return the whole tensor whose local part is `part`, sharded as `like` is."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    layout = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(part, like.device_mesh, like.placements, **layout).full_tensor()


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
