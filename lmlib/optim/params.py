"""The section `optim` of params.yaml."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lmlib.optim.schedule import warmup_cosine, warmup_linear, warmup_stable_decay
from lmlib.params import (
    Bound,
    CountOrZero,
    Fraction,
    FractionBelowOne,
    Positive,
    PositiveOrInfinite,
    PositiveOrZero,
    check_bounds,
)

Betas = Annotated[
    tuple[float, float],
    Bound("two numbers in [0, 1)", lambda betas: all(0 <= beta < 1 for beta in betas)),
]


@dataclass(frozen=True)
class OptimParams:
    """Optimizer, learning-rate schedule and clipping.

    The schedule rises over `warmup_steps` and ends, at the last step of the run, at
    `min_lr_fraction * lr`; `wsd` keeps lr until the last `decay_fraction` of the steps, and
    `constant` to the end. With `muon` the matrices of the blocks follow the same schedule, with
    `muon_lr` in place of `lr`.
    """

    name: Literal["adamw", "muon"]
    lr: Positive
    betas: Betas
    eps: Positive
    weight_decay: PositiveOrZero
    schedule: Literal["cosine", "linear", "wsd", "constant"]
    warmup_steps: CountOrZero
    min_lr_fraction: Fraction
    decay_fraction: Fraction
    max_grad_norm: Annotated[PositiveOrInfinite, ".inf: no clipping"]
    muon_lr: Positive
    muon_momentum: FractionBelowOne

    def __post_init__(self) -> None:
        check_bounds(self)

    def lr_at(self, step: int, num_steps: int) -> float:
        """Return the learning rate of `step`, counted from 1, in a run of `num_steps`."""
        min_lr = self.lr * self.min_lr_fraction
        if self.schedule == "cosine":
            return warmup_cosine(step, self.lr, min_lr, self.warmup_steps, num_steps)
        if self.schedule == "linear":
            return warmup_linear(step, self.lr, min_lr, self.warmup_steps, num_steps)
        decay_steps = round(num_steps * self.decay_fraction) if self.schedule == "wsd" else 0
        if decay_steps == 0:
            min_lr = self.lr
        decay = range(max(self.warmup_steps, num_steps - decay_steps), num_steps)
        return warmup_stable_decay(step, self.lr, min_lr, self.warmup_steps, decay)
