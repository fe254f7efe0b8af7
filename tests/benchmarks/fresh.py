"""One call of one contender in a fresh process, as in a user's script: nothing is loaded before.

    python -m tests.benchmarks.fresh NAME JOB        (JOB as JSON, see job.py)

It prints the seconds of the call. The tables of a tokenizer are made before, what the call itself
loads, such as our kernels, is a part of it.
"""

import importlib
import json
import sys
import time

from tests.benchmarks.job import Job


def main() -> None:
    """Prepare the call, make it once, and print its seconds."""
    name, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    module = "ours" if name == "ours" else "peers"
    contenders = importlib.import_module(f"tests.benchmarks.{module}")
    prepared = contenders.TASKS[job.task if name == "ours" else (name, job.task)](job)
    prepared.before()
    start = time.perf_counter()
    prepared.run()
    sys.stdout.write(f"{time.perf_counter() - start}\n")


if __name__ == "__main__":
    main()
