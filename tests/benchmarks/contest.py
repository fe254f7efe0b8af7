"""Races between our tokenizer and its peers, turn by turn, each in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlib.threads import num_cores
from tests.benchmarks.job import Job

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900  # of one request; a contender that takes longer is stopped
TWICE = ("encode_file", "encode_cl100k")  # tasks whose second call in a process is measured
AGAIN_MAX_S = 5.0  # a call that took longer is not made a second time


class ContenderError(Exception):
    """A contender failed: it raised an exception, died, or took longer than LIMIT_S."""


class Worker:
    """A contender's process, started by `with` and ended after it."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self.python = python

    def __enter__(self) -> "Worker":
        cores = str(num_cores())
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [self.python, "-m", "tests.benchmarks.worker", self.name],
            cwd=ROOT,
            env={**os.environ, "RAYON_NUM_THREADS": cores, "TOKENIZERS_PARALLELISM": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request; raise ContenderError if there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        alarm = threading.Timer(LIMIT_S, self.process.kill)
        alarm.start()
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            alarm.cancel()
        if not line:
            self.log.seek(0)
            words = self.log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ContenderError(
                f"{self.name} ended with status {self.process.wait()} in {do!r}: "
                f"{words[0] if words else 'it said nothing'}"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise ContenderError(f"{self.name}, {do!r}: {reply['error']}")
        return reply


@dataclass
class Score:
    """The runs of one contender at one task; `ratios` are its seconds by ours in the same turn."""

    contender: str
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    version: str = ""
    error: str = ""
    difference: str = ""  # from our result

    def add(self, seconds: float, ours_s: float | None, peak_mb: float | None = None) -> None:
        """Add a run, and its ratio to the seconds of ours in the same turn, if there are any."""
        self.seconds.append(seconds)
        if ours_s is not None:
            self.ratios.append(seconds / ours_s)
        if peak_mb:
            self.peaks_mb.append(peak_mb)


@dataclass(frozen=True)
class Contest:
    """How to run races.

    peers_python    the interpreter that has the peers
    repeats         turns that count
    folder          for files of its own
    against         the peers that take part, of those a race is open to
    """

    peers_python: str
    repeats: int
    folder: Path
    against: Collection[str]

    def worker(self, name: str) -> Worker:
        """Return the process of a contender, not started yet."""
        return Worker(name, sys.executable if name == "ours" else self.peers_python)

    def first_calls(
        self, job: Job, peers: list[str], *, repeats: int | None = None
    ) -> tuple[list[Score], list[Score]]:
        """Return the scores of the first call in a process and of the second, ours first.

        Every turn has new processes: neither memory nor threads nor pre-tokens in a cache are left
        from an earlier one. Ours and a peer take turns. The second call, on the same text in the
        same process, is left out where the first took longer than AGAIN_MAX_S.
        """
        names = ["ours", *(peer for peer in peers if peer in self.against)]
        first, second = ([Score(name) for name in names] for _ in range(2))
        for turn in range(repeats or self.repeats):
            for at in range(1, len(names)) if len(names) > 1 else [0]:
                if first[at].error:
                    continue
                ours_s = self.run_twice(job, first[0], second[0])
                if at == 0:
                    continue
                try:
                    self.run_twice(job, first[at], second[at], ours_s)
                    if turn == 0:
                        theirs = np.load(self.result(first[at]))
                        first[at].difference = difference(np.load(self.result(first[0])), theirs)
                except ContenderError as error:
                    first[at].error = str(error)
        return first, [score for score in second if score.seconds]

    def fresh_process(self, job: Job, name: str) -> tuple[float, float]:
        """Return the seconds of a call in a fresh process, and those of the process."""
        start = time.perf_counter()
        done = subprocess.run(
            [
                sys.executable if name == "ours" else self.peers_python,
                *("-m", "tests.benchmarks.fresh", name, json.dumps(dataclasses.asdict(job))),
            ],
            cwd=ROOT,
            env={**os.environ, "RAYON_NUM_THREADS": str(num_cores())},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - start
        return float(done.stdout.split()[-1]), seconds

    def run_twice(
        self,
        job: Job,
        first: Score,
        second: Score,
        ours_s: tuple[float | None, float | None] = (None, None),
    ) -> tuple[float, float | None]:
        """Add one process's first and second call to its scores; return the seconds of both."""
        with self.worker(first.contender) as worker:
            first.version = worker.ask("prepare", job=dataclasses.asdict(job))["version"]
            run = worker.ask("run")
            first.add(run["seconds"], ours_s[0], run["peak_mb"])
            if len(first.seconds) == 1:
                worker.ask("save", path=str(self.result(first)))
            if run["seconds"] >= AGAIN_MAX_S or job.task not in TWICE:
                return run["seconds"], None
            again = worker.ask("run")
            second.version = first.version
            second.add(again["seconds"], ours_s[1])
            return run["seconds"], again["seconds"]

    def steady(self, job: Job, peer: str) -> list[Score]:
        """Return the scores of ours and of a peer, turn by turn in two processes that stay.

        The first call of each is for the comparison and not counted.
        """
        scores = [Score("ours"), Score(peer)]
        with self.worker("ours") as ours, self.worker(peer) as theirs:
            for turn in range(1 + self.repeats):
                ours_s: float | None = None
                for worker, score in zip((ours, theirs), scores, strict=True):
                    try:
                        if turn == 0:
                            prepared = worker.ask("prepare", job=dataclasses.asdict(job))
                            score.version = prepared["version"]
                        run = worker.ask("run")
                        if turn == 0:
                            worker.ask("save", path=str(self.result(score)))
                    except ContenderError as error:
                        if worker is ours:
                            raise
                        score.error = str(error)
                        return scores
                    if turn:
                        score.add(run["seconds"], ours_s)
                    ours_s = run["seconds"]
        scores[1].difference = difference(*(np.load(self.result(score)) for score in scores))
        return scores

    def result(self, score: Score) -> Path:
        """Return the file for what a contender's call gave."""
        return self.folder / f"{'ours' if score.contender == 'ours' else 'theirs'}.npy"


def difference(ours: NDArray[Any], theirs: NDArray[Any]) -> str:
    """Say where two results first differ; nothing if they are equal."""
    length = min(len(ours), len(theirs))
    unequal = np.flatnonzero(ours[:length] != theirs[:length])
    if not len(unequal) and len(ours) == len(theirs):
        return ""
    at = int(unequal[0]) if len(unequal) else length
    text = f"differs from place {at:,} on: {shown(theirs, at)}, ours {shown(ours, at)}; "
    if ours.dtype.kind == "U":  # tokens in the order of learning
        return text + f"{len(np.intersect1d(ours, theirs)):,} of {len(ours):,} in common"
    return text + f"{len(theirs):,} in all, ours {len(ours):,}"


def shown(result: NDArray[Any], at: int) -> str:
    """Return one value of a result as text; "the end" after the last."""
    if at >= len(result):
        return "the end"
    return repr(bytes.fromhex(result[at]))[1:] if result.dtype.kind == "U" else str(result[at])
