"""Try random inputs on everything that has a fast path or reads files of others.

Run:    make fuzz   (python -m tests.fuzz --minutes 5 --seed 1 [--only NAME] [--case NUMBER])

Each target runs in a process of its own, in turn. What is found goes to build/fuzz/, with the input
and the command that repeats it; the exit status is then 1.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "fuzz"
LONGEST_S = 60.0  # of a turn
ENDLESS = 1 << 40  # inputs


@dataclass
class Tally:
    """What became of one target."""

    cases: int = 0
    found: Counter[str] = field(default_factory=Counter)  # by description, without numbers


def main(arguments: list[str] | None = None) -> None:
    """Fuzz for a while; exit with status 1 if there were findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--case", type=int, help="one input, of the target named with --only")
    parser.add_argument("--count", type=int, default=ENDLESS, help="inputs in each turn")
    given = parser.parse_args(arguments)
    names = given.only or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS and ":" not in name]:
        parser.error(f"no target is called {unknown[0]}; there are {', '.join(TARGETS)}")
    tallies = {name: Tally() for name in names}
    started = time.monotonic()
    end = started + 60 * given.minutes
    if given.case is not None:
        for name in names:
            turn(name, tallies[name], given.seed, given.case, 1, 1.0)
    else:
        while time.monotonic() < end:
            for place, (name, tally) in enumerate(tallies.items()):
                share = (end - time.monotonic()) / (len(tallies) - place)
                if share > 0:
                    turn(name, tally, given.seed, tally.cases, given.count, min(LONGEST_S, share))
            if given.count < ENDLESS:
                break
    sys.exit(report(tallies, time.monotonic() - started))


def turn(name: str, tally: Tally, seed: int, first: int, count: int, seconds: float) -> None:
    """Run inputs of one target from number `first` on, in as many processes as it takes."""
    end = time.monotonic() + seconds
    last = first + count
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        folder, errors = Path(scratch) / "case", Path(scratch) / "stderr"
        while first < last and (left := end - time.monotonic()) > 0:
            command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.worker", name]
            command += [*map(str, (seed, first, last - first, left)), str(folder)]
            case = first - 1
            with (
                errors.open("wb") as stderr,
                subprocess.Popen(
                    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
                ) as worker,
            ):
                for line in worker.stdout or ():
                    said = json.loads(line)
                    if "case" in said:
                        case = said["case"]
                    else:
                        found = said["finding"], said["traceback"]
                        keep(name, tally, seed, case, Path(said["folder"]), *found)
            status = worker.returncode
            if status:
                log = errors.read_text(encoding="utf-8", errors="replace")
                if case < first:
                    sys.exit(f"{name}: the worker does not start:\n{log}")
                keep(name, tally, seed, case, folder, describe_end(status, log), log)
            tally.cases += case + 1 - first
            first = case + 1
            if not status:
                return


def describe_end(status: int, log: str) -> str:
    """Return how a worker ended, and where."""
    kind = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    if "Timeout (" in log:
        kind = "no end"
    place = re.search(r'File ".*?/(lmlib/[^"]*|tests/[^"]*)", line (\d+)', log)
    return f"{kind} at {place[1]}:{place[2]}" if place else kind


def keep(
    name: str, tally: Tally, seed: int, case: int, folder: Path, found: str, traceback: str
) -> None:
    """Write a finding to a folder and print it, unless there was one like it."""
    kind = re.sub(r"(: )?'.*|\d{3,}", "", found.partition(": ")[0])
    tally.found[kind] += 1
    if tally.found[kind] > 1:
        return
    target = KEPT / f"{re.sub(r'[^a-z0-9]+', '-', name)}-{seed}-{case}"
    shutil.rmtree(target, ignore_errors=True)
    if folder.is_dir():
        shutil.copytree(folder, target / "input", symlinks=True)
    target.mkdir(parents=True, exist_ok=True)
    command = f"python -m tests.fuzz --only {name} --seed {seed} --case {case}"
    (target / "report.txt").write_text(f"{found}\n\n{command}\n\n{traceback}\n", encoding="utf-8")
    sys.stdout.write(
        f"FOUND {name}: {found}\n  repeat: {command}\n  input:  {os.path.relpath(target)}\n"
    )
    sys.stdout.flush()


def report(tallies: dict[str, Tally], seconds: float) -> int:
    """Print the inputs and findings of each target; return the exit status."""
    for name, tally in tallies.items():
        kinds = f", {len(tally.found)} kinds" if tally.found else ""
        sys.stdout.write(
            f"{name:<18} {tally.cases:>8,} inputs  {tally.found.total():>6,} findings{kinds}\n"
        )
    cases = sum(tally.cases for tally in tallies.values())
    findings = sum(tally.found.total() for tally in tallies.values())
    sys.stdout.write(f"{cases:,} inputs in {seconds:.0f} s, {findings:,} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    main()
