"""Weights of the loss that let a model learn early to copy from its context."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmlib.data import TokenDataset
from lmlib.model import documents_of
from lmlib.tokens import Tokens, blocks

RARE = 1e-3  # share of the training tokens below which a token is rare
COUNTED = 1 << 28  # tokens, from all over the text: counting takes a second


@dataclass(frozen=True)
class CopyWeights:
    """Weights of the targets of a batch: more for those that can be copied, their mean is 1.

    A target can be copied if it is rare and the same token stands earlier in its window: the name
    of a hero, say. Such targets are few, and their share of the gradient is small next to that of
    the common tokens which a new model has yet to learn. With a weight of 10 at first, attention
    that looks names up forms within a few hundred steps and stays; without it, in some thousands.
    The weight must fall to 1 well before the end: until then, copies are predicted too often.

    rare  (vocab,), on the device of the batches
    """

    rare: Tensor

    @classmethod
    def of(cls, data: TokenDataset, device: torch.device) -> "CopyWeights":
        """Count the tokens of a training text, once; of a long one, COUNTED of them."""
        counts = np.zeros(data.info.vocab_size, dtype=np.int64)
        for block in sample(data.tokens, COUNTED):
            counts += np.bincount(block, minlength=data.info.vocab_size)
        return cls(torch.from_numpy(counts < RARE * counts.sum()).to(device))

    def __call__(
        self,
        inputs: Int[Tensor, "batch seq"],
        targets: Int[Tensor, "batch seq"],
        weight: float,
        separator_id: int | None = None,
    ) -> Float[Tensor, "batch seq"]:
        """Return `weight` for targets that can be copied and 1 for the others, over their mean.

        With a `separator_id`, a target can be copied only from its own document.
        """
        windows = torch.cat((inputs[:, :1], targets), dim=1)
        if separator_id is not None:  # the same token of another document is another one
            windows = windows + documents_of(windows, separator_id) * len(self.rare)
        copied = repeats(windows)[:, 1:] & self.rare[targets]
        weights = 1 + (weight - 1) * copied.float()
        return weights / weights.mean()


def sample(tokens: Tokens, count: int, size: int = 1 << 22) -> Iterator[np.ndarray]:
    """Yield all tokens in blocks, or, if they are more than `count`, blocks spread evenly."""
    if len(tokens) <= count:
        yield from blocks(tokens, size)
        return
    for start in np.linspace(0, len(tokens) - size, num=max(1, count // size), dtype=np.int64):
        yield tokens[int(start) : int(start) + size]


def copy_weight_at(step: int, num_steps: int, weight: float, fraction: float) -> float:
    """Return the weight of `step`, counted from 1: from `weight` in a straight line to 1.

    It reaches 1 after `fraction` of the steps.
    """
    return 1 + (weight - 1) * max(0.0, 1 - step / (fraction * num_steps)) if fraction else 1.0


def repeats(ids: Int[Tensor, "rows seq"]) -> Bool[Tensor, "rows seq"]:
    """Return True where the same id stands earlier in the row."""
    order = ids.argsort(dim=1, stable=True)
    ascending = ids.gather(1, order)
    again = torch.zeros_like(ids, dtype=torch.bool)
    return again.scatter(1, order[:, 1:], ascending[:, 1:] == ascending[:, :-1])
