"""AdamW."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmlib.native import address_of, load_kernels
from lmlib.sharding import local
from lmlib.threads import shared_pool

FOREACH: Any = torch  # type checkers do not know its _foreach_ functions


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay.

        m = beta1 m + (1 - beta1) g                      v = beta2 v + (1 - beta2) g**2
        p = p - lr * weight_decay * p                    then, with t counted from 1,
        p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Every setting may differ between parameter groups, and `group["lr"]` may change at any step.
    Parameters without a gradient are skipped. State: m and v in the parameter's dtype, and t.

    Source:  Loshchilov & Hutter 2019, arXiv:1711.05101.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        if lr < 0:
            raise ValueError(f"AdamW: lr is {lr}; it must be at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas are {tuple(betas)}; both must be in [0, 1)")
        if eps < 0:
            raise ValueError(f"AdamW: eps is {eps}; it must be at least 0")
        if weight_decay < 0:
            raise ValueError(f"AdamW: weight_decay is {weight_decay}; it must be at least 0")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | None = None, *, grad_scale: Tensor | None = None
    ) -> Any:
        """Call `closure` (if any) with gradients enabled, take one step, return its result.

        Gradients are multiplied by `grad_scale`, a scalar tensor (see `clip_scale`), but not
        changed in place.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if grad_scale is not None:
            grad_scale = torch.as_tensor(grad_scale)
        for group in self.param_groups:
            self._update(group | _numbers(group), grad_scale)
        return loss

    def _update(self, group: dict[str, Any], grad_scale: Tensor | None) -> None:
        plain: dict[torch.dtype, list[tuple[list[Tensor], int]]] = {}
        others = []
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["t"] = 0
                state["m"] = torch.zeros_like(p)
                state["v"] = torch.zeros_like(p)
            state["t"] += 1
            row = [local(x) for x in (p, p.grad, state["m"], state["v"])]
            rows = plain.setdefault(row[0].dtype, []) if _in_plain_memory(row) else others
            rows.append((row, state["t"]))
        scale = 1.0 if grad_scale is None or not plain else grad_scale.item()
        for rows in plain.values():
            _update_in_one_pass(rows, group, scale)
        if others:
            _update_each(others, group, grad_scale)


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group as Python numbers; a scalar tensor may stand for each."""
    settings = {name: float(group[name]) for name in ("lr", "eps", "weight_decay")}
    return settings | {"betas": tuple(map(float, group["betas"]))}


def _update_each(
    rows: list[tuple[list[Tensor], int]], group: dict[str, Any], grad_scale: Tensor | None
) -> None:
    """Update tensors of any kind, each operation on all at once: few kernels on a GPU."""
    lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
    p, g, m, v = zip(*(tensors for tensors, _ in rows), strict=True)
    if grad_scale is not None:
        g = FOREACH._foreach_mul(g, grad_scale.to(p[0]))
    FOREACH._foreach_lerp_(m, g, 1 - beta1)
    FOREACH._foreach_mul_(v, beta2)
    FOREACH._foreach_addcmul_(v, g, g, 1 - beta2)
    FOREACH._foreach_mul_(p, 1 - lr * group["weight_decay"])
    denominator = FOREACH._foreach_sqrt(v)
    FOREACH._foreach_div_(denominator, [math.sqrt(1 - beta2**t) for _, t in rows])
    FOREACH._foreach_add_(denominator, eps)
    FOREACH._foreach_addcdiv_(p, m, denominator, [-lr / (1 - beta1**t) for _, t in rows])


def _update_in_one_pass(
    rows: list[tuple[list[Tensor], int]], group: dict[str, Any], grad_scale: float
) -> None:
    """Update tensors in plain memory, all of one dtype, with the kernels.

    Nothing is summed over elements, so the bits do not depend on the number of threads.
    """
    kernels = load_kernels("lmlib.optim.kernels")
    lr, (beta1, beta2) = group["lr"], group["betas"]
    dtype = rows[0][0][0].dtype
    scalars = [
        (
            grad_scale,
            1 - beta1,
            beta2,
            1 - beta2,
            1 - lr * group["weight_decay"],
            1 / math.sqrt(1 - beta2**t),
            group["eps"],
            lr / (1 - beta1**t),
        )
        for _, t in rows
    ]
    arrays = (
        np.array([[x.data_ptr() for x in tensors] for tensors, _ in rows], dtype=np.int64),
        np.array([tensors[0].numel() for tensors, _ in rows], dtype=np.int64),
        # as wide as the weights: products with wider numbers would be slow
        np.array(scalars, dtype=np.float32 if dtype == torch.float32 else np.float64),
    )
    work = (*map(address_of, arrays), len(rows))
    update = kernels.adamw_float32 if dtype == torch.float32 else kernels.adamw_float64
    shares = torch.get_num_threads()

    def run(share: int) -> Any:
        update(*work, share, shares)
        return arrays, rows  # whose memory must last until each share is done, whatever happens

    others = []
    try:
        for share in range(1, shares):
            others.append(shared_pool().submit(run, share))
        run(0)
    finally:
        for other in others:
            other.result()


def _in_plain_memory(tensors: list[Tensor]) -> bool:
    """Return whether the kernels can update the tensors, which share their memory with NumPy."""
    p = tensors[0]
    return (
        p.device.type == "cpu"
        and p.dtype in (torch.float32, torch.float64)
        and all(
            x.is_contiguous()
            and not x.is_neg()  # in memory is the negative of what it shows
            and x.dtype == p.dtype
            and x.numel() == p.numel()
            for x in tensors
        )
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices, which decay, and gains of norms, which do not."""
    matrices: list[Tensor] = [p for p in model.parameters() if p.ndim >= 2]
    vectors: list[Tensor] = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
