"""lmlib/training/validation.py: which windows the estimate uses, and how it weighs them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmlib.functional import cross_entropy
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM
from lmlib.training.validation import sampled_loss
from tests.tiny_models import shapes_seen_by, successor

MODEL = TransformerLM(
    ModelParams(context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=8), 11, seed=3
)


class LossOf(nn.Module):
    """The mean loss of a model of logits, as `NextTokenLoss` returns it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss = cross_entropy(self.model(inputs), targets)
        return loss, loss.detach()


def mean_loss(window: list[int]) -> float:
    """Score all tokens of a window except the first."""
    with torch.no_grad():
        logits = MODEL(torch.tensor(window[:-1]))
    return nn.functional.cross_entropy(logits.double(), torch.tensor(window[1:])).item()


def test_the_loss_over_all_windows_is_that_of_each_alone() -> None:
    """20 tokens hold 15 windows of 5 + 1; asked for 4 * 4, it takes each once."""
    tokens = np.random.default_rng(0).integers(11, size=20).astype(np.uint16)
    losses = [mean_loss(tokens[i : i + 6].tolist()) for i in range(15)]
    loss = sampled_loss(
        LossOf(MODEL), tokens, context_length=5, batch_size=4, batches=4, starts=range(15)
    )
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_isolated_documents_lose_what_they_lose_alone() -> None:
    """One window of 8 + 1 tokens: documents of 3 and 5, the last target ends the second."""
    tokens = np.array([0, 4, 5, 0, 6, 7, 4, 5, 0])
    losses = 3 * mean_loss([0, 4, 5, 0]) + 5 * mean_loss([0, 6, 7, 4, 5, 0])
    sizes: dict[str, Any] = {"context_length": 8, "batch_size": 2, "batches": 1, "starts": [0]}
    loss = sampled_loss(NextTokenLoss(MODEL), tokens, **sizes, separator_id=0)
    assert loss == pytest.approx(losses / 8, rel=1e-5)
    seeing = sampled_loss(NextTokenLoss(MODEL), tokens, **sizes)
    assert seeing != pytest.approx(losses / 8, rel=1e-3)


def test_it_spreads_its_windows_from_the_first_to_the_last() -> None:
    """2 batches of 2 windows of 2 + 1 in 12 tokens begin at 0, 3, 6 and 9.

    The model expects the successor of each token: inside these windows only the step from 9 to 1
    costs it 1e4, one of eight scored tokens; a window elsewhere would hold 2, 0 or 5, 8.
    """
    tokens = np.array([0, 1, 2, 0, 1, 2, 3, 4, 5, 8, 9, 1])
    model = successor(10, logit=1e4)
    shapes = shapes_seen_by(model.token_embeddings)
    loss = sampled_loss(
        LossOf(model), tokens, context_length=2, batch_size=2, batches=2, starts=range(10)
    )
    assert loss == pytest.approx(1e4 / 8)
    assert shapes == [(2, 2), (2, 2)]


def test_the_shortest_text() -> None:
    """One window and its last target: the same as scoring it whole."""
    tokens = np.array([1, 2, 3, 4, 5])
    loss = sampled_loss(
        LossOf(MODEL), tokens, context_length=4, batch_size=3, batches=2, starts=[0]
    )
    assert loss == pytest.approx(mean_loss(tokens.tolist()), rel=1e-5)


def test_it_weighs_a_smaller_last_batch_by_its_size() -> None:
    """Windows of 1 + 1 at 0, 1, 2 in batches of 2: losses 0, 0 and 1e4, whose mean is 1e4 / 3."""
    tokens = np.array([0, 1, 2, 0])
    model = LossOf(successor(4, logit=1e4))
    loss = sampled_loss(model, tokens, context_length=1, batch_size=2, batches=2, starts=range(3))
    assert loss == pytest.approx(1e4 / 3)


def test_it_builds_no_graph() -> None:
    """It leaves the gradients of a run alone."""
    model = successor(16, logit=1.0)
    builds_graph: list[bool] = []
    model.lm_head.register_forward_hook(lambda *_: builds_graph.append(torch.is_grad_enabled()))
    sampled_loss(
        LossOf(model), np.arange(10), context_length=4, batch_size=2, batches=2, starts=range(6)
    )
    assert builds_graph == [False, False]
