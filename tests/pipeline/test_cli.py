"""What every stage does around its work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.cli import remedy
from tests.pipeline.imports import ROOT

SOURCE = """from numba import njit


@njit(cache=True)
def square(x):
    return x * x
"""
CALL = """import sys
from stages.cli import run_stage

sys.path.insert(0, "lmlib")
from kernels import square

run_stage(lambda: print(square(3)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project in it that has compiled its kernel."""
    folder = tmp_path_factory.mktemp("folder")
    copy(folder / "project", SOURCE)
    assert "data saved to" in call(folder / "project")
    for compiled in (folder / "project" / "lmlib" / "__pycache__").iterdir():
        os.utime(compiled, (1, 1))  # long ago
    return folder


def copy(folder: Path, source: str) -> Path:
    """Make a copy of the project with this source, and nothing compiled."""
    (folder / "lmlib").mkdir(parents=True)
    (folder / "lmlib" / "kernels.py").write_text(source, encoding="utf-8")
    return folder


def call(folder: Path) -> str:
    """Return what a process prints that calls the kernel there, with what Numba's cache does."""
    env = os.environ | {
        "DVC_ROOT": str(folder.parent / "project"),
        "PYTHONPATH": str(ROOT),
        "NUMBA_CACHE_DIR": "",
        "NUMBA_DEBUG_CACHE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CALL], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_copy_of_the_project_compiles_nothing(folder: Path) -> None:
    """Nor does it write into the project."""
    printed = call(copy(folder / "copy", SOURCE))
    assert printed.endswith("\n9\n")
    assert "data loaded from" in printed
    assert "saved to" not in printed


def test_a_copy_with_another_source_compiles_it(folder: Path) -> None:
    """On the same lines: Numba's file of that name is there, and is not taken."""
    printed = call(copy(folder / "edited", SOURCE.replace("x * x", "x + x")))
    assert printed.endswith("\n6\n")
    assert "data saved to" in printed
    assert call(folder / "project").endswith("\n9\n")


def test_a_copy_leaves_what_is_just_being_compiled(folder: Path) -> None:
    """The index may be new, and the code that it names not yet."""
    (index,) = (folder / "project").rglob("*.nbi")
    index.touch()
    printed = call(copy(folder / "early", SOURCE))
    assert "data saved to" in printed
    os.utime(index, (1, 1))


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError])
def test_a_remedy_is_added_to_what_the_library_says(error: type[Exception]) -> None:
    """The library says what is wrong, the pipeline which command helps."""
    with (
        pytest.raises(error, match=r"^train\.npy: damaged; run `dvc repro -f encode`$"),
        remedy("dvc repro -f encode"),
    ):
        raise error("train.npy: damaged")


def test_a_remedy_is_for_bad_files_alone() -> None:
    with pytest.raises(FloatingPointError, match=r"^diverged$"), remedy("dvc repro"):
        raise FloatingPointError("diverged")
