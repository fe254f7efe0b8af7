"""Settings for all tests."""

import _thread
import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.environment import clean, enter, make_home
from tests.fork_server import TOOLS, fork_server


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that takes the fork server out of the tests of the pipeline."""
    parser.addoption(
        "--real-processes",
        action="store_true",
        help="start each command as a program of its own: slower (see tests/fork_server.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Enter an environment that is the same however the tests were started.

    No test sees a GPU but those of tests/test_cuda.py, run alone: the others would compile for it
    in as many processes as there are workers.
    """
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist, started from this environment
        for name in ("COLUMNS", "LINES"):  # which readline has set in it
            os.environ.pop(name, None)
        return
    home = make_home()
    # the workers, and the stages they start, share the cores: one thread each
    enter(clean(os.environ) | home | {"OMP_NUM_THREADS": "1"})
    time.tzset()
    if {Path(argument.partition("::")[0]).name for argument in config.args} != {"test_cuda.py"}:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config.add_cleanup(lambda: shutil.rmtree(home["HOME"], ignore_errors=True))


def pytest_sessionstart() -> None:
    """Let coverage see the threads of `lmlib.threads`: it follows those of `threading` alone."""
    start = _thread.start_new_thread

    def start_traced(function: Callable[..., object], args: tuple[Any, ...]) -> int:
        if threading.gettrace() is None:  # no coverage is measured
            return start(function, args)

        def traced() -> None:
            sys.settrace(threading.gettrace())
            function(*args)

        return start(traced, ())

    _thread.start_new_thread = start_traced


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker has to wait for another's last file."""
    items.sort(key=lambda item: not {"pipeline", "monitoring", "training"} & {*item.path.parts})


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through thousands of tests again and again.

    A training thaws all objects when it ends, and the next one would collect them for long.
    """
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> Iterator[Path]:
    """The folder of the `python` and the `dvc` that tests start: those of a fork server, if any."""
    if sys.platform != "linux" or pytestconfig.getoption("real_processes"):
        yield TOOLS
        return
    with fork_server() as folder:
        yield folder


@pytest.fixture
def forked(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start stages, and the process that sends to MLflow, as forks; see tests/fork_server.py."""
    monkeypatch.setattr(sys, "executable", str(programs / "python"))


@pytest.fixture
def without_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save tokenizers and models as other programs do: their readers must see damage themselves."""
    for module in ("lmlib.checkpoint", "lmlib.tokenizer.codec"):
        monkeypatch.setattr(f"{module}.write_digests", lambda *_: None)
