"""Print how long a new process takes to its first ids, in seconds, as JSON.

Python has started by then, and no module of ours nor NumPy is imported. "load" ends with the ids of
a short text, "engine" when the kernels for long ones are there, too.

Run: python -m tests.benchmarks.startup FOLDER, as Tokenizer.save wrote it
"""

import json
import sys
import time


def main() -> None:
    """Import, load, encode; then load the kernels."""
    start = time.perf_counter()
    # imports are a part of what is measured
    from lmlib.tokenizer import Tokenizer

    Tokenizer.load(sys.argv[1]).encode("The quick brown fox jumps over the lazy dog.")
    load_s = time.perf_counter() - start
    from lmlib.tokenizer import engine

    engine.load()
    engine_s = time.perf_counter() - start
    seconds = {"load": load_s, "engine": engine_s}
    sys.stdout.write(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
