"""Use the tokenizer with limited memory or threads, as the tests of CS336 do.

    python -m tests.tokenizer.limited WORK EXTRA_BYTES [loaded]

The process uses PyTorch and threads first, so that its address space is far larger than what it
holds. Then RLIMIT_AS becomes what it holds and EXTRA_BYTES more ("none": no limit). It prints
"right", "wrong" or "MemoryError". With "loaded" the kernels are loaded before.
"""

import itertools
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch

from lmlib.tokenizer import Tokenizer, engine, train_bpe

SENTENCE = "There was a small boy named Ali, and he loved to draw. "
TEXT = SENTENCE * 90_000  # 5 MB
BYTES = {i: bytes([i]) for i in range(256)}


def encode(tokenizer: Tokenizer, _: Path) -> bool:
    return tokenizer.encode(TEXT) == list(TEXT.encode())


def encode_short(tokenizer: Tokenizer, _: Path) -> bool:
    """Many short texts must load nothing, even if they are long in total."""
    had_kernels = engine.is_loaded()
    ids = [tokenizer.encode(SENTENCE * 100) for _ in range(1000)]
    return ids[-1] == list((SENTENCE * 100).encode()) and engine.is_loaded() == had_kernels


def encode_iterable(tokenizer: Tokenizer, _: Path) -> bool:
    ids = tokenizer.encode_iterable(itertools.repeat(SENTENCE, 10_000))
    return sum(ids) == 10_000 * sum(SENTENCE.encode())


def encode_batch(tokenizer: Tokenizer, _: Path) -> bool:
    batch = tokenizer.encode_batch([SENTENCE * 9_000] * 10)
    return all(bytes(ids.astype(np.uint8)) == (SENTENCE * 9_000).encode() for ids in batch)


def encode_file(tokenizer: Tokenizer, folder: Path) -> bool:
    count = tokenizer.encode_file(folder / "text.txt", folder / "ids.npy", num_workers=2)
    ids = np.fromfile(folder / "ids.npy", np.uint16, count=1000, offset=128)
    return count == len(TEXT) and bytes(ids.astype(np.uint8)) == TEXT[:1000].encode()


def train(_: Tokenizer, folder: Path) -> bool:
    merges = train_bpe(folder / "text.txt", 266, [], num_workers=2)[1]
    return merges == train_bpe(folder / "short.txt", 266, [])[1]


WORK: dict[str, Callable[[Tokenizer, Path], bool]] = {
    function.__name__: function
    for function in (encode, encode_short, encode_iterable, encode_batch, encode_file, train)
}


def main(work: str, extra_bytes: str, *options: str) -> None:
    """Do the work and print how it ended."""
    torch.mm(torch.randn(500, 500), torch.randn(500, 500))
    if extra_bytes != "none":
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: sum(range(100_000)), range(8)))
    if "loaded" in options:
        engine.load()
    tokenizer = Tokenizer(BYTES, [])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text(TEXT, encoding="utf-8")
        (Path(folder) / "short.txt").write_text(SENTENCE * 10, encoding="utf-8")
        if extra_bytes != "none":
            limit = psutil.Process().memory_info().rss + int(extra_bytes)
            resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
        try:
            outcome = "right" if WORK[work](tokenizer, Path(folder)) else "wrong"
        except MemoryError:
            outcome = "MemoryError"
    sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
