"""The folder with the resume states of one run: lock it, and remove it when the run is over."""

import contextlib
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

FINISHED = "finished"


def lock_of(folder: Path) -> FileLock:
    """Return the lock that a run holds while it uses the states in `folder`."""
    # next to the folder, not in it: `discard` removes the folder
    return FileLock(folder.with_name(folder.name + ".lock"))


def mark_finished(folder: Path) -> None:
    """Record that the run has ended and its results are written."""
    with contextlib.suppress(OSError):  # then the states stay
        (folder / FINISHED).touch()


def discard(folder: Path) -> None:
    """Remove the states of a finished run, unless another process trains from them."""
    if (folder / FINISHED).exists():
        with contextlib.suppress(Timeout), lock_of(folder).acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
