"""Sampling text: temperature, top-k, top-p, and generation for batches of prompts."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lmlib.functional import softmax
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer


@dataclass(frozen=True)
class SamplingParams:
    """How to continue the fixed prompts: the section `sampling` of params.yaml.

    temperature:  divides the logits; 0 takes the likeliest token
    top_k:        keep the k likeliest tokens; 0 keeps all
    top_p:        keep the likeliest tokens that together reach probability p; 1 keeps all
    """

    prompts: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        if not all(self.prompts):
            raise ValueError("prompts holds an empty text; each needs at least one character")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.temperature < 0:
            raise ValueError(
                f"temperature is {self.temperature}; it must be at least 0 (0: the likeliest token)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 0 (0: all tokens)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be in (0, 1] (1: all tokens)")


def apply_temperature(
    logits: Float[Tensor, "... vocab"], temperature: float
) -> Float[Tensor, "... vocab"]:
    """Return logits / temperature: below 1 the distribution sharpens, above 1 it flattens."""
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "... vocab"], k: int) -> Float[Tensor, "... vocab"]:
    """Return logits with all but the k largest set to -inf; ties with the k-th are kept."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Return logits of the smallest set of likeliest tokens whose probability reaches p.

    The others become -inf; the likeliest token is always kept.
    Source:  Holtzman et al. 2020, arXiv:1904.09751 (nucleus sampling).
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = softmax(ordered)
    before = probabilities.cumsum(dim=-1) - probabilities  # what likelier tokens already hold
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def next_token_probabilities(
    logits: Float[Tensor, "... vocab"], params: SamplingParams
) -> Float[Tensor, "... vocab"]:
    """Return the distribution to draw from, in float32; temperature above 0."""
    logits = apply_temperature(logits.float(), params.temperature)
    return softmax(keep_top_p(keep_top_k(logits, params.top_k), params.top_p))


@torch.inference_mode()
def generate_tokens(
    model: TransformerLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    stop_id: int | None = None,
) -> Iterator[list[int | None]]:
    """Yield, for each step, the next token id of each prompt; None once a prompt has ended.

    A prompt ends with `stop_id` (which is not yielded) or after `max_tokens`. Prompts of different
    lengths share a pass: shorter ones are filled up on the right, where causal attention cannot
    look. Each prompt draws from a generator of its own, seeded with seed + its place in the
    list, on the CPU, so that, up to rounding, a prompt's text depends neither on its neighbours
    nor on the device.
    Beyond `context_length` the model sees the last `context_length` tokens.
    """
    if not prompts or any(not prompt for prompt in prompts):
        raise ValueError(
            "generate: there is no prompt, or one is empty; each begins with at least one token"
        )
    device = next(model.parameters()).device
    rows = [list(prompt) for prompt in prompts]
    generators = [torch.Generator().manual_seed(params.seed + i) for i in range(len(rows))]
    active = list(range(len(rows)))
    for _ in range(params.max_tokens):
        windows = [rows[i][-model.params.context_length :] for i in active]
        longest = max(map(len, windows))
        padded = torch.tensor([w + [0] * (longest - len(w)) for w in windows], device=device)
        last = torch.tensor([len(w) - 1 for w in windows], device=device)
        logits = model(padded)[torch.arange(len(windows), device=device), last].float().cpu()
        drawn: list[int | None] = [None] * len(rows)
        for i, row_logits in zip(active, logits, strict=True):
            token = _draw(row_logits, params, generators[i])
            if token != stop_id:
                rows[i].append(token)
                drawn[i] = token
        active = [i for i in active if drawn[i] is not None]
        if not active:
            return
        yield drawn


def _draw(
    logits: Float[Tensor, " vocab"], params: SamplingParams, generator: torch.Generator
) -> int:
    if params.temperature == 0:
        return int(logits.argmax())
    probabilities = next_token_probabilities(logits, params)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def generate(
    model: TransformerLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    stop_id: int | None = None,
) -> list[list[int]]:
    """Return the tokens that continue each prompt; see `generate_tokens`."""
    continued: list[list[int]] = [[] for _ in prompts]
    for step in generate_tokens(model, prompts, params, stop_id):
        for row, token in zip(continued, step, strict=True):
            if token is not None:
                row.append(token)
    return continued


def generate_text(
    model: TransformerLM, tokenizer: Tokenizer, prompts: Sequence[str], params: SamplingParams
) -> list[str]:
    """Return the text that continues each prompt, without the prompt.

    A prompt is the beginning of a document: where the tokenizer knows the separator of documents,
    it goes before the prompt, as in training, and ends the text.
    """
    if not prompts:
        return []
    ids = [_encode_prompt(tokenizer, prompt) for prompt in prompts]
    return [
        tokenizer.decode_bytes(row).decode("utf-8", errors="replace")
        for row in generate(model, ids, params, tokenizer.special_ids.get(SEPARATOR))
    ]


def stream_text(
    model: TransformerLM, tokenizer: Tokenizer, prompt: str, params: SamplingParams
) -> Iterator[str]:
    """Yield the text of `generate_text` as it grows, character by whole character.

    A token may end within a character of several bytes; its first bytes wait for the rest.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ids = _encode_prompt(tokenizer, prompt)
    for (token,) in generate_tokens(model, [ids], params, tokenizer.special_ids.get(SEPARATOR)):
        if token is not None and (text := decoder.decode(tokenizer.decode_bytes([token]))):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def _encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    separator_id = tokenizer.special_ids.get(SEPARATOR)
    before = [] if separator_id is None else [separator_id]
    return before + tokenizer.encode(prompt)
