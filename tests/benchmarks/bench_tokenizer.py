"""Speed of the tokenizer: MB of UTF-8 per second to train, to encode a file, and to decode.

Run: python -m tests.benchmarks.bench_tokenizer CORPUS [--vocab-size 10000] [--repeats 5]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lmlib.tokenizer import Tokenizer, engine, train_bpe

END = "<|endoftext|>"


def measure(fn: Callable[[], object], repeats: int) -> list[float]:
    """Return the sorted seconds of each repeat; the first call is not counted."""
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])


def main() -> None:
    """Print a table: what, median, fastest and slowest in MB/s."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    start = time.perf_counter()
    engine.load()
    rows = [f"kernels ready in {time.perf_counter() - start:.1f} s"]
    size_mb = args.corpus.stat().st_size / 1e6
    vocab, merges = train_bpe(args.corpus, args.vocab_size, [END])
    tokenizer = Tokenizer(vocab, merges, [END])
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.npy"
        tokenizer.encode_file(args.corpus, tokens)
        ids = np.load(tokens)[:1_000_000]
        decoded_mb = len(tokenizer.decode_bytes(ids)) / 1e6
        for name, megabytes, fn in (
            ("train_bpe", size_mb, lambda: train_bpe(args.corpus, args.vocab_size, [END])),
            ("encode_file", size_mb, lambda: tokenizer.encode_file(args.corpus, tokens)),
            ("decode", decoded_mb, lambda: tokenizer.decode(ids)),
        ):
            seconds = measure(fn, args.repeats)
            median = statistics.median(seconds)
            rows.append(
                f"{name:12} {megabytes / median:7.1f} MB/s   "
                f"{megabytes / seconds[-1]:.1f} to {megabytes / seconds[0]:.1f}"
            )
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
