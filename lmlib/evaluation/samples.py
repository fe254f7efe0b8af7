"""Samples compared with the training text: how distinct they are, and how much is copied."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import regex

from lmlib.evaluation.novelty import CopiedSpan, copied_spans, distinct_n
from lmlib.tokenizer import Tokenizer
from lmlib.tokens import Tokens, first_separators
from lmlib.visible import visible

# What could be markup: anywhere in a line, in an address, and at the beginning of a line
MARKUP = regex.compile(
    r"""[&<>*_`~|$@\[\]\\] | :(?=\S) | (?i:(?<=www))\.
    | (?<=^\ {0,3})[#+=-] | (?<=^\ {0,3}\d{1,9})[.)] | ^\t | ^\ (?=\ {3}|\ {0,2}\t)""",
    regex.MULTILINE | regex.VERBOSE,
)
HELD_OUT = 100  # validation documents: they show how much any text shares with the training text


@dataclass(frozen=True)
class Comparison:
    """How samples compare with the training text.

    spans:    the longest copied span of each sample
    metrics:  distinct_1, _2, _3 (see `distinct_n`), copied and copied_part (see `copying`), the
              same two for validation documents as held_out_copied and held_out_copied_part, and
              copied_longest, in tokens; empty without samples
    """

    spans: list[CopiedSpan]
    metrics: dict[str, float]


def compare_with_training(
    samples: Sequence[Sequence[int]],
    train_tokens: Tokens,
    held_out: Sequence[Sequence[int]],
    separator_id: int | None,
    copied_tokens: int,
) -> Comparison:
    """Compare samples with the training text, and validation documents for reference.

    Reads `train_tokens`, which may be shards, once. A sample with a span of at least
    `copied_tokens` tokens counts as copied.
    """
    if not samples:
        return Comparison([], {})
    spans = copied_spans([*samples, *held_out], train_tokens, separator_id)
    of_samples, of_held_out = spans[: len(samples)], spans[len(samples) :]
    metrics = {f"distinct_{n}": distinct_n(samples, n) for n in (1, 2, 3)}
    metrics |= copying(of_samples, samples, copied_tokens)
    metrics["copied_longest"] = max(span.length for span in of_samples)
    reference = copying(of_held_out, held_out, copied_tokens)
    metrics |= {f"held_out_{name}": value for name, value in reference.items()}
    return Comparison(of_samples, metrics)


def copying(
    spans: Sequence[CopiedSpan], samples: Sequence[Sequence[int]], copied_tokens: int
) -> dict[str, float]:
    """Return how much the samples share with the training text, by the longest span of each.

    copied        share of samples with a span of at least `copied_tokens` tokens
    copied_part   mean over the samples of the longest span / tokens of the sample

    Both are 0 without samples.
    """
    parts = [span.length / max(1, len(ids)) for span, ids in zip(spans, samples, strict=True)]
    return {
        "copied": sum(span.length >= copied_tokens for span in spans) / max(1, len(spans)),
        "copied_part": sum(parts) / max(1, len(spans)),
    }


def first_documents(
    tokens: Tokens, separator_id: int | None, max_tokens: int, count: int = HELD_OUT
) -> list[list[int]]:
    """Return the first `max_tokens` tokens of each of the first `count` documents of a text."""
    ends = first_separators(tokens, separator_id, count)
    starts = [0, *ends][:count]
    documents = (
        part[part != separator_id]
        for part in (tokens[a:b] for a, b in zip(starts, [*ends, len(tokens)], strict=False))
    )
    return [document[:max_tokens].tolist() for document in documents if len(document)]


def continuation_ids(
    tokenizer: Tokenizer, prompt: str, text: str, *, allow_special: bool = False
) -> list[int]:
    """Return the tokens of `text` as the tokenizer splits it after `prompt`.

    Special tokens in them are ordinary text, unless `allow_special`.
    """
    allowed: Literal["all", "none"] = "all" if allow_special else "none"
    before, ids = (
        tokenizer.encode(whole, allowed_special=allowed) for whole in (prompt, prompt + text)
    )
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False))
    return ids[len(list(shared)) :]


def quoted(text: str) -> str:
    r"""Return Markdown that shows a text and is nothing but text.

    Control characters are spelt out. What could begin markup, HTML or an address is a numeric
    character reference, which `html.unescape` reverses. Only "\n" ends a line.
    """
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", visible(text))
