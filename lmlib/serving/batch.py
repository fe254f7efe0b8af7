"""Continuous batching: rows that join and leave while others are being decoded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lmlib.model import KVCache, TransformerLM
from lmlib.runtime import one_thread
from lmlib.sampling import SamplingParams, next_token_probabilities, penalise_repetition
from lmlib.sampling.decoders import decoder_for
from lmlib.sampling.generation import check_finite, draw, window_start


@dataclass(frozen=True)
class Scored:
    """A token, and what the model thought of it before any sampling option.

    logprob:  in nats; None if no token is before it, or if nobody asked
    top:      the most likely tokens in its place and their logprobs, the most likely first
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Row:
    """A continuation of a prompt.

    tokens:  those of the prompt, at least one, then those drawn
    params:  how to draw. The t-th token is drawn with the t-th number of a generator with
             `params.seed`, as in `lmlib.sampling.Generation`, so that the texts are the same
    top:     for how many of the most likely tokens to report logprobs; None: no logprobs
    """

    tokens: list[int]
    params: SamplingParams
    top: int | None = None
    numbers: list[float] = field(init=False)
    drawn: int = field(init=False, default=0)
    seen: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.params.seed)
        count = self.params.max_tokens
        self.numbers = torch.rand(count, dtype=torch.float64, generator=generator).tolist()
        self.warping = replace(
            self.params, prompts=(), stop=(), seed=0, num_samples=1, max_tokens=1
        )


class Batch:
    """Rows of any age, each extended by one token per step.

    A row's tokens do not depend on its neighbours, up to rounding; with a `CpuDecoder`, which is
    batch-invariant, they have the same bits. For that, what PyTorch computes is computed row by
    row too: softmax, sorting and sums of a row do not depend on the others.

    The cache has places for a power of two of rows. A row that leaves, leaves its place for the
    next one, since copying a cache takes as long as a few steps. What an empty place computes is
    not used.
    """

    def __init__(self, model: TransformerLM) -> None:
        self.model = model
        self.context_length = model.params.context_length
        self.decoder = decoder_for(model)
        self.places: list[Row | None] = []
        self.cache: KVCache | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows that a step extends."""
        return [row for row in self.places if row is not None]

    @torch.inference_mode()
    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, with the keys and values of their prompts; equal prompts are computed once."""
        windows = [tuple(self._window(row)[:-1]) for row in rows]
        distinct = list(dict.fromkeys(windows))
        filled = self.decoder.fill(distinct)
        if len(distinct) < len(windows):
            filled = filled.select([distinct.index(window) for window in windows])
        cache = self._with_places_for(len(self.rows) + len(rows))
        free = [place for place, row in enumerate(self.places) if row is None][: len(rows)]
        cache.replace(free, filled)
        for place, row in zip(free, rows, strict=True):
            self.places[place] = row
            if row.params.repetition_penalty != 1:
                row.seen = torch.zeros(self.model.vocab_size, dtype=torch.bool)
                row.seen[row.tokens] = True
                row.seen = row.seen.to(cache.keys_values.device)

    def remove(self, rows: Iterable[Row]) -> None:
        """Remove rows that are done, or that nobody wants any more."""
        gone = set(rows)
        self.places = [None if row in gone else row for row in self.places]
        if not self.rows and not self.decoder.keeps_rows:
            self.places, self.cache = [], None

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, Scored]]:
        """Extend each row by a token; return the rows with their tokens."""
        rows = self.rows
        if not rows or self.cache is None:
            return []
        if not self.decoder.keeps_rows and 2 * len(rows) < len(self.places):
            self._with_places_for(len(rows))
        for place, row in enumerate(self.places):
            if row is None:
                self.cache.lengths[place] = 0  # it overwrites its first token for ever
        slid = [
            place
            for place, row in enumerate(self.places)
            if row is not None and self.cache.lengths[place] != len(self._window(row)) - 1
        ]
        if slid:
            windows = [self._window(row)[:-1] for place in slid if (row := self.places[place])]
            self.cache.replace(slid, self.decoder.fill(windows))
        last = [0 if row is None else row.tokens[-1] for row in self.places]
        logits = self.decoder.logits(self.cache, last)
        if len(rows) < len(self.places):
            logits = logits[[place for place, row in enumerate(self.places) if row is not None]]
        with one_thread():
            scored = _scored(rows, _draw(rows, logits), logits)
        for row, token in zip(rows, scored, strict=True):
            row.tokens.append(token.id)
            row.drawn += 1
            if row.seen is not None:
                row.seen[token.id] = True
        return list(zip(rows, scored, strict=True))

    def _window(self, row: Row) -> list[int]:
        return row.tokens[window_start(len(row.tokens), self.context_length) :]

    def _with_places_for(self, count: int) -> KVCache:
        """Return the cache with a place for each of `count` rows."""
        capacity = 1 << (count - 1).bit_length()
        if self.cache is None:
            self.cache = self.decoder.empty_cache(capacity)
            self.places = [None] * capacity
        elif len(self.places) < count or capacity < len(self.places):
            if self.decoder.keeps_rows and capacity < len(self.places):
                return self.cache
            kept = [place for place, row in enumerate(self.places) if row is not None]
            self.cache = self.cache.select([*kept, *[0] * (capacity - len(kept))])
            self.places = [self.places[place] for place in kept]
            self.places += [None] * (capacity - len(kept))
        return self.cache


def _draw(rows: Sequence[Row], logits: Float[Tensor, "rows vocab"]) -> list[int]:
    """Return a token for each row; rows with equal options are drawn together."""
    groups: dict[SamplingParams, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.warping, []).append(index)
    tokens = [0] * len(rows)
    for params, members in groups.items():
        for index, token in zip(members, _drawn(params, rows, logits, members), strict=True):
            tokens[index] = token
    return tokens


def _drawn(
    params: SamplingParams,
    rows: Sequence[Row],
    logits: Float[Tensor, "rows vocab"],
    members: Sequence[int],
) -> list[int]:
    """Return a token for each of the members, which have the same options."""
    logits = logits[members]
    if params.repetition_penalty != 1:
        check_finite(logits.amax(dim=-1))  # the penalty keeps all within their range
        seen = torch.stack([s for i in members if (s := rows[i].seen) is not None])
        logits = penalise_repetition(logits, seen, params.repetition_penalty)
    if params.temperature == 0:
        largest, drawn = logits.max(dim=-1)  # NaN if any of them is
        check_finite(largest)
        return drawn.tolist()
    numbers = torch.tensor([rows[i].numbers[rows[i].drawn] for i in members], dtype=torch.float64)
    return draw(next_token_probabilities(logits, params), numbers).tolist()


def _scored(
    rows: Sequence[Row], tokens: Sequence[int], logits: Float[Tensor, "rows vocab"]
) -> list[Scored]:
    """Return the tokens with the logprobs that their rows want."""
    scored = [Scored(token) for token in tokens]
    wanting = [index for index, row in enumerate(rows) if row.top is not None]
    if wanting:
        tops = [rows[index].top or 0 for index in wanting]
        chosen = [tokens[index] for index in wanting]
        found = with_logprobs(logits[wanting], chosen, tops)
        for index, token in zip(wanting, found, strict=True):
            scored[index] = token
    return scored


def with_logprobs(
    logits: Float[Tensor, "rows vocab"], tokens: Sequence[int], tops: Sequence[int]
) -> list[Scored]:
    """Return tokens with their logprobs, and for each row those of its `tops` most likely ones."""
    log_p = logits.log_softmax(dim=-1, dtype=torch.float32)
    chosen = log_p.gather(-1, torch.tensor(tokens, device=log_p.device).unsqueeze(-1))
    values, ids = log_p.topk(min(max(tops), log_p.shape[-1]), dim=-1)
    return [
        Scored(token, logprob, tuple(zip(best[:top], nats[:top], strict=True)))
        for token, (logprob,), best, nats, top in zip(
            tokens, chosen.tolist(), ids.tolist(), values.tolist(), tops, strict=True
        )
    ]
