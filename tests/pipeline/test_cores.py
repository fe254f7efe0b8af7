"""How many threads a stage takes, how they wait, and whether it says so."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmlib.threads import num_cores
from stages import cores
from stages.cores import SPIN, describe, threads_of_each
from tests.pipeline.imports import ROOT

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", *SPIN)


def seen_by_pytorch(**environment: str) -> dict[str, str]:
    """Return the variables of OpenMP when PyTorch is imported in a stage."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    code = "import os, sys, stages; assert 'torch' not in sys.modules; print(dict(os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: value for name, value in ast.literal_eval(done.stdout).items() if name in NAMES}


def test_threads_spin_for_a_short_time() -> None:
    assert seen_by_pytorch() == SPIN


@pytest.mark.parametrize("chosen", [{name: "1"} for name in ("OMP_WAIT_POLICY", *SPIN)])
def test_what_the_user_has_set_stays(chosen: dict[str, str]) -> None:
    assert seen_by_pytorch(**chosen) == chosen


def test_the_number_of_threads_of_the_user_stays() -> None:
    assert seen_by_pytorch(OMP_NUM_THREADS="3") == SPIN | {"OMP_NUM_THREADS": "3"}


def test_cores_are_divided_among_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "num_cores", lambda: 8)
    assert [threads_of_each(jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


def test_outside_of_a_queue_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert cores.count_queue_workers() == 0
    monkeypatch.setenv("DVC_ROOT", str(Path.cwd()))
    assert cores.count_queue_workers() == 0
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")  # `dvc exp run --temp`: no worker above
    assert cores.count_queue_workers() == 0


def test_it_says_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    expected = f"3 threads on {num_cores()} cores (OMP_NUM_THREADS=3, OMP_WAIT_POLICY=PASSIVE)"
    assert describe(3) == expected
