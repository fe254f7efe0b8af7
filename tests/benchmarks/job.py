"""What a contender of the tokenizer benchmark is asked to do, and the texts it does it with.

Imported by the peers' interpreter too, which has numpy but not lmlib.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

END = "<|endoftext|>"
SHORT_CHARS = 100
SHORT_STRINGS = 10_000  # in one run
ROUNDS = 40  # runs with strings of their own
DECODE_TOKENS = 1_000_000


@dataclass(frozen=True)
class Job:
    """One task on one text.

    corpus      UTF-8, documents separated by <|endoftext|>
    vocab_size  of the vocabulary to learn, the 256 bytes and <|endoftext|> included
    tokenizer   folder with the tokenizer.json to encode and decode with
    tokens      the .npy that `encode_file` writes; for decoding it is there already
    """

    task: str
    corpus: str
    vocab_size: int
    tokenizer: str
    tokens: str
    num_threads: int


class Prepared(NamedTuple):
    """A call ready to be timed, and how to turn its result into an array that can be compared.

    `before` is done ahead of each call and not timed.
    """

    run: Callable[[], Any]
    comparable: Callable[[Any], Any]
    before: Callable[[], Any] = lambda: None


def documents(corpus: str) -> list[str]:
    """Return the texts between the separators, empty ones left out."""
    with Path(corpus).open(encoding="utf-8", newline="") as file:
        return [document for document in file.read().split(END) if document]


def short_strings(corpus: str) -> Iterator[list[str]]:
    """Yield lists of SHORT_STRINGS strings of 100 characters, for ever.

    The first ROUNDS lists have no string in common if the corpus is long enough: what a cache has
    kept from one run is not the answer to the next.
    """
    wanted = ROUNDS * SHORT_STRINGS
    strings: list[str] = []
    for document in documents(corpus):
        ends = range(SHORT_CHARS, len(document) + 1, SHORT_CHARS)
        strings.extend(document[end - SHORT_CHARS : end] for end in ends)
        if len(strings) >= wanted:
            break
    if len(strings) < SHORT_STRINGS:
        raise ValueError(
            f"{corpus}: has {len(strings)} strings of {SHORT_CHARS} characters, {SHORT_STRINGS} "
            "are needed; take a corpus of at least 2 MB."
        )
    starts = range(0, len(strings) - SHORT_STRINGS + 1, SHORT_STRINGS)
    return itertools.cycle([strings[start : start + SHORT_STRINGS] for start in starts])


def utf8(text: str) -> NDArray[np.uint8]:
    """Return the bytes of a text."""
    return np.frombuffer(text.encode(), np.uint8)
