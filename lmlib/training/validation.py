"""The validation loss during a run, always on the same few windows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lmlib.model import documents_of
from lmlib.runtime import to_device
from lmlib.tokens import Tokens


@torch.no_grad()
def sampled_loss(
    next_token_loss: nn.Module,
    tokens: Tokens,
    *,
    context_length: int,
    batch_size: int,
    batches: int,
    starts: Sequence[int] | np.ndarray,
    separator_id: int | None = None,
) -> float:
    """Return the mean loss, in nats, of `batches` batches of windows spread evenly over a text.

    They begin at some of `starts`, and are always the same, so the values of one run compare
    without noise. A quick estimate; `lmlib.evaluation` scores the whole text.
    `next_token_loss` is a `lmlib.model.NextTokenLoss`. With a `separator_id` it also gets the
    `documents_of` the inputs, so that it can keep attention within them.
    """
    device = next(next_token_loss.parameters()).device
    num = min(batches * batch_size, len(starts))
    chosen = [int(starts[i]) for i in np.linspace(0, len(starts) - 1, num=num, dtype=np.int64)]
    nats = 0.0
    for first in range(0, num, batch_size):
        rows = [tokens[s : s + context_length + 1] for s in chosen[first : first + batch_size]]
        windows = to_device(torch.from_numpy(np.stack(rows).astype(np.int64)), device)
        batch = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}
        if separator_id is not None:
            batch["documents"] = documents_of(batch["inputs"], separator_id)
        _, loss = next_token_loss(**batch)
        nats += loss.item() * len(rows)
    return nats / num
