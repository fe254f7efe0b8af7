"""Deferring SIGINT and SIGTERM until a run has reached a step that it can resume from."""

import signal
from types import FrameType


class Interrupted(SystemExit):
    """The signal `signum` ended the program, after its state was saved: exit 128 + signum."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class DeferredSignals:
    """Within `with`, SIGINT and SIGTERM only set `received`; a second SIGINT interrupts at once.

    `received` is the signal's number, or None. Outside the main thread, where Python
    allows no signal handlers, nothing is deferred.
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
