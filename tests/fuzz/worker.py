"""The process that runs the inputs of one target, which a fault in a kernel may end.

Run: python -m tests.fuzz.worker TARGET SEED FIRST COUNT SECONDS FOLDER

Prints a line of JSON for each input before it is run, {"case": number}, and one for each finding.
"""

import argparse
import faulthandler
import importlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz import memory
from tests.fuzz.targets import TARGETS

LIMIT_S = 60  # for one input


def main() -> None:
    """Run inputs until the time or their number is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    for name in ("seed", "first", "count"):
        parser.add_argument(name, type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory.guard_kernels()
    run = find(given.target)
    end = time.monotonic() + given.seconds
    for case in range(given.first, given.first + given.count):
        if time.monotonic() > end:
            break
        say(case=case)
        shutil.rmtree(given.folder, ignore_errors=True)
        given.folder.mkdir(parents=True)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        rng = Random(f"{given.seed} {given.target} {case}")
        try:
            with memory.guarded(rng.choice(("end", "end", "begin", None))):
                run(rng, given.folder)
        except Exception as error:  # noqa: BLE001  # each is a finding
            kept = given.folder.rename(given.folder.with_name(f"found-{case}"))
            text = "".join(traceback.format_exception(error))
            say(finding=describe(error), traceback=text, folder=str(kept))
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    os._exit(0)  # arrays may not outlive what frees them


def find(target: str) -> Callable[[Random, Path], None]:
    """Return the function of a target, which may also be given as in TARGETS."""
    module_name, function, *arguments = TARGETS.get(target, target).split(":")
    module = importlib.import_module(module_name)
    getattr(module, "prepare", lambda: None)()
    return lambda rng, folder: getattr(module, function)(*arguments, rng, folder)


def say(**values: object) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def describe(error: BaseException) -> str:
    """Return what tells one fault from another: the kind, and the line that raised it."""
    raised = error.__cause__ if isinstance(error, AssertionError) and error.__cause__ else error
    frames = traceback.extract_tb(raised.__traceback__)
    ours = [f for f in frames if "/lmlib/" in f.filename] or frames
    file = "/".join(Path(ours[-1].filename).parts[-2:])
    return f"{type(error).__name__} at {file}:{ours[-1].lineno}: {error!s:.200}"


if __name__ == "__main__":
    main()
