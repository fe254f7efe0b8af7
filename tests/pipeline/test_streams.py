"""stages/streams.py: progress and warnings are not worth a run."""

import subprocess
import sys

import pytest

from tests.pipeline.imports import ROOT

STAGE = """
import sys
sys.argv = ["-m"]  # as Python starts a module
import stages
from stages.cli import run_stage
from lmlib.monitoring.progress import progress_bars

def main():
    with progress_bars({"count": "B"}) as on_progress:
        on_progress("count", 5, 5)
    print("done", open("/dev/null").fileno() > 2)

run_stage(main)
"""


def run(redirections: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with streams as a shell redirects them."""
    command = f'exec "{sys.executable}" -c "$0" {redirections}'
    return subprocess.run(
        ["bash", "-c", command, code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "2> >(true)", "0<&- 2>&-"])
def test_a_stage_ends_well_where_nothing_can_be_shown(redirections: str) -> None:
    """No file takes the number of a closed stream, either."""
    done = run(redirections, STAGE)
    assert (done.returncode, done.stdout) == (0, "done True\n")


def test_what_can_be_shown_is_shown() -> None:
    done = run("", STAGE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done True\n", "")
    failed = run(">&-", STAGE.replace("print(", "raise ValueError("))
    assert failed.returncode == 1
    assert failed.stderr.endswith("error: ('done', True)\n")
