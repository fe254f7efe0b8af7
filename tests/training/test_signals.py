"""lmlib/training/signals.py: signals wait for a safe point."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmlib.training.signals import DeferredSignals, Interrupted

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_only_sets_a_mark(signum: signal.Signals) -> None:
    with DeferredSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signum)
        assert signals.received == signum


def test_second_ctrl_c_interrupts_at_once() -> None:
    with DeferredSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_second_sigterm_waits_as_the_first() -> None:
    """A supervisor may send several; only at a keyboard does repeating mean urgency."""
    with DeferredSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_handlers_come_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), DeferredSignals():
        raise RuntimeError
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_does_nothing_outside_the_main_thread() -> None:
    """Python allows no handlers there; the work itself must still run."""
    received = []

    def work() -> None:
        with DeferredSignals() as signals:
            received.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert received == [None]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_exits_as_a_shell_expects(signum: signal.Signals, code: int) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from lmlib.training.signals import Interrupted; raise Interrupted({int(signum)})",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code == Interrupted(signum).code
    assert done.stderr == ""
