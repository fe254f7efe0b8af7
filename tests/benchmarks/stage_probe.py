"""Run a stage up to the start of its work, or with clocks around its training.

    python tests/benchmarks/stage_probe.py start MODULE:NAME STAGE [ARGUMENT ...]
    python tests/benchmarks/stage_probe.py train NUMBERS.json [--untracked]

It is started by its path, from the root of the project whose stages it runs: that may be a copy of
this one.

`start` takes the function MODULE:NAME, with which the useful work of the stage begins, away and
puts one in its place that writes the CPU seconds of the process so far to stdout and ends it.
Everything before it is as ever: Python's start, imports, params.yaml, the fingerprint, inputs, the
opening of a run with the start of its sender. A run is closed as ever, too, after that was written.

`train` runs stage `train` and writes what it took, in seconds but for `calls`:

    training         from the first step to the last, validations and checkpoints included
    training_cpu     of the training process, all threads
    tracking, calls  what the training waited in Run.log meanwhile, and how often it called it
    reading          what it took to read the numbers that are logged: norms, speed, memory
    opening          before the training: to write down the run and start the sender
    closing          after it: until all is sent, or the stage waits no longer
    sender           CPU of the sender's process while the training ran
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

Seconds = dict[str, float]


def start(target: str, stage: str) -> None:
    """Run a stage until it calls `target`."""

    def stop(*_: object, **__: object) -> NoReturn:
        os.write(1, f" {time.process_time()}\n".encode())  # the stage may have begun the line
        sys.exit()

    import stages  # noqa: F401  # first, as in every stage: it sets what OpenMP reads

    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for parent in parents:
        holder = getattr(holder, parent)
    setattr(holder, name, stop)
    run(stage)


def train(*, tracked: bool) -> Seconds:
    """Run stage `train`, without a tracker if not `tracked`; return what it took."""
    import stages  # noqa: F401  # first, as in every stage: it sets what OpenMP reads
    from lmlib import training
    from lmlib.monitoring import tracking

    seconds: Seconds = {}
    open_run, fit, read = tracking.open_run, training.train, training.Trainer.log

    @contextlib.contextmanager
    def clocked_open_run(*args: Any, **kwargs: Any) -> Iterator[tracking.Run]:
        if not tracked:
            yield tracking.Run(Path())  # never opened, it records nothing
            return
        with contextlib.ExitStack() as stack:
            yield clocked(seconds, "opening", stack.enter_context)(open_run(*args, **kwargs))
            begin = time.perf_counter()
        seconds["closing"] = time.perf_counter() - begin

    def clocked_fit(*args: Any, **kwargs: Any) -> Any:
        *before, hooks = args
        steps: list[int] = []
        log = clocked(seconds, "tracking", hooks.on_step)

        def counted(step: int, metrics: dict[str, float]) -> None:
            steps.append(step)
            log(step, metrics)

        sender, cpu = sender_cpu_s(), time.process_time()
        saving = clocked(seconds, "tracking", hooks.on_save)
        counted_hooks = replace(hooks, on_step=counted, on_save=saving)
        result = clocked(seconds, "training", fit)(*before, counted_hooks, **kwargs)
        seconds["training_cpu"] = time.process_time() - cpu
        seconds["sender"] = sender_cpu_s() - sender
        seconds["calls"] = len(steps)
        return result

    tracking.open_run, training.train = clocked_open_run, clocked_fit
    training.Trainer.log = clocked(seconds, "reading", read)
    run("train")
    return seconds


def clocked(seconds: Seconds, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, whose seconds are added to those of `name`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

    return wrapper


def sender_cpu_s() -> float:
    """Return the CPU seconds of the only process that a training on one device starts."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(spent.user + spent.system for spent in times)


def run(stage: str) -> None:
    """Run a stage as `python -m stages.NAME` does."""
    runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)


def main() -> None:
    """Do what the command line says."""
    sys.path[0] = str(Path.cwd())  # as -m sets it
    mode, *given = sys.argv[1:]
    if mode == "start":
        target, stage, *sys.argv[1:] = given
        start(target, stage)
    else:
        numbers, *options = given
        del sys.argv[1:]
        seconds = train(tracked="--untracked" not in options)
        Path(numbers).write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
