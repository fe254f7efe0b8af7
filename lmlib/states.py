"""The folder with the resume states of one unfinished run: lock it and remove it."""

import contextlib
import shutil
from pathlib import Path

from filelock import FileLock, Timeout


def lock_of(folder: Path) -> FileLock:
    """Return the lock that a run holds while it uses the states in `folder`."""
    # next to the folder, not in it: `discard` removes the folder
    return FileLock(folder.with_name(folder.name + ".lock"))


def discard(folder: Path) -> None:
    """Remove all states in `folder`, unless another process trains from them."""
    with contextlib.suppress(Timeout), lock_of(folder).acquire(timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
