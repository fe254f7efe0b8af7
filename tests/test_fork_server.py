"""tests/fork_server.py: a fork is to those around it the program that it replaces."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.fork_server import fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server needs pidfd_open")
Start = Callable[..., "subprocess.Popen[str]"]

LOOK = """
import json, os, resource, sys
import stages
me = {
    "folder": os.getcwd(), "arguments": sys.argv, "variable": os.environ.get("VARIABLE"),
    "path": sys.path[0], "parent": os.getppid(), "stdin": sys.stdin.read(), "main": __name__,
    "umask": os.umask(0), "limit": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
    "torch": "torch" in sys.modules,
    "file": [os.readlink(f"/proc/self/fd/{number}") for number in map(int, sys.argv[1:])],
}
print(json.dumps(me))
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with fork_server() as folder:
        yield folder


@pytest.fixture
def start(programs: Path, tmp_path: Path) -> Start:
    """Return a function that starts `python -m stages.NAME` for a module with this code."""
    package = tmp_path / "with ü" / "stages"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()

    def start(
        code: str, *arguments: str, threads: str = "1", **options: object
    ) -> "subprocess.Popen[str]":
        (package / "work.py").write_text(code, encoding="utf-8")
        settings = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
        # without what tests of this process before have left for libraries: it is read at start
        left = ("PYTHON", "OMP_", "KMP_", "LD_", "MALLOC_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(left)}
        env |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        env |= {"VARIABLE": "é", "OMP_NUM_THREADS": threads}
        command = ["python", "-m", "stages.work", *arguments]
        return subprocess.Popen(command, cwd=package.parent, env=env, text=True, **settings)  # type: ignore[call-overload]

    return start


def test_a_fork_has_what_its_client_has(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        number = file.fileno()
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 30, 1 << 31))
        process = start(LOOK, str(number), pass_fds=[number], umask=0o027, preexec_fn=limit)
    out, err = process.communicate("a text")
    assert (err, process.returncode) == ("", 0)
    me = json.loads(out)
    folder = str(tmp_path / "with ü")
    assert me["folder"] == me["path"] == folder
    assert me["arguments"] == [f"{folder}/stages/work.py", str(number)]
    assert (me["variable"], me["stdin"], me["main"]) == ("é", "a text", "__main__")
    assert me["file"] == [str(tmp_path / "file")]
    assert me["parent"] == os.getpid()
    assert (me["umask"], me["limit"]) == (0o027, 1 << 30)
    assert me["torch"]  # it is there without an import


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit(-1)", 255, ""),
        ("import sys; sys.exit('a sentence')", 1, "a sentence\n"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_how_a_fork_ends(start: Start, code: str, status: int, said: str) -> None:
    process = start(code)
    _, err = process.communicate()
    assert process.returncode == status
    assert err.endswith(said)
    assert bool(err) == bool(said)


@pytest.mark.parametrize(
    ("number", "caught"), [(signal.SIGINT, 7), (signal.SIGTERM, 8), (signal.SIGKILL, None)]
)
def test_signals_reach_a_fork(start: Start, number: int, caught: int | None) -> None:
    """It can handle them; with its client killed it is killed, which closes its pipe."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(8))\n"
        "try:\n    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(7)\n"
    )
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background it is not
    with start(code, preexec_fn=heeded) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == ""
    assert process.returncode == (-signal.SIGKILL if caught is None else caught)


def test_a_variable_that_a_library_has_read_gets_a_real_process(start: Start) -> None:
    out, _ = start("import sys; print('torch' in sys.modules)", threads="3").communicate()
    assert out == "False\n"


def answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(address)) == 0


@pytest.mark.slow
def test_the_server_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os\nfrom tests.fork_server import fork_server\nwith fork_server() as folder:\n"
        "    print(folder, flush=True)\n    os.kill(os.getpid(), 9)"
    )
    ended = [sys.executable, "-c", code]
    root = Path(__file__).parents[1]
    folder = subprocess.run(ended, cwd=root, stdout=subprocess.PIPE, text=True).stdout.strip()
    deadline = time.monotonic() + 60
    while answers(Path(folder).with_name("socket")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shutil.rmtree(Path(folder).parent)


def test_another_program_is_a_real_process(programs: Path) -> None:
    command = [programs / "python", "-c", "import sys; print('torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
