"""A process that has imported the large libraries, and forks for each command of the tests.

Importing PyTorch, MLflow and DVC takes 1.5 s each, and the tests of the pipeline start hundreds of
processes that do. With the folder `bin` of a `ForkServer` first in PATH, `python -m stages.NAME`,
the tracker's process and `dvc` run in forks of one process that has imported these libraries, and
nothing of this project. A fork has the folder, environment, open files, limits, signals and exit
status of the process that it replaces, and whatever it starts is forked, too.

Differences: its parent, of which only `os.getppid` knows nothing, and its command line. A test that
is about these, or about imports, takes a project with `Project.with_real_processes`; with
`pytest --real-processes` all do.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import marshal
import os
import resource
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

TOOLS = Path(sys.executable).parent  # dvc, and the python that the stages start
# what the stages, the tracker's process and DVC's commands import, and no part of this project
LIBRARIES = (
    "torch",
    "torch._dynamo",
    "safetensors.torch",
    "mlflow",
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.store.tracking.sqlalchemy_store",
    "dvc.cli",
    "dvc.cli.parser",
    "dvc.repo",
)


# of a program that has just started; the server's own may be others
HANDLERS = {
    "ignored": signal.SIG_IGN,
    "default": signal.SIG_DFL,
    "interrupt": signal.default_int_handler,
}


@contextmanager
def fork_server() -> Iterator[Path]:
    """Start a server; yield a folder with the `python` and the `dvc` that use it."""
    with tempfile.TemporaryDirectory(prefix="fork-") as folder:
        address = Path(folder, "socket")
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(address)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,  # which closes when this process is killed
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for name in ("python", "dvc"):
            program = Path(sys.executable).with_name(name)
            client = Path(__file__).with_name("fork_client.py")
            words = (sys.executable, "-IS", client, program, address, os.environ["OMP_NUM_THREADS"])
            path = Path(folder, "bin", name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} {name} "$@"\n')
            path.chmod(0o755)
        try:
            while not address.exists():  # ready
                assert server.poll() is None, "the fork server has ended"
                time.sleep(0.02)
            yield path.parent
        finally:
            server.communicate()  # closes its stdin


class Request:
    """A command to run as if a client had become it, with what the client sent."""

    def __init__(self, client: socket.socket) -> None:
        header, files, _, _ = socket.recv_fds(client, 4, 253)
        content = b""
        while len(content) < int.from_bytes(header, "big"):
            content += client.recv(1 << 16)
        self.run, self.folder, self.environment, self.umask, self.limits, self.handlers, *rest = (
            marshal.loads(content)
        )
        self.client, self.numbers = rest
        self.files: list[int] = files

    def close(self) -> None:
        """Close the files that came with it."""
        for each in self.files:
            os.close(each)

    def become(self) -> None:
        """Give this process what the client has."""
        os.setsid()  # it signals no other process with its group
        last = max([2, *self.numbers]) + 1
        for number, file in zip(self.numbers, self._above(last), strict=True):
            os.dup2(file, number)
            os.close(file)
        for number in {0, 1, 2} - set(self.numbers):
            os.close(number)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        time.tzset()
        os.umask(self.umask)
        for number, limit in self.limits.items():
            if resource.getrlimit(number) != limit:
                resource.setrlimit(number, limit)
        for number, handler in self.handlers.items():
            signal.signal(number, HANDLERS[handler])
        for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
            stream = self._stream(number, mode) if number in self.numbers else None
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.getppid = self._parent

    def _above(self, least: int) -> list[int]:
        """Return the files under numbers from `least` on."""
        moved = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, least) for file in self.files]
        self.close()
        return moved

    def _stream(self, number: int, mode: str) -> Any:
        if mode == "r":
            return open(number, mode, encoding="utf-8", closefd=False)
        at_once = number == 2 or bool(self.environment.get("PYTHONUNBUFFERED"))
        errors = "backslashreplace" if number == 2 else "strict"
        stream = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        stream.reconfigure(line_buffering=at_once or stream.isatty(), write_through=at_once)
        return stream

    def _parent(self) -> int:
        """Return the parent of the client, as long as there is one."""
        try:
            stat = Path("/proc", str(self.client), "stat").read_text()
        except FileNotFoundError:
            return 1
        return int(stat.rpartition(")")[2].split()[1])

    def execute(self, programs: Path) -> None:
        """Run the command to its end."""
        module, is_safe, arguments = self.run
        sys.executable = str(programs / "python")  # what it starts is forked as well
        path = filter(None, self.environment.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:0] = [*([] if is_safe or module == "dvc" else [self.folder]), *path]
        sys.modules["__main__"] = types.ModuleType("__main__")
        if is_safe:  # as the tracker is started
            sys.warnoptions.append("ignore")
            warnings.simplefilter("ignore")
        if module == "dvc":
            sys.argv = ["dvc", *arguments]
            sys.exit(importlib.import_module("dvc.cli").main())
        sys.argv = ["-m", *arguments]
        run_as_main: Any = runpy._run_module_as_main  # pyright: ignore[reportAttributeAccessIssue]
        run_as_main(module)


class Server:
    """Forks for each client, and tells it when the fork has ended."""

    def __init__(self, address: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(0, selectors.EVENT_READ, sys.exit)
        self.forks: list[tuple[int, socket.socket]] = []
        self.listener.bind(address + ".new")
        self.listener.listen(64)
        Path(address + ".new").rename(address)

    def serve(self) -> Request:
        """Serve for ever; but return in each fork, with what it is to run."""
        self.request: Request | None = None
        while self.request is None:
            for key, _ in self.selector.select():
                if key.fd in self.selector.get_map():  # no other event of this round closed it
                    key.data()
                if self.request:
                    break
        return self.request

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        request = Request(client)
        pid = os.fork()
        if pid == 0:
            self._close()
            client.close()
            self.request = request
            return
        request.close()
        client.sendall(pid.to_bytes(4, "big"))
        fork = os.pidfd_open(pid)
        self.forks.append((fork, client))
        self.selector.register(fork, selectors.EVENT_READ, partial(self._ended, pid, fork, client))
        self.selector.register(client, selectors.EVENT_READ, partial(self._left, pid, client))

    def _close(self) -> None:
        self.selector.close()
        self.listener.close()
        for fork, client in self.forks:
            os.close(fork)
            client.close()

    def _ended(self, pid: int, fork: int, client: socket.socket) -> None:
        _, status = os.waitpid(pid, 0)
        self.selector.unregister(fork)
        os.close(fork)
        self.forks.remove((fork, client))
        if client in self.selector.get_map():
            self.selector.unregister(client)
        with contextlib.suppress(BrokenPipeError):
            client.sendall(status.to_bytes(4, "big"))
        client.close()

    def _left(self, pid: int, client: socket.socket) -> None:
        """End a fork whose client was killed."""
        self.selector.unregister(client)
        os.kill(pid, signal.SIGKILL)


def end(run: Callable[[], None]) -> None:
    """Run a command to its end and end this process, as Python does, with one difference.

    What the libraries hold is left to the system: to free it all would take a third of a second.
    """
    status, interrupted = 0, False
    try:
        run()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:  # noqa: BLE001  # as where Python runs a program
        sys.excepthook(type(error), error, error.__traceback__)
        status, interrupted = 1, isinstance(error, KeyboardInterrupt)
    shut_down: Any = threading
    shut_down._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            status = 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 255)


def main() -> None:
    """Import the libraries, serve, and in each fork run a command."""
    address = sys.argv[1]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()  # a fork has only one
    assert not any(name.split(".")[0] in ("lmlib", "stages") for name in sys.modules)
    sys.path.remove(str(Path.cwd()))
    gc.collect()
    gc.freeze()  # or the first collection in a fork would copy all pages
    request = Server(address).serve()
    request.become()
    end(partial(request.execute, Path(address).with_name("bin")))


if __name__ == "__main__":
    main()
