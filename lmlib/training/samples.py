"""Texts that a model writes while it trains: to look at, without any effect on the run."""

import contextlib
from collections.abc import Iterator

import torch

from lmlib.model import TransformerLM

Text = tuple[int, str]  # the number of finished steps, and what the model then wrote


class Samples:
    """The newest texts of a run, each once; part of its states, so that a resumed run has them."""

    kept = 50

    def __init__(self) -> None:
        self.texts: list[Text] = []

    def add(self, step: int, text: str) -> None:
        """Add the text written after `step` steps."""
        self.texts = [*self.texts, (step, text)][-self.kept :]

    def state_dict(self) -> dict[str, list[Text]]:
        """Return what a saved state contains."""
        return {"texts": self.texts}

    def load_state_dict(self, state: dict[str, list[Text]], /) -> None:
        """Restore what `state_dict` returned."""
        self.texts = state["texts"]


@contextlib.contextmanager
def as_evaluated(model: TransformerLM) -> Iterator[None]:
    """Within the context, a model in training is one that texts can be drawn from.

    Its residual stream is as wide as its weights. CUDA may add in any order, since PyTorch has no
    ordered cumulative sum, which drawing a token needs.
    """
    residual = model.residual_dtype
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    model.residual_dtype = None
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        model.residual_dtype = residual
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
