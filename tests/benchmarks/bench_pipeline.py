"""What the pipeline costs: an empty `dvc repro`, starts of stages, logging, a busy machine.

    python -m tests.benchmarks.bench_pipeline
    python -m tests.benchmarks.bench_pipeline --parts start --repeats 9
    python -m tests.benchmarks.bench_pipeline --parts logging --steps 1400 --log-every 20

It works in a temporary clone of the last commit, with the outs of this project from its DVC cache;
build them before (`dvc repro`). Contenders take turns. What a first time alone takes (compiling
kernels, filling caches, making MLflow's database) is done before and not counted.

repro     `dvc repro` where nothing is to be done, here and in a project of one stage that copies a
          file. Ratios are to the latter: what this project adds to DVC itself.
start     From the start of `python -m stages.NAME` to the first call of the function that STAGES
          names, with which its useful work begins; stage_probe.py says how that is found. Beside
          it what Python takes to import torch alone.
logging   Trainings with params.yaml's model through stage `train`, tracked in a sqlite store, by
          turns with the same untracked. "waited" is what the training spends in Run.log, "sender"
          the CPU seconds that the process which sends to MLflow takes meanwhile, "reading" what
          norms, speed and memory cost that are logged; each as a part of the training's seconds,
          from the first step to the last. The ratios are to the untracked training. "opening" and
          "closing" the run are what the stage waits before and after.
busy      Trainings on a quiet machine, beside one busy loop, and beside as many as there are cores:
          with the stages' own choice (stages/cores.py), with one thread, and with OpenMP's own
          spin. Ratios are to another row of the same turn.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path

from lmlib.threads import num_cores
from stages.cores import CHOSEN
from tests.benchmarks.contest import ROOT
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.timing import Spread
from tests.environment import clean, enter, make_home
from tests.pipeline.conftest import Project

PROBE = str(Path(__file__).with_name("stage_probe.py"))
STAGES = {  # with their arguments
    "download": "lmlib.corpus:write_corpus",
    "train_tokenizer": "lmlib.tokenizer:train_bpe",
    "encode": "lmlib.tokenizer:Tokenizer.encode_file",
    "report": "sys:stdout.write",
    "ui --port 5873": "subprocess:Popen.__init__",  # of the MLflow server
    "sync_tracking": "lmlib.monitoring.tracking:replay",
    "verify": "stages.verify:remove_damaged",
    "study sweep-lr": "subprocess:Popen.__init__",  # of `dvc exp show`
    "vega": "vl_convert:javascript_bundle",
    "train": "lmlib.training:Trainer.take_step",
    "evaluate": "lmlib.evaluation:evaluate",
    "export": "lmlib.export:save_pretrained",
    "sample --prompt Once": "lmlib.sampling:stream_text",
    "score README.md": "lmlib.evaluation:evaluate",
    "import_hf models/hf": "lmlib.export:load_pretrained",
    "plan": "lmlib.plan:count_memory",
    "serve --port 0": "uvicorn:Server.run",
    "harness": "lmlib.harness.run:evaluate_tasks",
    "parameters": "sys:stdout.write",
    "pipeline_picture": "sys:stdout.write",
}
NEED_TORCH = (
    *("train", "evaluate", "export", "sample", "score", "import_hf", "plan", "serve", "harness"),
    "parameters",
)
PARTS = ("repro", "start", "logging", "busy")

Numbers = dict[str, float]


@dataclass
class Contender:
    """What is measured, and the numbers of each turn."""

    name: str
    measure: Callable[[], Numbers]
    turns: list[Numbers] = field(default_factory=list)

    def spread(self, number: str, scale: float = 1.0) -> Spread:
        """Return the spread of one of its numbers."""
        return Spread.of(turn[number] * scale for turn in self.turns)

    def ratio(self, number: str, other: "Contender") -> Spread:
        """Return the spread of a number by that of `other` in the same turn."""
        pairs = zip(self.turns, other.turns, strict=True)
        return Spread.of(mine[number] / theirs[number] for mine, theirs in pairs)

    def percent(self, number: str, whole: str) -> Spread:
        """Return the spread of a number by another one, as a percentage."""
        return Spread.of(100 * turn[number] / turn[whole] for turn in self.turns)


def take_turns(contenders: Sequence[Contender], repeats: int, warmup: int = 1) -> None:
    """Measure all of them, one after the other, again and again; `warmup` turns do not count."""
    for turn in range(warmup + repeats):
        for contender in contenders:
            numbers = contender.measure()
            if turn >= warmup:
                contender.turns.append(numbers)


def repro_rows(project: Project, folder: Path, repeats: int) -> list[Row]:
    """Return the rows of an empty `dvc repro`."""
    one_stage = Project(folder)
    folder.mkdir()
    (folder / "text.txt").write_text("text\n", encoding="utf-8")
    one_stage.run("git", "init", "--quiet")
    one_stage.run("dvc", "init", "--quiet")
    (folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    autostage = true\n    check_update = false\n",
        encoding="utf-8",
    )
    copying = ["--name", "copy", "--deps", "text.txt", "--outs", "copy.txt", "cp text.txt copy.txt"]
    one_stage.run("dvc", "stage", "add", "--quiet", "--run", *copying)
    bare = Contender("dvc --version", partial(seconds_of, project, "dvc", "--version"))
    least = Contender("dvc repro, one stage", partial(empty_repro, one_stage))
    ours = Contender("dvc repro, this project", partial(empty_repro, project))
    take_turns([bare, least, ours], repeats)
    rows: list[Row] = []
    for contender in (bare, least, ours):
        row = {"command": contender.name, "s": contender.spread("s")}
        row |= {"CPU s": contender.spread("CPU s")}
        if contender is not least:
            row |= {"ratio": contender.ratio("s", least)}
            row |= {"CPU ratio": contender.ratio("CPU s", least)}
        rows.append(row)
    return rows


def empty_repro(project: Project) -> Numbers:
    """Return what `dvc repro` takes to find that nothing is to be done."""
    return seconds_of(project, "dvc", "repro", said="up to date")


def seconds_of(project: Project, *command: str, said: str = "") -> Numbers:
    """Return the seconds and CPU seconds of a command; AssertionError if it says not `said`."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = project.run(*command)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert said in output, output
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"s": seconds, "CPU s": cpu}


def start_rows(project: Project, repeats: int) -> list[Row]:
    """Return the rows of the stages' starts."""
    torch = Contender("import torch", partial(seconds_of, project, "python", "-c", "import torch"))
    stages = [
        Contender(stage, partial(start_of, project, target, *stage.split()))
        for stage, target in STAGES.items()
    ]
    take_turns([torch, *stages], repeats)
    rows: list[Row] = [
        {"stage": torch.name, "s": torch.spread("s"), "CPU s": torch.spread("CPU s")}
    ]
    for contender in stages:
        row = {"stage": contender.name.split()[0], "s": contender.spread("s")}
        row |= {"CPU s": contender.spread("CPU s")}
        if row["stage"] in NEED_TORCH:
            row |= {"by torch's": contender.ratio("s", torch)}
        rows.append(row)
    return rows


def start_of(project: Project, target: str, *command: str) -> Numbers:
    """Return what a stage takes until it calls `target`; wait until it has ended."""
    begin = time.perf_counter()
    with subprocess.Popen(
        ["python", PROBE, "start", target, *command],
        cwd=project.folder,
        env=project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begin
        _, errors = process.communicate()
    assert line, f"{command} never called {target}:\n{errors}"
    return {"s": seconds, "CPU s": float(line.split()[-1])}


def logging_rows(project: Project, repeats: int, steps: int, rhythms: Sequence[int]) -> list[Row]:
    """Return the rows of trainings of so many steps, each logging every so many of them."""
    seeds = count(1000)  # each training is another one: none resumes, none is known to MLflow

    def measure(log_every: int, *options: str) -> Numbers:
        settings = {"num_steps": steps, "log_every": log_every, "seed": next(seeds)}
        project.set_params({f"train.{key}": str(value) for key, value in settings.items()})
        numbers = project.folder / "numbers.json"
        command = ["python", PROBE, "train", str(numbers), *options]
        subprocess.run(command, cwd=project.folder, env=project.env, check=True)
        return json.loads(numbers.read_text(encoding="utf-8"))

    pairs = [
        (
            Contender(str(log_every), partial(measure, log_every, "--untracked")),
            Contender(str(log_every), partial(measure, log_every)),
        )
        for log_every in rhythms
    ]
    measure(rhythms[0])  # compiles kernels and makes the database
    take_turns([contender for pair in pairs for contender in pair], repeats, warmup=0)
    return [
        {
            "steps": str(steps),
            "log_every": tracked.name,
            "training s": tracked.spread("training"),
            "calls": str(int(tracked.spread("calls").median)),
            "ms waited": tracked.spread("tracking", 1e3),
            "waited %": f"{tracked.percent('tracking', 'training').median:.1g}",
            "sender CPU s": tracked.spread("sender"),
            "sender %": tracked.percent("sender", "training"),
            "reading %": tracked.percent("reading", "training"),
            "ratio": tracked.ratio("training", untracked),
            "CPU ratio": tracked.ratio("training_cpu", untracked),
            "opening ms": tracked.spread("opening", 1e3),
            "closing s": tracked.spread("closing"),
        }
        for untracked, tracked in pairs
    ]


def busy_rows(project: Project, repeats: int, steps: int) -> list[Row]:
    """Return the rows of trainings on a quiet machine, beside one busy loop, and beside more."""
    seeds = count(2000)  # each training is another one, so none resumes

    def measure(busy: int, **variables: str) -> Numbers:
        settings = {"train.num_steps": str(steps), "train.seed": str(next(seeds))}
        project.set_params(settings | {"optim.warmup_steps": "10"})
        numbers = project.folder / "numbers.json"
        command = ["python", PROBE, "train", str(numbers), "--untracked"]
        with busy_loops(busy):
            subprocess.run(
                command,
                cwd=project.folder,
                env=project.env | variables,
                stderr=subprocess.DEVNULL,
                check=True,
            )
        return json.loads(numbers.read_text(encoding="utf-8"))

    ways = {"": {}, "one thread": {"OMP_NUM_THREADS": "1"}}
    ways |= {"OpenMP's own spin": {"GOMP_SPINCOUNT": "300000"}}
    rows: list[Row] = []
    for busy in sorted({0, 1, num_cores()}):
        contenders = [
            Contender(name or "as the stages do", partial(measure, busy, **variables))
            for name, variables in ways.items()
        ]
        take_turns(contenders, repeats, warmup=int(not busy))
        _, one_thread, own_spin = contenders
        rows += [
            {
                "beside": f"busy loops: {busy}",
                "threads": contender.name,
                "training s": contender.spread("training"),
                "steps/s": f"{steps / contender.spread('training').median:.2f}",
                "by one thread's": contender.ratio("training", one_thread),
                "by OpenMP's own": contender.ratio("training", own_spin),
            }
            for contender in contenders
        ]
    return rows


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep so many processes busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Measure the parts and print their tables last."""
    args = arguments()
    openmp = re.compile(f"(G?OMP|KMP)_.*|{CHOSEN}")
    kept = {name: value for name, value in os.environ.items() if openmp.fullmatch(name)}
    enter(clean(os.environ) | make_home() | kept)  # no foreign tracking server
    about = machine() | {"threads": os.environ.get("OMP_NUM_THREADS", "as many as PyTorch takes")}
    about |= {name: version(name) for name in ("dvc", "mlflow", "torch")}
    about["command"] = shlex.join(
        ["python", "-m", "tests.benchmarks.bench_pipeline", *sys.argv[1:]]
    )
    lines = [f"{key}: {value}" for key, value in about.items()]
    with tempfile.TemporaryDirectory() as folder:
        project = Project(ROOT).clone(Path(folder) / "clone")
        if "repro" in args.parts:
            lines += ["", table(repro_rows(project, Path(folder) / "one_stage", args.repeats))]
        if "start" in args.parts:
            lines += ["", table(start_rows(project, args.repeats))]
        if "logging" in args.parts:
            lines += ["", table(logging_rows(project, args.repeats, args.steps, args.log_every))]
        if "busy" in args.parts:
            lines += ["", table(busy_rows(project, args.repeats, args.busy_steps))]
    sys.stdout.write("\n".join([*lines, ""]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of a training")
    parser.add_argument("--busy-steps", type=int, default=60, help="of a training in part busy")
    parser.add_argument("--log-every", type=int, nargs="+", default=[20, 1], help="steps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
