"""Ending a run early: when it diverges, or when its validation loss stops falling."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmlib.sharding import load_whole, whole


class FiniteGuard:
    """Raises FloatingPointError before the results of a step that was not finite are used.

    On a CPU each step is checked at once. Reading a value from a GPU makes the CPU wait and leaves
    the GPU idle, so there the values stay on the device: call `check` before saving or logging
    anything that the steps changed.

    Several processes check at the same steps. With `mean`, the mean over the processes, all of
    them reach the same result.
    """

    max_pending = 100  # steps, so that a run that never logs still stops

    def __init__(self, mean: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self._mean = mean
        self._pending: list[tuple[int, Tensor]] = []

    def note(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Add the values of a step to those to check."""
        self._pending.append((step, torch.stack((loss, grad_norm.to(loss.device)))))
        if loss.is_cpu or len(self._pending) == self.max_pending:
            self.check()

    def check(self) -> None:
        """Raise FloatingPointError for the first noted value that is not finite."""
        if not self._pending:
            return
        steps = [step for step, _ in self._pending]
        values = self._mean(torch.stack([value for _, value in self._pending])).tolist()
        self._pending.clear()
        for step, (loss, grad_norm) in zip(steps, values, strict=True):
            require_finite(step, "loss", loss)
            require_finite(step, "grad_norm", grad_norm)


def require_finite(step: int, name: str, value: float) -> None:
    """Raise FloatingPointError when `value`, called `name`, is infinite or NaN."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"step {step}: {name} is {value}; the states saved before it are kept; "
            "lower optim.lr and optim.muon_lr, or train in float32"
        )


class EarlyStopping:
    """Ends a run after `patience` validations in a row without a better loss.

    It keeps the weights of the best validation on the CPU, and is part of each saved state. With
    patience 0 a run takes all its steps and keeps its last weights.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best_loss = math.inf
        self.waited = 0  # validations since the best one
        self._weights: dict[str, Tensor] = {}

    @property
    def exhausted(self) -> bool:
        """Return whether to stop."""
        return 0 < self.patience <= self.waited

    def update(self, valid_loss: float, model: nn.Module) -> None:
        """Count a validation of `model`; keep its weights if its loss is the best."""
        if not self.patience:
            return
        self.waited += 1
        if valid_loss < self.best_loss:
            self.best_loss, self.waited = valid_loss, 0
            self._weights = {
                name: whole(weight.detach()).to("cpu", copy=True)
                for name, weight in model.state_dict().items()
            }

    def restore_best(self, model: nn.Module) -> None:
        """Load the weights of the best validation into `model`, if there are any."""
        if self._weights:
            load_whole(model, self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a saved state contains."""
        return {"best_loss": self.best_loss, "waited": self.waited, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best_loss, self.waited = state["best_loss"], state["waited"]
        self._weights = state["weights"]
