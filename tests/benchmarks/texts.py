"""Texts made for the benchmark: copies of a corpus in other orders, and texts that are no prose."""

import random
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.job import END, documents

ODD_BYTES = 10_000_000


def write_shuffled(corpus: str, size_bytes: int, path: Path) -> None:
    """Write the documents of a corpus over and over, each time in another order."""
    pieces = [(document + END).encode() for document in documents(corpus)]
    order = random.Random(0)
    written = 0
    with path.open("wb") as file:
        while True:
            order.shuffle(pieces)
            for piece in pieces:
                if written + len(piece) > size_bytes:
                    return
                written += file.write(piece)


def repeated(text: str) -> Callable[[str], bytes]:
    """Return a function that gives 10 MB of one text."""
    piece = text.encode()
    return lambda _: piece * (ODD_BYTES // len(piece))


def prose(corpus: str) -> bytes:
    """Return the beginning of the corpus, cut between two characters."""
    with Path(corpus).open("rb") as file:
        return file.read(ODD_BYTES).decode(errors="ignore").encode()


def digits(_: str) -> bytes:
    """Return one number of ten million digits."""
    return "".join(random.Random(0).choices("0123456789", k=ODD_BYTES)).encode()


def random_bytes(_: str) -> bytes:
    """Return bytes that are not UTF-8."""
    return random.Random(0).randbytes(ODD_BYTES)


ODD_TEXTS: dict[str, Callable[[str], bytes]] = {
    "prose": prose,
    "one letter": repeated("a"),
    "spaces": repeated(" "),
    "newlines": repeated("\n"),
    "digits": digits,
    "Chinese": repeated(
        "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
    ),  # one sentence, no space
    "random bytes": random_bytes,
    # a family of four, joined by U+200D
    "emoji": repeated("\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"),
}
