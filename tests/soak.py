"""Kill the pipeline at random moments, again and again: it must end as if nothing had happened.

Run:    make soak   (python -m tests.soak --kills 100 --seed 1 [--minutes 30])

A tiny copy of the project is built once, undisturbed. In each round another copy is built, and
killed at random moments, as many times as the seed says, before it may finish. Then dvc.lock and
what MLflow holds must equal the undisturbed ones, no process may be left, and no temporary file.
The folder of a round that failed is kept. Linux only.
"""

import argparse
import difflib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from random import Random

from tests.environment import clean, enter, make_home
from tests.pipeline.conftest import Project, copy_project, tiny_overrides

# long enough to be killed many times, with a state every second or so
RHYTHM = {"train.num_steps": "3000", "train.checkpoint_every": "100", "train.valid_every": "500"}
MOST_KILLS = 12  # in a round
PATIENCE_S = 90.0  # for what goes on in the background
SHOWN = 5  # of the differences of a round
COMMAND = ("python", "-m", "stages.repro")  # as `make` builds
TEMPORARY = ("*.part", "*.tmp", "*.part.*", "*.tmp.*")


# -- what a finished project holds


def lock_of(folder: Path) -> str:
    """Return dvc.lock: the hashes of all deps, params and outs."""
    return (folder / "dvc.lock").read_text(encoding="utf-8")


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files, and the states of unfinished runs."""
    found = {path for name in TEMPORARY for path in folder.glob(name)}
    for part in ("data", "models"):
        found |= {path for name in TEMPORARY for path in (folder / part).rglob(name)}
    found |= {path for path in folder.glob("models/.resume/*/*") if path.is_file()}
    return sorted(str(path.relative_to(folder)) for path in found)


Points = list[tuple[int, float | None]]  # (step, value)
MlflowRun = dict[str, str | Points]  # its status, and the points of each metric


def runs_of(folder: Path) -> dict[str, list[MlflowRun]]:
    """Return the runs of each stage in MLflow, in the order of their beginnings.

    Only losses have values here, since speeds differ. The points of system metrics depend on time
    and are left out.
    """
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found: dict[str, list[MlflowRun]] = {}
    for experiment in client.search_experiments():
        order = ["attributes.start_time ASC"]
        for run in client.search_runs([experiment.experiment_id], order_by=order):
            stage = f"{experiment.name}/{run.data.tags.get('stage')}"
            one: MlflowRun = {"status": run.info.status}
            for name in sorted(run.data.metrics):
                if not name.startswith("system/"):
                    one[name] = [
                        (point.step, point.value if "loss" in name else None)
                        for point in client.get_metric_history(run.info.run_id, name)
                    ]
            found.setdefault(stage, []).append(one)
    return found


@dataclass(frozen=True)
class Result:
    """What a finished project holds, as far as it must not depend on kills."""

    lock: str
    runs: dict[str, list[MlflowRun]]

    @classmethod
    def of(cls, folder: Path) -> "Result":
        """Read the result of a finished project."""
        return cls(lock_of(folder), runs_of(folder))

    def differences(self, other: "Result") -> list[str]:
        """Return what is different in another result, a line each."""
        found = []
        for line in difflib.unified_diff(self.lock.splitlines(), other.lock.splitlines(), n=0):
            if line.startswith("+") and not line.startswith("+++"):
                found.append(f"dvc.lock has `{line[1:].strip()}`")
        if self.lock != other.lock and not found:
            found.append("dvc.lock lacks lines")
        for stage in sorted({*self.runs, *other.runs}):
            ours, theirs = self.runs.get(stage, []), other.runs.get(stage, [])
            if len(ours) != len(theirs):
                found.append(f"MLflow has {len(theirs)} runs of {stage} in place of {len(ours)}")
            for right, run in zip(ours, theirs, strict=False):
                found += [
                    f"MLflow, {stage}, {name}: {first_difference(right.get(name), run.get(name))}"
                    for name in sorted({*right, *run})
                    if right.get(name) != run.get(name)
                ]
        return found


def first_difference(right: str | Points | None, found: str | Points | None) -> str:
    """Return, in words, where two values differ first."""
    if isinstance(right, list) and isinstance(found, list):
        for at, (a, b) in enumerate(zip_longest(right, found)):
            if a != b:
                return f"point {at} is {b} in place of {a} ({len(found)} and {len(right)} points)"
    return f"{found!s:.60} in place of {right!s:.60}"


# -- processes


def processes_in(folder: Path) -> dict[int, str]:
    """Return the command line of each process that works in a folder or below it."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = (entry / "cwd").readlink()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended, or is another user's
            continue
        if place.is_relative_to(folder) and state != "Z":
            found[int(entry.name)] = command.strip()
    return found


def wait_until_gone(folder: Path, seconds: float) -> dict[int, str]:
    """Wait for the processes in a folder to end; return those that have not."""
    end = time.monotonic() + seconds
    while (left := processes_in(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def stop(pids: list[int], how: signal.Signals) -> bool:
    """Send a signal to processes, of which some may have ended; return whether any was left."""
    hit = False
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
            hit = True
    return hit


def matching(folder: Path, word: str) -> list[int]:
    """Return the processes of a folder whose command line has a word."""
    return [pid for pid, command in processes_in(folder).items() if word in command]


def _group(dvc: int, folder: Path) -> list[int]:
    return [-dvc]  # one call hits them all, those too that are being forked


def _dvc(dvc: int, folder: Path) -> list[int]:
    return [dvc]


def _stage(dvc: int, folder: Path) -> list[int]:
    return matching(folder, "-m stages.")


def _shipper(dvc: int, folder: Path) -> list[int]:
    return matching(folder, "lmlib.monitoring.tracking")


def _all(dvc: int, folder: Path) -> list[int]:
    return [*_group(dvc, folder), *_shipper(dvc, folder)]


# How a build is disturbed: a name -> what is hit, given dvc's process and the folder, and how
WAYS: dict[str, tuple[Callable[[int, Path], list[int]], signal.Signals]] = {
    "kill group": (_group, signal.SIGKILL),
    "kill all": (_all, signal.SIGKILL),
    "kill dvc": (_dvc, signal.SIGKILL),
    "kill stage": (_stage, signal.SIGKILL),
    "kill shipper": (_shipper, signal.SIGKILL),
    "terminate group": (_group, signal.SIGTERM),
    "terminate dvc": (_dvc, signal.SIGTERM),
    "terminate stage": (_stage, signal.SIGTERM),
    "Ctrl-C": (_group, signal.SIGINT),
}


# -- rounds


@dataclass
class Round:
    """One copy of the project, its kills, and what was wrong at its end."""

    folder: Path
    kills: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wrong = [*self.wrong[:SHOWN], f"and {len(self.wrong) - SHOWN} more"]
        told = "; ".join(wrong if len(self.wrong) > SHOWN else self.wrong) or "equal"
        return f"{counts(self.kills)}, {self.restarts} restarts: {told}"


def counts(kills: Counter[str]) -> str:
    """Return the number of kills, and of each way."""
    ways = ", ".join(f"{way} {n}" for way, n in sorted(kills.items()))
    return f"{kills.total()} kills ({ways})" if ways else "0 kills"


def disturb(project: Project, rng: Random, seconds: float, one: Round, wanted: int) -> None:
    """Build a project, killed up to `wanted` times; `seconds` is what a build takes."""
    plan = [
        # early kills are likelier: more of them fit in, and more begins early
        (rng.choice(list(WAYS)), seconds * rng.random() ** 3, rng.random() < 2 / 3)
        for _ in range(wanted)
    ]
    build: subprocess.Popen[bytes] | None = None
    for way, after_s, is_patient in plan:
        build = build or start(project, COMMAND)
        try:
            build.wait(after_s)
            break
        except subprocess.TimeoutExpired:
            victims, how = WAYS[way]
        if not stop(victims(build.pid, project.folder), how):
            continue
        one.kills[way] += 1
        if victims is _shipper:  # dvc can do without
            continue
        try:
            status = build.wait(PATIENCE_S + 2 * seconds)
        except subprocess.TimeoutExpired:
            one.wrong.append(f"`dvc repro` does not end after `{way}`")
            stop([-build.pid], signal.SIGKILL)
            build.wait()
            return
        build = None
        if not status:  # the hit came when all was done
            break
        one.restarts += 1
        if is_patient and (left := wait_until_gone(project.folder, PATIENCE_S)):
            one.wrong.append(f"left after `{way}`: {'; '.join(left.values())}")
            break
    if build and (status := build.wait()):
        one.wrong.append(f"`dvc repro` ended with {status} by itself: {tail(project)}")


def finish(project: Project, one: Round) -> bool:
    """Build a project to its end, and let everything be sent; return whether that worked."""
    before = len(one.wrong)
    for command in (COMMAND, (sys.executable, "-m", "stages.sync_tracking")):
        if status := start(project, command).wait():
            one.wrong.append(f"`{' '.join(command)}` ended with {status}: {tail(project)}")
            break
        if left := wait_until_gone(project.folder, PATIENCE_S):
            one.wrong.append(f"left at the end: {'; '.join(left.values())}")
            stop(list(left), signal.SIGKILL)
    return len(one.wrong) == before


def judge(undisturbed: Result, one: Round) -> None:
    """Add what is wrong with a finished copy to its round."""
    try:
        one.wrong += undisturbed.differences(Result.of(one.folder))
    except Exception as error:  # noqa: BLE001  # a broken database too is a difference
        one.wrong.append(f"the result cannot be read: {type(error).__name__}: {error!s:.200}")
    one.wrong += [f"left: {name}" for name in leftovers(one.folder)]
    if journals := list(one.folder.glob("models/.tracking/*.jsonl")):
        one.wrong.append(f"not sent to MLflow: {', '.join(path.name for path in journals)}")


def start(project: Project, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a project, in a session of its own; its output goes to a log.

    Ctrl-C reaches it, even if this process was started in the background and ignores it.
    """
    with log_of(project).open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def log_of(project: Project) -> Path:
    """Return the file with the output of all commands in a project."""
    return project.folder.with_suffix(".log")


def tail(project: Project) -> str:
    """Return the last error in the log, else its last line."""
    lines = log_of(project).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.lower().startswith("error: ")]
    return (errors or lines or [""])[-1]


def soak(scratch: Path, num_kills: int, seed: int, minutes: float) -> int:
    """Run rounds until there were enough kills or the time is over; return the exit status."""
    started = time.monotonic()
    overrides = tiny_overrides() | RHYTHM
    project = copy_project(scratch / "undisturbed", overrides)
    build_started = time.monotonic()
    first = Round(project.folder)
    built = finish(project, first)
    seconds = time.monotonic() - build_started
    if not built:
        raise SystemExit(f"the undisturbed run failed in {project.folder}: {first.wrong}")
    undisturbed = Result.of(project.folder)
    say(f"undisturbed: {seconds:.0f} s, {sum(map(len, undisturbed.runs.values()))} runs in MLflow")

    rounds: list[Round] = []
    total: Counter[str] = Counter()
    while total.total() < num_kills:
        if time.monotonic() - started > 60 * minutes:
            say(f"stopped after {minutes:g} minutes; --minutes allows more")
            break
        rng = Random(f"{seed} {len(rounds)}")
        one = Round(scratch / f"round-{len(rounds)}")
        rounds.append(one)
        round_started = time.monotonic()
        project = copy_project(one.folder, overrides)
        wanted = min(rng.randrange(1, MOST_KILLS + 1), num_kills - total.total())
        disturb(project, rng, seconds, one, wanted)
        if finish(project, one):
            judge(undisturbed, one)
        total += one.kills
        say(f"round {len(rounds) - 1}: {time.monotonic() - round_started:.0f} s, {one}")
        if one.wrong:
            say(f"  kept: {one.folder}, output: {log_of(project)}")
        else:
            shutil.rmtree(one.folder)
    wrong = [one for one in rounds if one.wrong]
    say(
        f"{counts(total)} in {len(rounds)} rounds, {sum(one.restarts for one in rounds)} restarts, "
        f"{time.monotonic() - started:.0f} s: {len(wrong)} rounds differ"
    )
    return 1 if wrong else 0


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Parse the command line, and soak in a temporary folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    given = parser.parse_args()
    home = make_home()
    enter(clean(os.environ) | home | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    scratch = Path(tempfile.mkdtemp(prefix="soak-")).resolve()
    try:
        status = soak(scratch, given.kills, given.seed, given.minutes)
    finally:
        stop(list(processes_in(scratch)), signal.SIGKILL)
    shutil.rmtree(home["HOME"], ignore_errors=True)
    if not status:
        shutil.rmtree(scratch)
    sys.exit(status)


if __name__ == "__main__":
    main()
