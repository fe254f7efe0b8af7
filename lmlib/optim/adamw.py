"""AdamW."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


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
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; return what `closure`, called first with gradients enabled, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["t"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.zeros_like(p)
                state["t"] += 1
                t, m, v = state["t"], state["m"], state["v"]
                m.lerp_(p.grad, 1 - beta1)
                v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                p.mul_(1 - lr * group["weight_decay"])
                denominator = v.sqrt().div_(math.sqrt(1 - beta2**t)).add_(eps)
                p.addcdiv_(m, denominator, value=-lr / (1 - beta1**t))
        return loss


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices, which decay, and gains of norms, which do not."""
    matrices: list[Tensor] = [p for p in model.parameters() if p.ndim >= 2]
    vectors: list[Tensor] = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
