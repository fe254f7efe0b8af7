"""Progress bars: on terminals alone, in one line each, and below what is logged meanwhile."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.pipeline.imports import ROOT

# A run that logs while it shows its bars.
CODE = """
import logging, time
import stages
from stages.cli import run_stage
from lmlib.monitoring.progress import byte_bar, progress_bar, progress_bars

def main():
    with progress_bars({"count": "B", "merge": "merges"}) as on_progress:
        on_progress("count", 5_000_000, 10_000_000)
        on_progress("merge", 3839, 3839)
    with byte_bar("toystories", None) as on_bytes:
        on_bytes(10)
    with progress_bar("train", 2_000_000, "steps", 1_999_990) as bar:
        bar.set_postfix(loss="10.318", valid="10.058")
        for step in range(10):
            logging.getLogger("stages").info("logged after %d", step)
            bar.update()
    with progress_bar("hidden", 2, "steps", shown=False) as bar:
        bar.update()

run_stage(main)
"""


def on_terminal(columns: int) -> str:
    """Return what the code writes to a terminal of a width."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    with subprocess.Popen([sys.executable, "-c", CODE], cwd=ROOT, env=env, stderr=other) as run:
        os.close(other)
        written = b""
        try:
            while chunk := os.read(main, 65536):
                written += chunk
        except OSError:  # the terminal is closed
            pass
    os.close(main)
    assert run.returncode == 0
    return written.decode()


@pytest.fixture(scope="module")
def shown() -> str:
    return on_terminal(80)


def test_a_bar_has_few_fields_and_fits_80_columns(shown: str) -> None:
    pieces = re.split(r"[\r\n]", shown)
    assert max(map(len, pieces)) <= 80
    assert any(re.fullmatch(r"count  50%\|█+ +\| 5\.00M/10\.0MB, \S+ left", x) for x in pieces)
    assert any(re.fullmatch(r"merge 100%\|█+\| 3839/3839 merges, \S+ left", x) for x in pieces)
    assert any(re.fullmatch(r"toystories 10\.0B, \S+", x) for x in pieces)
    last = r"train 100%\|█*.?\| 2000000/2000000 steps, 00:00 left, loss=10\.318, valid=10\.058"
    assert any(re.fullmatch(last, x) for x in pieces)
    assert "hidden" not in shown


def test_log_lines_are_whole_and_above_the_bar(shown: str) -> None:
    """Each is alone in its line: the bar's is cleared before, and drawn again below."""
    assert re.findall(r"[\r\n](logged after \d)\r\n", shown) == [
        f"logged after {step}" for step in range(10)
    ]


def test_a_narrow_terminal_has_no_broken_lines() -> None:
    assert max(map(len, re.split(r"[\r\n]", on_terminal(40)))) <= 40


def test_a_log_file_has_no_bars() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == [f"logged after {step}" for step in range(10)]
