"""Loss in nats per token, perplexity, bits per byte and accuracy on a text."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lmlib.data import Windows
from lmlib.model.loss import rows_at_a_time
from lmlib.model.mask import documents_of
from lmlib.model.transformer import TransformerLM
from lmlib.monitoring.progress import progress_bar
from lmlib.params import Count, CountOrZero, check_bounds
from lmlib.runtime import Runtime, to_device
from lmlib.tokens import Tokens, find_separators

CPU_TOKENS, GPU_TOKENS = 1 << 12, 1 << 16  # per pass, chosen for memory and speed


@dataclass(frozen=True)
class EvaluationParams:
    """How the validation text is scored: the section `evaluation` of params.yaml.

    windows:        documents (a document is scored from its beginning), isolated (with nothing else
                    in sight) or any; see `evaluate`
    stride:         number of tokens that each window scores after the first (of a document); if
                    it is at least context_length, windows do not overlap
    copied_tokens:  a sample counts as copied when this many consecutive tokens of it are in the
                    training text; Carlini et al. 2023, arXiv:2202.07646, and others take 50
    stories:        number of stories to write, of which the names are counted; 0: none
    device:         auto (cuda, mps, cpu), cpu, cuda, cuda:N or mps
    """

    windows: Windows
    stride: Count
    copied_tokens: Count
    stories: CountOrZero
    device: str

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Evaluation:
    """Scores on a text.

    loss:              mean negative log-likelihood, nats per scored token
    perplexity:        exp(loss)
    bits_per_byte:     total negative log-likelihood in bits / bytes of the source text: comparable
                       between tokenizers, which loss and perplexity are not
    accuracy:          share of scored tokens to which the model gives the highest probability
    tokens:            number of tokens scored, each once
    loss_by_position:  at index i, the mean loss of the predictions for which the model has seen
                       i + 1 tokens, in nats. The mean is over all predictions, including those
                       whose token another window scores.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    accuracy: float
    tokens: int
    loss_by_position: tuple[float, ...]

    def metrics(self) -> dict[str, float]:
        """Return the scores that are single numbers."""
        return {name: value for name, value in vars(self).items() if name != "loss_by_position"}


@runtime_checkable
class LanguageModel(Protocol):
    """What can be scored: a TransformerLM, or an adapter of another model."""

    vocab_size: int

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights, which are all on one device."""
        ...

    def hidden(self, token_ids: Int[Tensor, "... seq"], /) -> Float[Tensor, "... seq d_model"]:
        """Return the input of `logits` for each token."""
        ...

    def logits(self, hidden: Float[Tensor, "... d_model"], /) -> Float[Tensor, "... vocab"]:
        """Return the logits of what `hidden` returned."""
        ...


class TokenScores(nn.Module):
    """The loss of each target in nats, and whether it is the most likely token."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Int[Tensor, "batch seq"],
        targets: Int[Tensor, "batch seq"],
        documents: Int[Tensor, "batch seq"] | None = None,
    ) -> tuple[Float[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
        """Score all targets, with the logits of a few rows at a time in memory.

        With the `documents_of` the inputs, each from its own alone, by a TransformerLM; any other
        model raises TypeError.
        """
        if documents is None:
            hidden = self.model.hidden(inputs)
        elif isinstance(self.model, TransformerLM):
            hidden = self.model.hidden(inputs, documents=documents)
        else:
            raise TypeError(
                f"evaluate: the attention of a {type(self.model).__name__} cannot be kept within "
                "documents; score it with windows='documents'"
            )
        hidden = hidden.flatten(0, -2)
        rows = rows_at_a_time(len(hidden), self.model.vocab_size, hidden.device)
        nats, is_top = [], []
        for part, target in zip(hidden.split(rows), targets.flatten().split(rows), strict=True):
            logits = self.model.logits(part)
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            nats.append(-log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1))
            is_top.append(logits.argmax(dim=-1) == target)
        return torch.cat(nats).view_as(targets), torch.cat(is_top).view_as(targets)


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    tokens: Tokens,
    source_bytes: int,
    *,
    context_length: int,
    windows: Windows = "any",
    stride: int | None = None,
    batch_size: int | None = None,
    start_id: int | None = None,
) -> Evaluation:
    """Score every token of a text once, in windows of `context_length` tokens.

    any        The first window scores all its tokens; each later one its last `stride` (default:
               context_length), with at least context_length - stride tokens before them as context.
    documents  A window begins with a document and scores the documents that it holds whole, each
               token with all of its document before it. Of a longer document the first window
               scores all its tokens, each later one its last `stride`.
    isolated   As `documents`, but a token sees no other document of its window: it has the scores
               that its document has alone. A model that was trained this way must be scored so.

    In all cases the last window ends with the text, and scores the rest.

    With `start_id`, the id of the document separator, the first token is scored as the first
    of a document; without it the first token is only context, since nothing precedes it (its
    bytes still count in bits_per_byte), and the text is one document.

    `batch_size` windows pass through the model together, by default a number that suits the device.
    Sums are in float64; on one machine equal arguments give equal bits.
    Raises ValueError when no token is left to score.
    """
    num_scored = len(tokens) - (start_id is None)
    if num_scored < 1:
        raise ValueError(f"evaluate: a text of {len(tokens)} tokens leaves none to score")
    length = min(context_length, num_scored)
    stride = min(stride or length, length)
    if windows == "any" or start_id is None:
        ends = np.append(np.arange(length, num_scored, stride), num_scored)
        done = np.append(0, ends[:-1])
        spans = np.stack((ends - length, done, ends), axis=1)
    else:
        spans = _document_spans(tokens, start_id, length, stride)
    nats, right = 0.0, 0
    nats_by_position, predictions = np.zeros(length), np.zeros(length)
    numbers = np.arange(1, length + 1)  # of the targets, from the window's start on
    separator_id = start_id if windows == "isolated" else None
    for batch, losses, is_top, first_seen in _scores(
        model, tokens, spans, length, batch_size, start_id, separator_id
    ):
        start, done, end = spans[batch].T[:, :, None]
        is_new = (done < start + numbers) & (start + numbers <= end)
        nats += float(losses[is_new].sum())
        right += int(is_top[is_new].sum())
        positions = (numbers - 1 - first_seen).ravel()
        nats_by_position += np.bincount(positions, losses.ravel(), minlength=length)
        predictions += np.bincount(positions, minlength=length)
    longest = np.count_nonzero(predictions)  # of the documents, if they are isolated
    mean = nats / num_scored
    return Evaluation(
        loss=mean,
        perplexity=math.exp(min(mean, 700.0)),  # exp(710) is beyond float64
        bits_per_byte=nats / math.log(2) / source_bytes,
        accuracy=right / num_scored,
        tokens=num_scored,
        loss_by_position=tuple((nats_by_position[:longest] / predictions[:longest]).tolist()),
    )


def _document_spans(
    tokens: Tokens, separator_id: int, length: int, stride: int
) -> Int[np.ndarray, "windows 3"]:
    """Return (start, done, end) of each window that `evaluate` takes of a text by documents.

    These are numbers of tokens, from 1, of the text; the separator before it has number 0. The
    window has the inputs `start` to `start + length - 1` and scores the tokens `done + 1` to `end`.
    """
    # the separators before them
    documents = np.concatenate(([0], 1 + find_separators(tokens, separator_id)))
    spans, done = [], 0
    while done < len(tokens):
        document = int(documents[documents.searchsorted(done, side="right") - 1])
        start = done if done == document else max(document, done - (length - stride))
        start = min(start, len(tokens) - length)
        whole = int(documents[documents.searchsorted(start + length, side="right") - 1])
        end = whole if whole > done else start + length
        if start + length == len(tokens):
            end = len(tokens)
        spans.append((start, done, end))
        done = end
    return np.array(spans)


def position_curve(scores: Evaluation, points: int = 64) -> list[tuple[float, float]]:
    """Return loss_by_position as at most `points` pairs (tokens of context, loss in nats).

    From about ten tokens of context on, a pair is the mean over a range that grows with the
    context: the loss changes fast at the beginning of a window and slowly at its end.
    """
    loss = np.array(scores.loss_by_position)
    edges = np.unique(np.geomspace(1, len(loss) + 1, points + 1).round().astype(int) - 1)
    return [
        ((first + last + 1) / 2, float(loss[first:last].mean()))
        for first, last in pairwise(edges.tolist())
    ]


def _scores(
    model: LanguageModel,
    tokens: Tokens,
    spans: np.ndarray,
    length: int,
    batch_size: int | None,
    start_id: int | None,
    separator_id: int | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, for each batch of windows, their indices and the scores of all their tokens.

    losses      (windows, length), nats, float64
    is_top      (windows, length)
    first_seen  (windows, length), the first input that the model saw: of the document, with the
                `separator_id` of documents to isolate; else of the window, 0
    """
    device = next(model.parameters()).device
    at_a_time = CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
    passes = math.ceil(len(spans) / (batch_size or max(1, at_a_time // length)))
    rows = math.ceil(len(spans) / passes)
    batches = np.array_split(np.arange(len(spans)), passes)
    scores: nn.Module = TokenScores(model)
    runtime = Runtime(device)
    runtime.keep_freed_memory()
    with progress_bar("evaluate", passes, "batches") as bar, runtime.deterministic():
        zeros = torch.zeros(rows, length, dtype=torch.int64, device=device)
        trial = (zeros, zeros, None if separator_id is None else zeros)
        weights = sum(p.numel() for p in model.parameters())
        operations = 2 * weights * passes * rows * length
        scores = runtime.compile(scores, lambda module: module(*trial), "auto", operations)
        for batch in batches:
            filled = spans[np.resize(batch, rows), 0]  # one shape for all: compiled once
            ids = np.stack([_window(tokens, start, length, start_id) for start in filled.tolist()])
            windows = to_device(_to_tensor(ids), device)
            inputs, targets = windows[:, :-1], windows[:, 1:]
            documents = None if separator_id is None else documents_of(inputs, separator_id)
            losses, is_top = scores(inputs, targets, documents)
            first_seen = torch.zeros_like(inputs) if documents is None else documents
            yield (
                batch,
                losses[: len(batch)].cpu().numpy().astype(np.float64),
                is_top[: len(batch)].cpu().numpy(),
                first_seen[: len(batch)].cpu().numpy(),
            )
            bar.update()


def _to_tensor(tokens: np.ndarray) -> Int[Tensor, "..."]:
    return torch.from_numpy(tokens.astype(np.int64))


def _window(tokens: Tokens, start: int, length: int, start_id: int | None) -> np.ndarray:
    """Return `length` inputs, from number `start` on, and the last target.

    Number 0 is the separator before the text, or without one the text's first token.
    """
    if start_id is None:
        return tokens[start : start + length + 1]
    window = tokens[max(0, start - 1) : start + length]
    return window if start else np.append(start_id, window)
