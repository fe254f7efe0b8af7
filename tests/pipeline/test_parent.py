"""A stage ends with the dvc that started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import parent
from tests.pipeline.imports import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_stage_that_still_imports_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """It answers through a pipe that it inherits; the pipe closes when it dies."""
    slow = "import time; print('ready', flush=True); time.sleep(60); print('lived on')"
    (tmp_path / "torch.py").write_text(slow)
    child = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'stages.train'])"
    process = subprocess.Popen(
        [sys.executable, "-c", child],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == ""  # returns once the grandchild is gone


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize(
    ("adopter", "stage", "ended"),
    [
        ("systemd", "train", True),
        ("tini", "train", True),
        ("dvc", "train", False),
        ("python3", "train", False),
        ("systemd", "", False),
    ],
)
def test_a_parent_that_died_before(
    monkeypatch: pytest.MonkeyPatch, adopter: str, stage: str, ended: bool
) -> None:
    signals: list[int] = []
    monkeypatch.setattr("os.kill", lambda _, signum: signals.append(signum))
    monkeypatch.setattr("os.getppid", lambda: 1)
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(prctl=lambda *_: 0))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: adopter + "\n")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if stage:
        monkeypatch.setenv("DVC_STAGE", stage)
    parent.terminate_with_parent()
    assert signals == [signal.SIGTERM] * ended


def test_terminate_with_parent_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("called into libc"))
    parent.terminate_with_parent()
