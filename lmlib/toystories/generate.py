"""The endless stream of stories, and the two files made from it."""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

from lmlib.separator import SEPARATOR
from lmlib.toystories.grammar import Cast, Draws, contract, polish, render
from lmlib.toystories.reader import plots

BUFFER_BYTES = 1 << 16  # written at a time; each call of on_bytes reports about that many

CONTRACTED = 0.7  # share of the stories told with short forms, such as "don't"


class Story(NamedTuple):
    """A story, the name of its plot, and the least code length of its text.

    bits: -log2 of the probability of what was drawn and shows in the text: the plot, the cells of
          its cast, the alternatives, and whether there are short forms. Equal alternatives are
          merged; no others give the same text before `polish`. So the mean over the stream is its
          entropy per story, and no model can be expected to need fewer bits, apart from what could
          be gained from stories not being repeated in a corpus (none of 20,000 was drawn twice).
    """

    plot: str
    text: str
    bits: float


def tell(seed: int, index: int) -> Story:
    """Return story number `index` of the stream `seed`."""
    draws = Draws(Random(seed << 40 | index).random)
    plot = draws.one_of(plots())
    cast = Cast(plot.cast, draws.random)
    text = polish(render(plot.text, cast, draws), cast)
    text = draws.either(contract(text), text, CONTRACTED)
    return Story(plot.name, text, draws.bits + cast.bits)


def generate_stories(seed: int) -> Iterator[str]:
    """Yield stories without end; the same seed gives the same stories on every machine.

    A story is ASCII text of several paragraphs with blank lines between them, without the
    separator. A few stories are repeated; `write_corpus` drops the repeats. Raises ValueError if
    `seed` is negative.
    """
    return (story.text for story in _stories(seed))


def _stories(seed: int) -> Iterator[Story]:
    if seed < 0:
        raise ValueError(f"toystories: seed is {seed}; give a whole number from 0 up")
    return (tell(seed, index) for index in count())


def write_corpus(
    train_path: str | Path,
    valid_path: str | Path,
    *,
    seed: int,
    train_bytes: int,
    valid_bytes: int,
    on_bytes: Callable[[int], None] | None = None,
) -> float:
    """Write a training and a validation file of stories; no story occurs twice in them.

    Returns the floor of the validation file in bits per byte: what its stories need (see `Story`)
    / its bytes. No model can be expected to score lower.

    Each story is followed by a line with <|endoftext|>, and each file ends with the story that
    brings it to at least the given size. on_bytes is called with the number of bytes written since
    its last call. The validation file is written first, so that it does not depend on
    `train_bytes`. Raises ValueError if a size is not positive or `seed` is negative.
    """
    for name, size in (("train_bytes", train_bytes), ("valid_bytes", valid_bytes)):
        if size <= 0:
            raise ValueError(f"toystories: {name} is {size}; give a positive number of bytes")
    stories = _without_repeats(_stories(seed))
    bits = _write_documents(Path(valid_path), stories, valid_bytes, on_bytes)
    _write_documents(Path(train_path), stories, train_bytes, on_bytes)
    return bits / Path(valid_path).stat().st_size


def _without_repeats(stories: Iterator[Story]) -> Iterator[Story]:
    seen: set[bytes] = set()
    for story in stories:
        # 16 bytes per story instead of its text: a corpus of gigabytes still fits in memory
        digest = blake2b(story.text.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield story


def _write_documents(
    path: Path, stories: Iterator[Story], size: int, on_bytes: Callable[[int], None] | None
) -> float:
    """Write stories up to a size in bytes; return the bits that they need."""
    written, bits = 0, 0.0
    with path.open("wb") as file:  # binary: text mode would write \r\n on Windows
        while written < size:
            chunk = bytearray()
            while len(chunk) < min(BUFFER_BYTES, size - written):
                story = next(stories)
                chunk += f"{story.text}\n{SEPARATOR}\n".encode("ascii")
                bits += story.bits
            file.write(chunk)
            written += len(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return bits
