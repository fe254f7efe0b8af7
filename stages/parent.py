"""Ending a stage together with the `dvc` that started it."""

import ctypes
import os
import signal
import sys


def terminate_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies; elsewhere do nothing.

    `dvc` passes Ctrl-C on to a stage, but neither SIGTERM nor SIGKILL: without this, a stage
    would keep running as an orphan after its dvc was killed.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # the parent died before the call
        os.kill(os.getpid(), signal.SIGTERM)
