"""Tests see the same environment however they are started, and no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import clean
from tests.pipeline.imports import ROOT

FOREIGN = {
    "MAKEFLAGS": "w -j4 --jobserver-auth=3,4",
    "LC_ALL": "de_DE.UTF-8",
    "LANG": "de_DE.UTF-8",
    "TZ": "Asia/Kolkata",
    "COLUMNS": "40",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "DVC_STUDIO_TOKEN": "secret",
    "GIT_DIR": "/elsewhere",
    "PYTHONPATH": "/elsewhere",
    "http_proxy": "http://127.0.0.1:9",
    "OMP_NUM_THREADS": "7",
    "GOMP_SPINCOUNT": "5",
}
LEFT = """
import os, pytest
pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", {path!r}])
print("left:", {{name: os.environ.get(name) for name in {names}}})
"""


def test_foreign_variables_go() -> None:
    needed = {"PATH": "/bin", "USER": "me", "PYTEST_ADDOPTS": "-q", "LD_LIBRARY_PATH": "/lib"}
    assert clean(FOREIGN | needed) == needed


def test_this_test_has_none_of_them() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"
    mine = {"OMP_NUM_THREADS", "GOMP_SPINCOUNT"}  # the latter is set by `import stages`
    assert os.environ.keys() & FOREIGN.keys() <= mine
    assert not (Path(os.environ["HOME"]) / ".gitconfig").exists()


@pytest.mark.parametrize(
    ("path", "visible"),
    [
        ("tests/test_files.py", ""),
        pytest.param("tests/test_cuda.py", "0", marks=pytest.mark.slow),
    ],
)
def test_only_the_tests_for_a_gpu_see_one(path: str, visible: str) -> None:
    names = ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MLFLOW_TRACKING_URI", "TZ"]
    env = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "0", **FOREIGN}
    done = subprocess.run(
        [sys.executable, "-c", LEFT.format(path=path, names=names)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    left = dict(zip(names, [visible, "1", None, None], strict=True))
    assert done.stdout.splitlines()[-1] == f"left: {left}", done.stdout + done.stderr
