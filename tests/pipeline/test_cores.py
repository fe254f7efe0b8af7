"""How many threads a stage takes, how they wait, and whether it says so."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmlib.threads import num_cores
from stages import cores
from stages.cores import CHOSEN, SPIN, SPIN_WHERE_FREE, are_free, describe, threads_of_each
from tests.pipeline.imports import ROOT

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", SPIN)
CHOICES = [{SPIN: SPIN_WHERE_FREE}, {SPIN: "0"}]


def seen_by_pytorch(**environment: str) -> dict[str, str]:
    """Return the variables of OpenMP when PyTorch is imported in a stage."""
    kept = {name: value for name, value in os.environ.items() if name not in (CHOSEN, *NAMES)}
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


def test_a_stage_chooses_how_threads_wait() -> None:
    assert seen_by_pytorch() in CHOICES


def test_what_one_stage_chose_binds_no_other() -> None:
    assert seen_by_pytorch(**{SPIN: "7", CHOSEN: "7"}) in CHOICES


@pytest.mark.parametrize("chosen", [{name: "1"} for name in ("OMP_WAIT_POLICY", SPIN)])
def test_what_the_user_has_set_stays(chosen: dict[str, str]) -> None:
    assert seen_by_pytorch(**chosen) == chosen
    assert seen_by_pytorch(**{CHOSEN: "0"} | chosen) == chosen


@pytest.mark.parametrize("number", ["3", "", "3,2", "many"])
def test_the_number_of_threads_of_the_user_stays(number: str) -> None:
    seen = seen_by_pytorch(OMP_NUM_THREADS=number)
    assert seen in [{"OMP_NUM_THREADS": number} | choice for choice in CHOICES]


class Machine:
    """A simulated machine with four cores; this process may use the first two."""

    def __init__(self, stat: Path) -> None:
        self.stat = stat
        self.running = 1
        self.looks = 0
        self.now = 0.0
        self.idle = [0.0] * 4  # seconds in each of the seconds that pass
        self.write()

    def write(self) -> None:
        """Write the counters of now."""
        ticks = self.now * os.sysconf("SC_CLK_TCK")
        cores = [
            f"cpu{core} 9 0 9 {idle * ticks:.0f} 0 0 9 0 0 0" for core, idle in enumerate(self.idle)
        ]
        lines = [
            "cpu  9 0 9 99 9 0 9 0 0 0",
            *cores,
            "intr 99 0 9",
            f"procs_running {self.running}",
        ]
        self.stat.write_text("\n".join([*lines, "softirq 99 1 2", ""]))

    def sleep(self, seconds: float) -> None:
        """Replace time.sleep."""
        self.looks += 1
        self.now += seconds
        self.write()


@pytest.fixture
def four_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    stand_in = Machine(tmp_path / "stat")
    monkeypatch.setattr(cores, "STAT", stand_in.stat)
    monkeypatch.setattr(cores.time, "sleep", stand_in.sleep)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    return stand_in


def test_one_glance_tells_that_nothing_else_runs(four_cores: Machine) -> None:
    assert are_free(2)
    assert four_cores.looks == 0


@pytest.mark.parametrize(
    ("idle", "expected"),
    [
        ([0, 0, 1, 1], (False, False)),  # other programs on both of its cores
        ([0, 1, 1, 1], (True, False)),
        ([0.5, 0.4, 0, 0], (True, False)),
        ([0.9, 0.9, 0, 0], (True, True)),  # everything else runs on other cores
    ],
)
def test_its_own_cores_count_where_others_run(
    four_cores: Machine, idle: list[float], expected: tuple[bool, bool]
) -> None:
    four_cores.running, four_cores.idle = 4, idle
    four_cores.write()
    assert (are_free(1), are_free(2)) == expected
    assert four_cores.looks == 2


@pytest.mark.parametrize(
    "text", [None, "", "cpu 1 2 3", "cpu0 1 2 3 4 5 6\n", "cpu0 x\ncpu1 x\nprocs_running 9\n"]
)
def test_where_the_system_does_not_tell_cores_are_free(
    four_cores: Machine, text: str | None
) -> None:
    four_cores.stat.unlink()
    if text is not None:
        four_cores.stat.write_text(text)
    assert are_free(2)


@pytest.fixture
def busy_loops() -> Iterator[None]:
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_cores())
    ]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what cores do")
@pytest.mark.usefixtures("busy_loops")
def test_nothing_spins_beside_busy_loops() -> None:
    number = str(num_cores())
    expected = {SPIN: "0", "OMP_NUM_THREADS": number}
    assert seen_by_pytorch(OMP_NUM_THREADS=number) == expected


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
    for name in (CHOSEN, *NAMES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv(SPIN, "0")
    expected = f"3 threads on {num_cores()} cores (OMP_NUM_THREADS=3, {SPIN}=0)"
    assert describe(3) == expected
    monkeypatch.setenv(CHOSEN, "0")
    assert describe(3) == f"{expected}\nother programs run, so threads do not spin"
