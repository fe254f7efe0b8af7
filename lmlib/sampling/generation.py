"""Token generation for batches of prompts, with or without a KV cache."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmlib.memory import require_memory
from lmlib.model import KVCache, TransformerLM
from lmlib.runtime import one_thread
from lmlib.sampling.decoders import decoder_for, padded
from lmlib.sampling.params import SamplingParams
from lmlib.sampling.warpers import next_token_probabilities, penalise_repetition
from lmlib.tokenizer.ids import whole_ids


def window_start(num_tokens: int, context_length: int) -> int:
    """Return the index at which the model's window begins: 0 while all `num_tokens` fit.

    A full window keeps its newest half and fills up again, so that a cache is rebuilt once per
    half context, not at every token.
    """
    step = context_length - context_length // 2
    return max(0, -(-(num_tokens - context_length) // step)) * step


@dataclass(eq=False)
class Row:
    """One continuation of a prompt.

    tokens:         those of the prompt, then those drawn
    prompt_length:  number of tokens of the prompt
    numbers:        random numbers in [0, 1); the t-th one draws the t-th token
    finish_reason:  stop, length or context; None until the row has ended
    """

    index: int
    tokens: list[int]
    prompt_length: int
    numbers: list[float]
    finish_reason: str | None = None

    @property
    def drawn(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.prompt_length :]


class Generation:
    """Continuations of a batch of prompts, each extended by one token per step.

    Row i * num_samples + j is the j-th continuation of prompt i. It ends at a token in
    `stop_ids` (which is not part of it), after `max_tokens`, or, with `beyond_context: stop`, when
    it no longer fits the model's context. Its t-th token is drawn with the t-th number of its own
    generator on the CPU, seeded with seed + j. So, up to rounding, a text does not depend on its
    neighbours, the cache or the device. Rounding: the shape of a matrix product determines the
    order of its sums, which changes the last digits of logits; this changes a token only if two
    are nearly tied. (The kernels for float32 on a CPU are batch-invariant: with them and a cache,
    a text has the same bits whatever its neighbours; see `CpuDecoder`.)

    prompts:  rows of token ids, in any form that `whole_ids` knows
    rows:     one `Row` for each continuation; a caller may end one by setting its finish_reason
    """

    def __init__(
        self,
        model: TransformerLM,
        prompts: Iterable[Iterable[Any]],
        params: SamplingParams,
        stop_ids: Iterable[Any] = (),
        *,
        use_cache: bool = True,
    ) -> None:
        rows = [whole_ids(prompt, "generate") for prompt in prompts]
        if not rows or not all(rows):
            raise ValueError(
                "generate: there is no prompt, or one is empty; each needs at least one token"
            )
        require_sampling_memory(model, len(rows), params, use_cache=use_cache)
        for token in chain.from_iterable(rows):
            if not 0 <= token < model.vocab_size:
                raise ValueError(
                    f"generate: {token} is not a token id of this model, which knows "
                    f"{model.vocab_size}; encode the prompts with its tokenizer"
                )
        self.model = model
        self.params = params
        self.stop_ids = set(whole_ids(stop_ids, "generate"))
        self.device = model.token_embeddings.weight.device
        self.context_length = model.params.context_length
        numbers = [
            torch.rand(
                params.max_tokens,
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(params.seed + j),
            ).tolist()
            for j in range(params.num_samples)
        ]
        self.rows = [
            Row(i * params.num_samples + j, list(prompt), len(prompt), numbers[j])
            for i, prompt in enumerate(rows)
            for j in range(params.num_samples)
        ]
        self.step_number = 0
        if params.repetition_penalty != 1:
            self.seen = torch.zeros(
                len(self.rows), model.vocab_size, dtype=torch.bool, device=self.device
            )
            for row in self.rows:
                self.seen[row.index, row.tokens] = True
        self.cache: KVCache | None = None
        self.cached = self.rows  # the rows that the cache holds
        if use_cache:
            self.decoder = decoder_for(model)
            with torch.inference_mode():
                self.cache = self._filled(self.rows[:: params.num_samples])
                if params.num_samples > 1:  # copying a cache takes as long as a few steps
                    copies = [i for i in range(len(rows)) for _ in range(params.num_samples)]
                    self.cache = self.cache.select(copies)

    @property
    def active(self) -> list[Row]:
        """The rows that have not ended."""
        return [row for row in self.rows if row.finish_reason is None]

    @torch.inference_mode()
    def step(self) -> list[int | None]:
        """Take one step; return the new token of each row, None for rows that have ended."""
        if self.params.beyond_context == "stop":
            for row in self.active:
                if len(row.tokens) > self.context_length:
                    row.finish_reason = "context"
        drawn: list[int | None] = [None] * len(self.rows)
        active = self.active
        if not active:
            return drawn
        logits = self._logits(active)
        with one_thread():
            tokens = self._draw(active, logits).tolist()
        self.step_number += 1
        for row, token in zip(active, tokens, strict=True):
            if token in self.stop_ids:
                row.finish_reason = "stop"
                continue
            row.tokens.append(token)
            drawn[row.index] = token
            if self.step_number == self.params.max_tokens:
                row.finish_reason = "length"
        return drawn

    def _window(self, row: Row) -> list[int]:
        return row.tokens[window_start(len(row.tokens), self.context_length) :]

    def _filled(self, rows: Sequence[Row]) -> KVCache:
        """Return a cache with all but the last token of each row's window."""
        return self.decoder.fill([self._window(row)[:-1] for row in rows])

    def _logits(self, active: list[Row]) -> Float[Tensor, "active vocab"]:
        """Return the logits of each active row's next token."""
        if self.cache is None:
            windows = [self._window(row) for row in active]
            last = torch.tensor([len(window) - 1 for window in windows], device=self.device)
            logits = self.model(padded(windows, self.device))
            return logits[torch.arange(len(active), device=self.device), last]
        if self.cached != active and not (
            self.decoder.keeps_rows and 2 * len(active) > len(self.cached)
        ):  # once for all rows that ended: a copy takes as long as a step
            self.cache = self.cache.select([self.cached.index(row) for row in active])
            self.cached = active
        places = [place for place, row in enumerate(self.cached) if row.finish_reason is None]
        for place, row in enumerate(self.cached):
            if row.finish_reason is not None:  # its steps start over, since nobody reads them
                self.cache.lengths[place] = 0
        slid = [
            place
            for place, row in zip(places, active, strict=True)
            if self.cache.lengths[place] != len(self._window(row)) - 1
        ]
        if slid:
            self.cache.replace(slid, self._filled([self.cached[place] for place in slid]))
        logits = self.decoder.logits(self.cache, [row.tokens[-1] for row in self.cached])
        return logits if len(places) == len(self.cached) else logits[places]

    def _draw(
        self, active: list[Row], logits: Float[Tensor, "active vocab"]
    ) -> Int[Tensor, " active"]:
        """Return a token for each active row."""
        indices = [row.index for row in active]
        if self.params.repetition_penalty != 1:
            check_finite(logits.amax(dim=-1))  # the penalty keeps all within their range
            seen = self.seen[indices]
            logits = penalise_repetition(logits, seen, self.params.repetition_penalty)
        if self.params.temperature == 0:
            largest, tokens = logits.max(dim=-1)  # NaN if any of them is
            check_finite(largest)
        else:
            numbers = [row.numbers[self.step_number] for row in active]
            tokens = draw(
                next_token_probabilities(logits, self.params),
                torch.tensor(numbers, dtype=torch.float64),
            )
        if self.params.repetition_penalty != 1:
            self.seen[indices, tokens] = True
        return tokens


def require_sampling_memory(
    model: TransformerLM, num_prompts: int, params: SamplingParams, *, use_cache: bool = True
) -> None:
    """Raise MemoryError, naming the parameters to lower, if the texts cannot be made together.

    Counts what grows with them: the random numbers, and the cache or, without it, the logits.
    """
    shape, rows = model.params, num_prompts * params.num_samples
    weight = model.token_embeddings.weight
    numbers = 32 * params.num_samples * params.max_tokens  # floats of Python, in a list
    per_row = 2 * shape.num_layers * shape.context_length * shape.d_kv if use_cache else 0
    needed = rows * (per_row + model.vocab_size) * weight.element_size()
    advice = "lower num_samples, max_tokens or the number of prompts"
    what = f"sampling {rows:,} texts of up to {params.max_tokens:,} tokens"
    if weight.device.type == "cuda":
        require_memory(needed, what, advice, weight.device)
        needed = 0
    require_memory(needed + numbers, what, advice)


def draw(
    probabilities: Float[Tensor, "rows vocab"], numbers: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """Return, for each row, the first token whose cumulative probability exceeds its number.

    The numbers are in [0, 1). Raises FloatingPointError for probabilities that are not finite.
    """
    device = probabilities.device
    if device.type == "mps":  # has no float64
        probabilities = probabilities.cpu()
    sums = probabilities.double().cumsum(dim=-1)
    check_finite(sums[:, -1])
    targets = numbers.to(sums.device).unsqueeze(1) * sums[:, -1:]
    return torch.searchsorted(sums, targets, right=True).squeeze(1).to(device)


def check_finite(numbers: Float[Tensor, " rows"]) -> None:
    """Raise FloatingPointError if numbers made from logits are not finite."""
    if not all(map(math.isfinite, numbers.tolist())):
        raise FloatingPointError("the model's logits are not finite: its training diverged")


def generate(
    model: TransformerLM,
    prompts: Iterable[Iterable[Any]],
    params: SamplingParams,
    stop_ids: Iterable[Any] = (),
    *,
    use_cache: bool = True,
) -> list[list[list[int]]]:
    """Return, for each prompt, the tokens of its continuations; see `Generation`."""
    generation = Generation(model, prompts, params, stop_ids, use_cache=use_cache)
    while generation.active:
        generation.step()
    new = [row.drawn for row in generation.rows]
    return [new[i : i + params.num_samples] for i in range(0, len(new), params.num_samples)]
