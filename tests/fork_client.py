"""What `python` and `dvc` are in tests that use tests/fork_server.py: ask the server for a process.

It starts in 15 ms, because it imports no more than it must. It passes signals on, and ends as the
process does. What the server should not run becomes a process of its own, as without a server.
"""

import _signal  # pyright: ignore[reportMissingImports]
import _socket
import marshal
import os
import resource
import sys

# Python reads these before anything else, and OpenMP when it is loaded
READ_AT_START = ("PYTHON", "OMP_", "KMP_", "LD_", "MALLOC_")
SAME_IN_SERVER = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS"}
FORWARDED = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1)


def what_to_run(name: str, arguments: list[str]) -> tuple[str, bool, list[str]] | None:
    """Return a module, whether the current folder is not in its path, and its arguments.

    None for what gets a process of its own.
    """
    if name == "dvc":
        # the workers of a queue are found by their command lines
        return None if {"queue", "queue-worker"} & set(arguments) else ("dvc", False, arguments)
    is_safe = False
    while arguments and arguments[0] in ("-P", "-W", "-B"):
        is_safe |= arguments[0] == "-P"
        arguments = arguments[2 if arguments[0] == "-W" else 1 :]
    if (
        len(arguments) > 1
        and arguments[0] == "-m"
        and arguments[1].startswith(("stages.", "lmlib."))
    ):
        return arguments[1], is_safe, arguments[2:]
    return None


def open_files() -> list[int]:
    """Return the descriptors that this process got from its parent."""
    found = []
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  # pathlib takes long to import
        try:
            if os.get_inheritable(int(entry)):
                found.append(int(entry))
        except OSError:
            pass  # that of the listing itself
    return found


def main() -> None:
    """Run a command: the real program, the server's socket, the command's name and arguments."""
    program, address, threads, name, *arguments = sys.argv[1:]
    run = what_to_run(name, arguments)
    special = [key for key in os.environ if key.startswith(READ_AT_START)]
    if (
        run is None
        or not SAME_IN_SERVER.issuperset(special)
        or os.environ.get("OMP_NUM_THREADS") != threads
    ):
        os.execv(program, [program, *arguments])
    files = open_files()
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        server.connect(address)
    except OSError:  # the tests are over; this is what they have left to run
        os.execv(program, [program, *arguments])
    umask = os.umask(0o077)
    os.umask(umask)
    limits = {
        number: resource.getrlimit(number)
        for number in {getattr(resource, each) for each in dir(resource) if each[:7] == "RLIMIT_"}
    }
    handlers = dict.fromkeys(FORWARDED, "default") | {_signal.SIGINT: "interrupt"}
    ignored = [number for number in FORWARDED if _signal.getsignal(number) == _signal.SIG_IGN]
    handlers |= dict.fromkeys(ignored, "ignored")
    folder = os.getcwd()  # noqa: PTH109
    request = marshal.dumps(
        (run, folder, dict(os.environ), umask, limits, handlers, os.getpid(), files)
    )
    # the kernel passes descriptors as native integers
    packed = b"".join(each.to_bytes(4, sys.byteorder) for each in files)
    header = len(request).to_bytes(4, "big")
    process = 0
    early: list[int] = []  # what came before there was a process

    def forward(number: int, _: object) -> None:
        os.kill(process, number) if process else early.append(number)

    for number in FORWARDED:
        if number not in ignored:
            _signal.signal(number, forward)
    server.sendmsg([header], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    server.sendall(request)
    process = int.from_bytes(server.recv(4), "big")
    for number in early:
        os.kill(process, number)
    for each in files:  # a pipe must close when the process ends, and not after it
        os.close(each)
    ended = server.recv(4)
    if not ended:  # the server was ended
        os._exit(1)
    status = os.waitstatus_to_exitcode(int.from_bytes(ended, "big"))
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
