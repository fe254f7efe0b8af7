"""A stage ends with the dvc that started it."""

import subprocess
import sys

import pytest

from stages import parent
from tests.pipeline.imports import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_child_ends_when_its_parent_is_killed() -> None:
    """The grandchild answers through a pipe that it inherits; the pipe closes when it dies."""
    grandchild = (
        "import time; from stages.parent import terminate_with_parent; terminate_with_parent(); "
        "print('ready', flush=True); time.sleep(10); print('lived on')"
    )
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", child], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == ""  # returns once the grandchild is gone


def test_terminate_with_parent_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("called into libc"))
    parent.terminate_with_parent()
