"""Runs that end before their last step."""

import pytest
import torch
from torch import nn

from lmlib.training.stopping import EarlyStopping, FiniteGuard

FINE, BAD = torch.tensor(1.0), torch.tensor(torch.inf)


def weight(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_patience_counts_validations_in_a_row() -> None:
    """Equal to the best is not better."""
    stopping = EarlyStopping(2)
    stopped = []
    for loss in (3.0, 4.0, 2.0, 2.0, 5.0):
        stopping.update(loss, weight(loss))
        stopped.append(stopping.exhausted)
    assert stopped == [False, False, False, False, True]
    model = weight(0.0)
    stopping.restore_best(model)
    assert model.state_dict()["weight"].item() == stopping.best_loss == 2.0


def test_best_weights_do_not_follow_the_training() -> None:
    stopping, model = EarlyStopping(1), weight(1.0)
    stopping.update(1.0, model)
    nn.init.constant_(model.get_parameter("weight"), 7.0)
    stopping.restore_best(model)
    assert model.state_dict()["weight"].item() == 1.0


def test_state_of_patience_outlives_the_process() -> None:
    stopping, resumed = EarlyStopping(2), EarlyStopping(2)
    stopping.update(1.0, weight(1.0))
    stopping.update(2.0, weight(2.0))
    resumed.load_state_dict(stopping.state_dict())
    assert not resumed.exhausted
    resumed.update(2.0, weight(3.0))
    assert resumed.exhausted
    model = weight(0.0)
    resumed.restore_best(model)
    assert model.state_dict()["weight"].item() == 1.0


def test_without_patience_nothing_stops_and_nothing_is_held() -> None:
    stopping, model = EarlyStopping(0), weight(5.0)
    for loss in (1.0, 2.0, 3.0):
        stopping.update(loss, weight(loss))
    stopping.restore_best(model)
    assert not stopping.exhausted
    assert model.state_dict()["weight"].item() == 5.0


@pytest.mark.parametrize(("loss", "grad_norm", "name"), [(BAD, BAD, "loss"), (FINE, BAD, "grad")])
def test_guard_names_the_step_at_once_on_a_cpu(
    loss: torch.Tensor, grad_norm: torch.Tensor, name: str
) -> None:
    guard = FiniteGuard()
    guard.note(6, FINE, FINE)
    with pytest.raises(FloatingPointError, match=rf"^step 7: {name}\w* is inf; the states saved"):
        guard.note(7, loss, grad_norm)


def test_guard_on_a_gpu_waits_to_be_asked_but_not_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    guard = FiniteGuard()
    guard.note(1, FINE, FINE)
    guard.note(2, BAD, FINE)
    guard.note(3, BAD, FINE)
    with pytest.raises(FloatingPointError, match=r"^step 2: loss is inf"):
        guard.check()
    guard.check()  # nothing is left to be said

    for step in range(1, guard.max_pending):
        guard.note(step, FINE, BAD)
    with pytest.raises(FloatingPointError, match=r"^step 1: grad_norm is inf"):
        guard.note(guard.max_pending, FINE, BAD)
