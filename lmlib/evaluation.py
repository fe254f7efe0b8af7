"""Loss in nats per token, perplexity and bits per byte."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lmlib.device import to_device
from lmlib.functional import cross_entropy


@dataclass(frozen=True)
class Evaluation:
    """Score of a text.

    loss:           mean negative log-likelihood, nats per scored token
    perplexity:     exp(loss)
    bits_per_byte:  total negative log-likelihood in bits / bytes of the source text: comparable
                    between tokenizers, which loss and perplexity are not
    tokens:         number of tokens scored, each once
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: np.ndarray,
    source_bytes: int,
    *,
    context_length: int,
    batch_size: int,
    start_id: int | None = None,
) -> Evaluation:
    """Score every token of a text once, in consecutive windows of `context_length`.

    With `start_id`, the id of the separator of documents, the first token is scored as the first
    of a document; without it the first token is context only, for nothing stands before it (its
    bytes still count in bits_per_byte).
    """
    nats, count = 0.0, 0
    for inputs, targets in _windows(tokens, context_length, batch_size, start_id):
        nats += _loss(model, inputs, targets) * targets.numel()
        count += targets.numel()
    if not count:
        raise ValueError(f"evaluate: a text of {len(tokens)} tokens leaves none to score")
    loss = nats / count
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),  # exp(710) is beyond float64
        bits_per_byte=nats / math.log(2) / source_bytes,
        tokens=count,
    )


@torch.no_grad()
def sampled_loss(
    next_token_loss: nn.Module,
    tokens: np.ndarray,
    *,
    context_length: int,
    batch_size: int,
    batches: int,
) -> float:
    """Return the mean loss over `batches` batches of windows spread evenly over a text.

    The same windows every time: values within one training compare without noise. A quick
    estimate; `evaluate` scores the whole text. `next_token_loss(inputs, targets)` is the mean
    loss of a batch, as of `lmlib.model.NextTokenLoss`.
    """
    device = next(next_token_loss.parameters()).device
    last = len(tokens) - context_length - 1
    starts = np.linspace(0, last, num=min(batches * batch_size, last + 1), dtype=np.int64)
    nats = 0.0
    for first in range(0, len(starts), batch_size):
        rows = [tokens[s : s + context_length + 1] for s in starts[first : first + batch_size]]
        windows = to_device(_to_tensor(np.stack(rows)), device)
        nats += next_token_loss(windows[:, :-1], windows[:, 1:]).item() * len(rows)
    return nats / len(starts)


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    device = next(model.parameters()).device
    return cross_entropy(model(inputs.to(device)), targets.to(device)).item()


def _to_tensor(tokens: np.ndarray) -> Int[Tensor, "..."]:
    return torch.from_numpy(tokens.astype(np.int64))


def _windows(
    tokens: np.ndarray, context_length: int, batch_size: int, start_id: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, targets) whose targets, put together, are the text in order.

    Full windows come in batches; the shorter rest of the text comes last, alone.
    """
    begin = 1 if start_id is None else 0  # the first token that is scored
    full = max(0, len(tokens) - begin) // context_length
    rest = begin + full * context_length
    for first in range(0, full, batch_size):
        rows = min(batch_size, full - first)
        start = begin + first * context_length
        end = start + rows * context_length
        targets = _to_tensor(tokens[start:end])
        inputs = torch.cat((_before(tokens, start, start_id), targets[:-1]))
        yield inputs.view(rows, context_length), targets.view(rows, context_length)
    if rest < len(tokens):
        targets = _to_tensor(tokens[rest:])
        inputs = torch.cat((_before(tokens, rest, start_id), targets[:-1]))
        yield inputs.unsqueeze(0), targets.unsqueeze(0)


def _before(tokens: np.ndarray, start: int, start_id: int | None) -> Int[Tensor, "1"]:
    """Return the token before `start`; before the text stands its start token."""
    return torch.tensor([start_id if start == 0 else int(tokens[start - 1])])
