"""With limited memory or threads, work ends with the right result or MemoryError."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.imports import ROOT
from tests.tokenizer.limited import WORK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others do not limit memory so")

LIMIT_S = 120  # far more than any of these takes; it only ends a broken test
NO_THREADS = """
#include <errno.h>
#include <stddef.h>
int pthread_create(void *thread, const void *attr, void *(*start)(void *), void *arg) {
    return EAGAIN;
}
"""


def outcome(*arguments: str, **env: str) -> str:
    """Return how the work ended in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tokenizer.limited", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MB = 1_000_000
ENOUGH = 4000 * MB  # with room for the kernels
BETWEEN = [MB, 3 * MB, 8 * MB, 30 * MB, 100 * MB, 300 * MB, 700 * MB, 1000 * MB]
MORE = pytest.mark.slow  # each takes a second to import PyTorch
ALL_WORK = [pytest.param(work, marks=[] if work == "encode_batch" else MORE) for work in WORK]


@pytest.mark.parametrize(
    "extra", [0, ENOUGH, *(pytest.param(each, marks=MORE) for each in BETWEEN)]
)
def test_encode_ends_under_a_limit_of_memory(extra: int) -> None:
    """As in the tests of CS336, which allow 1 MB beyond what the process holds."""
    assert outcome("encode", str(extra)) in ("right", "MemoryError" if extra < ENOUGH else "")


@pytest.mark.parametrize("work", ALL_WORK)
@pytest.mark.parametrize("kernels", ["", pytest.param("loaded", marks=MORE)])
def test_all_work_ends_under_a_limit_of_memory(work: str, kernels: str) -> None:
    assert outcome(work, str(MB), kernels) in ("right", "MemoryError")


@pytest.mark.parametrize("work", ["encode_short", pytest.param("encode_iterable", marks=MORE)])
def test_little_work_needs_no_memory(work: str) -> None:
    """A stream promises constant memory; short texts load nothing, however many there are."""
    assert outcome(work, str(MB)) == "right"


@pytest.mark.parametrize("work", ALL_WORK)
def test_all_work_is_done_without_threads(work: str, tmp_path: Path) -> None:
    """The system refuses threads: pids.max or RLIMIT_NPROC is reached."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    (tmp_path / "none.c").write_text(NO_THREADS, encoding="utf-8")
    library = str(tmp_path / "none.so")
    build = ["gcc", "-shared", "-fPIC", "-o", library, str(tmp_path / "none.c")]
    subprocess.run(build, check=True)
    assert outcome(work, "none", LD_PRELOAD=library, OMP_NUM_THREADS="1") == "right"
