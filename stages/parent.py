"""Ending a stage together with the `dvc` that started it."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def terminate_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies; elsewhere do nothing.

    `dvc` passes Ctrl-C on to a stage, but neither SIGTERM nor SIGKILL: without this, a stage
    would keep running as an orphan after its dvc was killed. `import stages` calls this, since the
    other imports of a stage take seconds.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or _is_orphan(parent):
        os.kill(os.getpid(), signal.SIGTERM)


def _is_orphan(parent: int) -> bool:
    """Return whether the dvc that started this process had died before it could look.

    Process 1 adopts orphans. Only in a container may it have started a stage itself.
    """
    if "DVC_STAGE" not in os.environ or parent != 1:
        return False
    name = Path("/proc/1/comm").read_text(encoding="utf-8", errors="replace")
    return not name.startswith(("dvc", "python"))
