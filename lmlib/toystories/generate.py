"""The endless stream of stories, and the two files made from it."""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import count
from pathlib import Path
from random import Random

from lmlib.separator import SEPARATOR
from lmlib.toystories.grammar import contract, draw_cast, polish, render
from lmlib.toystories.reader import plots

BUFFER_BYTES = 1 << 16  # written at a time; each call of on_bytes reports about that many

CONTRACTED = 0.7  # share of the stories told with short forms, such as "don't"


def tell(seed: int, index: int) -> tuple[str, str]:
    """Return the name of the plot and the text of story number `index` of the stream `seed`."""
    random = Random(seed << 40 | index).random
    choices = plots()
    plot = choices[int(random() * len(choices))]
    cast = draw_cast(plot.cast, random)
    text = polish(render(plot.text, cast, random), cast)
    return plot.name, contract(text) if random() < CONTRACTED else text


def generate_stories(seed: int) -> Iterator[str]:
    """Yield stories without end; the same seed gives the same stories on every machine.

    A story is ASCII text of several paragraphs with blank lines between them, without the
    separator. A few stories are repeated; `write_corpus` drops the repeats. Raises ValueError if
    `seed` is negative.
    """
    if seed < 0:
        raise ValueError(f"toystories: seed is {seed}; give a whole number from 0 up")
    return (tell(seed, index)[1] for index in count())


def write_corpus(
    train_path: str | Path,
    valid_path: str | Path,
    *,
    seed: int,
    train_bytes: int,
    valid_bytes: int,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a training and a validation file of stories; no story occurs twice in them.

    Each story is followed by a line with <|endoftext|>, and each file ends with the story that
    brings it to at least the given size. on_bytes is called with the number of bytes written since
    its last call. The validation file is written first, so that it does not depend on
    `train_bytes`. Raises ValueError if a size is not positive or `seed` is negative.
    """
    for name, size in (("train_bytes", train_bytes), ("valid_bytes", valid_bytes)):
        if size <= 0:
            raise ValueError(f"toystories: {name} is {size}; give a positive number of bytes")
    stories = _without_repeats(generate_stories(seed))
    for path, size in ((valid_path, valid_bytes), (train_path, train_bytes)):
        _write_documents(Path(path), stories, size, on_bytes)


def _without_repeats(stories: Iterator[str]) -> Iterator[str]:
    seen: set[bytes] = set()
    for story in stories:
        # 16 bytes per story instead of its text: a corpus of gigabytes still fits in memory
        digest = blake2b(story.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield story


def _write_documents(
    path: Path, stories: Iterator[str], size: int, on_bytes: Callable[[int], None] | None
) -> None:
    written = 0
    with path.open("wb") as file:  # binary: text mode would write \r\n on Windows
        while written < size:
            chunk = bytearray()
            while len(chunk) < min(BUFFER_BYTES, size - written):
                chunk += f"{next(stories)}\n{SEPARATOR}\n".encode("ascii")
            file.write(chunk)
            written += len(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
