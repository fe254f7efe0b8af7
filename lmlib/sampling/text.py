"""Text from a model: encode prompts, decode tokens, find where texts end."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lmlib.model import TransformerLM
from lmlib.sampling.generation import Generation
from lmlib.sampling.params import SamplingParams
from lmlib.separator import separator_id
from lmlib.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sample:
    """A continuation.

    text:           without the prompt and without the stop text
    tokens:         all that were drawn, including those of a stop text, without the stop token
    finish_reason:  stop, length (max_tokens) or context (full, with beyond_context: stop)
    seed:           the seed that gives this text as the first sample of its prompt
    """

    prompt: str
    text: str
    tokens: list[int]
    finish_reason: str
    seed: int


class TextStream:
    """Turns the bytes of tokens into text as soon as no later byte can change it.

    It holds back incomplete characters, and what may become a stop text. If stop texts overlap,
    the one that is complete first counts, so that token boundaries do not matter.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop = [text.encode("utf-8") for text in stop]
        self.held = b""
        self.stopped = False
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Add bytes; return the text that is now final; set `stopped` at a stop text."""
        self.held += data
        found = [(at + len(stop), at) for stop in self.stop if (at := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self.held = self.held[: min(found)[1]]
            return self.close()
        safe = len(self.held) - self._maybe_stop()
        shown, self.held = self.held[:safe], self.held[safe:]
        return self.decoder.decode(shown)

    def close(self) -> str:
        """Return what is still held back; an incomplete character becomes U+FFFD."""
        rest, self.held = self.held, b""
        return self.decoder.decode(rest, final=True)

    def _maybe_stop(self) -> int:
        """Return the number of bytes at the end that may be the beginning of a stop text."""
        longest = min(len(self.held), max(map(len, self.stop), default=1) - 1)
        for size in range(longest, 0, -1):
            if any(stop.startswith(self.held[-size:]) for stop in self.stop):
                return size
        return 0


def generate_samples(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    params: SamplingParams,
    *,
    use_cache: bool = True,
) -> list[list[Sample]]:
    """Return the continuations of each prompt.

    A prompt is the beginning of a document. If the tokenizer has a document separator, it precedes
    the prompt, as in training, and ends the text. Special tokens in a prompt are ordinary text,
    unless `params.allow_special`.
    """
    if not prompts:
        return []
    generation = _begin(model, tokenizer, prompts, params, use_cache)
    streams = [TextStream(params.stop) for _ in generation.rows]
    texts = [""] * len(streams)
    while generation.active:
        for row, token in zip(generation.rows, generation.step(), strict=True):
            if token is not None:
                stream = streams[row.index]
                texts[row.index] += stream.push(tokenizer.decode_bytes([token]))
                if stream.stopped:
                    row.finish_reason = "stop"
    samples = [
        Sample(
            prompt=prompts[row.index // params.num_samples],
            text=texts[row.index] + streams[row.index].close(),
            tokens=row.drawn,
            finish_reason=row.finish_reason or "",
            seed=params.seed + row.index % params.num_samples,
        )
        for row in generation.rows
    ]
    return [samples[i : i + params.num_samples] for i in range(0, len(samples), params.num_samples)]


def generate_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    params: SamplingParams,
    *,
    use_cache: bool = True,
) -> list[list[str]]:
    """Return the texts that continue each prompt, without the prompt; see `generate_samples`."""
    samples = generate_samples(model, tokenizer, prompts, params, use_cache=use_cache)
    return [[sample.text for sample in of_prompt] for of_prompt in samples]


def stream_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str,
    params: SamplingParams,
    *,
    use_cache: bool = True,
) -> Iterator[str]:
    """Yield the first text of `generate_text` as it grows, in whole characters."""
    params = replace(params, num_samples=1)
    generation = _begin(model, tokenizer, [prompt], params, use_cache)
    stream = TextStream(params.stop)
    while generation.active and not stream.stopped:
        (token,) = generation.step()
        if token is not None and (text := stream.push(tokenizer.decode_bytes([token]))):
            yield text
    if rest := stream.close():
        yield rest


def _begin(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    params: SamplingParams,
    use_cache: bool,
) -> Generation:
    separator = separator_id(tokenizer.special_ids)
    before = [] if separator is None else [separator]
    allowed: Literal["all", "none"] = "all" if params.allow_special else "none"
    ids = [before + tokenizer.encode(prompt, allowed_special=allowed) for prompt in prompts]
    return Generation(model, ids, params, before, use_cache=use_cache)
