"""Ending a program in order: SIGINT and SIGTERM wait for a safe point, orphans do not live on."""

import ctypes
import os
import signal
import sys
from types import FrameType


class Interrupted(SystemExit):
    """The signal `signum` asked the program to end, and its state is saved: exit 128 + signum."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class DeferredSignals:
    """Within `with`, SIGINT and SIGTERM only set `received`; a second SIGINT interrupts at once.

    `received` is the signal's number, or None. Outside the main thread Python allows no signal
    handlers; nothing is deferred there.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "DeferredSignals":
        self._previous = {}
        for signum in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[signum] = signal.signal(signum, self._note)
            except ValueError:  # not in the main thread
                break
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.received == signal.SIGINT and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum


def terminate_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies; elsewhere do nothing.

    `dvc` passes Ctrl-C on to a stage, but neither SIGTERM nor SIGKILL: without this a stage
    whose dvc was killed would train on as an orphan.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)
