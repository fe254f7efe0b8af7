"""Generation of tokens for batches of prompts, with a cache of keys and values or without."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmlib.model import KVCache, TransformerLM
from lmlib.sampling.decoders import decoder_for, padded
from lmlib.sampling.params import SamplingParams
from lmlib.sampling.warpers import next_token_probabilities, penalise_repetition


def window_start(num_tokens: int, context_length: int) -> int:
    """Return the first token of those that the model sees, of so many.

    All while they fit. Then the window keeps its newest half and fills up again, so that a cache
    is made anew once in half a context, not at every token.
    """
    step = context_length - context_length // 2
    return max(0, -(-(num_tokens - context_length) // step)) * step


class Generation:
    """Continuations of a batch of prompts, one token each per step.

    Row i * num_samples + j is the j-th continuation of prompt i. It ends with a token of
    `stop_ids` (which is not part of it), after `max_tokens`, or, with `beyond_context: stop`, when
    the model cannot see all of it. Its t-th token is drawn with the t-th number of a generator of
    its own on the CPU, seeded with seed + j. So, up to rounding, a text depends neither on its
    neighbours, nor on the cache, nor on the device. Rounding: the sums of a matrix product are
    ordered by its shape, which moves logits in their last digits; it changes a token only where
    two are as close as that. (The kernels for float32 on a CPU order sums in one way only: with
    them and a cache a text has the same bits beside any neighbours; see `CpuDecoder`.)

    rows:            the tokens of each row, prompt included
    finish_reasons:  stop, length or context, of the rows that have ended; None of the others
    """

    def __init__(
        self,
        model: TransformerLM,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        stop_ids: Collection[int] = (),
        *,
        use_cache: bool = True,
    ) -> None:
        if not prompts or any(not prompt for prompt in prompts):
            raise ValueError(
                "generate: there is no prompt, or one is empty; each begins with at least one token"
            )
        self.model = model
        self.params = params
        self.stop_ids = stop_ids
        self.device = model.token_embeddings.weight.device
        self.context_length = model.params.context_length
        self.rows = [list(prompt) for prompt in prompts for _ in range(params.num_samples)]
        self.prompt_lengths = [len(row) for row in self.rows]
        self.finish_reasons: list[str | None] = [None] * len(self.rows)
        self.active = list(range(len(self.rows)))
        self.step_number = 0
        numbers = [
            torch.rand(
                params.max_tokens,
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(params.seed + j),
            )
            for j in range(params.num_samples)
        ]
        self.numbers = torch.stack(numbers).repeat(len(prompts), 1)
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(
                len(self.rows), model.vocab_size, dtype=torch.bool, device=self.device
            )
            for seen, row in zip(self.seen, self.rows, strict=True):
                seen[row] = True
        self.cache: KVCache | None = None
        self.cached = list(self.active)  # the rows that the cache has
        if use_cache:
            self.decoder = decoder_for(model)
            with torch.inference_mode():
                self.cache = self._filled([list(prompt) for prompt in prompts])
                if params.num_samples > 1:  # to copy a cache takes as long as some steps
                    rows = [i for i in range(len(prompts)) for _ in range(params.num_samples)]
                    self.cache = self.cache.select(rows)

    @torch.inference_mode()
    def step(self) -> list[int | None]:
        """Return the next token of each row; None of those that have ended."""
        drawn: list[int | None] = [None] * len(self.rows)
        if self.params.beyond_context == "stop":
            for row in list(self.active):
                if len(self.rows[row]) > self.context_length:
                    self.end(row, "context")
        if not self.active:
            return drawn
        tokens = self._draw(self._logits()).tolist()
        self.step_number += 1
        for row, token in zip(list(self.active), tokens, strict=True):
            if token in self.stop_ids:
                self.end(row, "stop")
                continue
            self.rows[row].append(token)
            drawn[row] = token
            if self.step_number == self.params.max_tokens:
                self.end(row, "length")
        return drawn

    def end(self, row: int, reason: str) -> None:
        """End a row; the others go on without it."""
        if self.finish_reasons[row] is None:
            self.active.remove(row)
        self.finish_reasons[row] = reason

    def _window(self, row: Sequence[int]) -> Sequence[int]:
        return row[window_start(len(row), self.context_length) :]

    def _filled(self, rows: Sequence[Sequence[int]]) -> KVCache:
        """Return a cache with all but the last token of each row's window."""
        return self.decoder.fill([self._window(row)[:-1] for row in rows])

    def _logits(self) -> Float[Tensor, "active vocab"]:
        """Return the logits of each active row's next token."""
        rows = [self.rows[i] for i in self.active]
        if self.cache is None:
            windows = [self._window(row) for row in rows]
            last = torch.tensor([len(window) - 1 for window in windows], device=self.device)
            logits = self.model(padded(windows, self.device))
            return logits[torch.arange(len(rows), device=self.device), last]
        if self.cached != self.active:  # once for all that ended: a copy takes as long as a step
            self.cache = self.cache.select([self.cached.index(row) for row in self.active])
            self.cached = list(self.active)
        slid = [
            at
            for at, row in enumerate(rows)
            if self.cache.lengths[at] != len(self._window(row)) - 1
        ]
        if slid:
            self.cache.replace(slid, self._filled([rows[at] for at in slid]))
        return self.decoder.logits(self.cache, [row[-1] for row in rows])

    def _draw(self, logits: Float[Tensor, "active vocab"]) -> Int[Tensor, " active"]:
        """Return a token for each active row."""
        if self.params.repetition_penalty != 1:
            seen = self.seen[self.active]
            logits = penalise_repetition(logits, seen, self.params.repetition_penalty)
        if self.params.temperature == 0:
            tokens = logits.argmax(dim=-1)
        else:
            numbers = self.numbers[self.active, self.step_number]
            tokens = draw(next_token_probabilities(logits, self.params), numbers)
        if self.params.repetition_penalty != 1:
            self.seen[self.active, tokens] = True
        return tokens


def draw(
    probabilities: Float[Tensor, "rows vocab"], numbers: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """Return the tokens at which the sums of probabilities pass numbers from [0, 1).

    Raises FloatingPointError for probabilities that are not finite.
    """
    device = probabilities.device
    if device.type == "mps":  # has no float64
        probabilities = probabilities.cpu()
    sums = probabilities.double().cumsum(dim=-1)
    if not bool(sums[:, -1].isfinite().all()):
        raise FloatingPointError("the model's logits are not finite: its training diverged")
    targets = numbers.to(sums.device).unsqueeze(1) * sums[:, -1:]
    return torch.searchsorted(sums, targets, right=True).squeeze(1).to(device)


def generate_tokens(
    model: TransformerLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    stop_ids: Collection[int] = (),
    *,
    use_cache: bool = True,
) -> Iterator[list[int | None]]:
    """Yield, for each step, the next token of each row of a `Generation`; None of ended ones."""
    generation = Generation(model, prompts, params, stop_ids, use_cache=use_cache)
    while generation.active:
        drawn = generation.step()
        if any(token is not None for token in drawn):
            yield drawn


def generate(
    model: TransformerLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    stop_ids: Collection[int] = (),
    *,
    use_cache: bool = True,
) -> list[list[list[int]]]:
    """Return, for each prompt, the tokens of its continuations; see `Generation`."""
    generation = Generation(model, prompts, params, stop_ids, use_cache=use_cache)
    while generation.active:
        generation.step()
    new = [
        row[length:] for row, length in zip(generation.rows, generation.prompt_lengths, strict=True)
    ]
    return [new[i : i + params.num_samples] for i in range(0, len(new), params.num_samples)]
