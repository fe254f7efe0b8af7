"""A process that holds one contender, so that no other shares its memory, threads or caches.

Requests come as JSON, one a line, on stdin, and are answered on stdout in the same way:

    {"do": "prepare", "job": {...}}   -> {"version": text}     of the peer's package
    {"do": "run"}                     -> {"seconds": s, "peak_mb": MB}
    {"do": "save", "path": FILE.npy}  -> {}                    what the last run gave

and {"error": text} to what fails. Run: python -m tests.benchmarks.worker NAME
"""

import importlib
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.job import Job, Prepared
from tests.benchmarks.timing import peak_memory_mb


class Contender:
    """What the requests work on: the prepared call and its last result."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prepared: Prepared | None = None
        self.result: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks for."""
        if request["do"] == "prepare":
            module = "ours" if self.name == "ours" else "peers"
            contenders = importlib.import_module(f"tests.benchmarks.{module}")
            self.prepared = contenders.prepare(self.name, Job(**request["job"]))
            return {"version": "" if self.name == "ours" else metadata.version(self.name)}
        assert self.prepared is not None
        if request["do"] == "run":
            self.result = None  # freed before the clock starts
            self.prepared.before()
            start = time.perf_counter()
            self.result = self.prepared.run()
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "peak_mb": peak_memory_mb()}
        assert request["do"] == "save"
        np.save(Path(request["path"]), self.prepared.comparable(self.result))
        return {}


def main() -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # contenders that print do not disturb
    contender = Contender(sys.argv[1])
    for line in sys.stdin:
        try:
            reply = contender.answer(json.loads(line))
        # whatever a contender raises is the benchmark's result for it; Rust's panics are no
        # Exception
        except BaseException as error:  # noqa: BLE001
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
