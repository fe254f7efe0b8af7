"""The section `optim` of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from lmlib.optim.schedule import warmup_cosine, warmup_linear, warmup_stable_decay


@dataclass(frozen=True)
class OptimParams:
    """Optimizer, learning-rate schedule and clipping.

    The schedule rises over `warmup_steps` and ends, at the last step of the training, at
    `min_lr_fraction * lr`; `wsd` keeps lr until the last `decay_fraction` of the steps, and
    `constant` to the end. With `muon` the matrices of the blocks follow the same schedule with
    `muon_lr` for `lr`.
    """

    name: Literal["adamw", "muon"]
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: Literal["cosine", "linear", "wsd", "constant"]
    warmup_steps: int
    min_lr_fraction: float
    decay_fraction: float
    max_grad_norm: float
    muon_lr: float = 8e-3
    muon_momentum: float = 0.95

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}; both must be in [0, 1)")
        if not 0 <= self.muon_momentum < 1:
            raise ValueError(f"muon_momentum is {self.muon_momentum}; it must be in [0, 1)")
        if not self.eps > 0:
            raise ValueError(f"eps is {self.eps}; it must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be at least 0")
        for name in ("min_lr_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm is {self.max_grad_norm}; it must be above 0 (.inf: no clipping)"
            )

    def lr_at(self, step: int, num_steps: int) -> float:
        """Return the learning rate of `step`, counted from 1, in a training of `num_steps`."""
        min_lr = self.lr * self.min_lr_fraction
        if self.schedule == "cosine":
            return warmup_cosine(step, self.lr, min_lr, self.warmup_steps, num_steps)
        if self.schedule == "linear":
            return warmup_linear(step, self.lr, min_lr, self.warmup_steps, num_steps)
        decay_steps = round(num_steps * self.decay_fraction) if self.schedule == "wsd" else 0
        if decay_steps == 0:
            min_lr = self.lr
        decay_start = max(self.warmup_steps, num_steps - decay_steps)
        return warmup_stable_decay(step, self.lr, min_lr, self.warmup_steps, decay_start, num_steps)
