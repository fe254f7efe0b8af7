"""Run a function over many chunks, in order: in threads, in processes, or on a cluster."""

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from lmlib.threads import ThreadPool, num_cores, start_thread
from lmlib.tokenizer.ids import whole_number

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
OnProgress = Callable[[str, int, int], None]  # (kind of work, amount done, total amount)

CHUNK_BYTES = 1 << 20  # bytes of a file, or of a batch of texts, that one worker holds at a time
CLUSTER_CHUNK_BYTES = 1 << 24  # the same with an executor: fewer chunks have to be sent and joined
TRIES = 3  # for a chunk whose worker process dies
LENGTH_BYTES = 8  # each message between processes is preceded by its length


def open_executor(
    executor: Executor | None,
    num_workers: int | None,
    in_threads: bool,
    num_bytes: int,
    chunk_bytes: int,
) -> AbstractContextManager[Executor]:
    """Return the executor to use: the caller's, which stays open, or one of our own.

    Kernels release the GIL, so threads are enough for them. Plain Python needs processes, unless
    there is only one chunk, which does not repay starting any.
    """
    cores = num_cores() if num_workers is None else whole_number(num_workers, "num_workers")
    chunk_bytes = whole_number(chunk_bytes, "chunk_bytes")
    if cores < 1:
        raise ValueError(f"num_workers is {num_workers}; give at least 1, or None for all cores")
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes is {chunk_bytes}; give at least 1, or None for the default")
    if executor is not None:
        return nullcontext(executor)
    wanted = min(cores, -(-num_bytes // chunk_bytes) or 1)
    if in_threads or wanted == 1:
        return ThreadPool(wanted)
    return ProcessExecutor(wanted)


def count_workers(executor: Executor) -> int:
    """Return how many tasks an executor runs at a time.

    `Executor` has no public way to ask: pools have `_max_workers` and Dask's executor has its
    client; others are assumed to run on the cores of this machine.
    """
    threads_of_workers = getattr(getattr(executor, "_client", None), "nthreads", None)
    if threads_of_workers is not None:
        return sum(threads_of_workers().values()) or num_cores()
    return getattr(executor, "_max_workers", None) or num_cores()


def map_in_order(
    executor: Executor,
    function: Callable[..., Result],
    tasks: Iterable[tuple],
    num_workers: int | None = None,
) -> Iterator[Result]:
    """Yield function(*task) for each task, in order, with few results waiting in memory.

    Two tasks for each of `num_workers` (default: those that the executor has now) are submitted
    at a time, one to run and one to wait, so that no worker is idle. On a cluster a task may run
    twice, if its worker died.

    Raises what the function raises, and RuntimeError when the executor cannot continue.
    """
    ahead = 2 * (num_workers or count_workers(executor))
    futures: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            with explained():
                futures.append(executor.submit(function, *task))
            if len(futures) > ahead:
                yield _result(futures.popleft())
        while futures:
            yield _result(futures.popleft())
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future[Result]) -> Result:
    with explained():
        return future.result()


@contextmanager
def explained() -> Iterator[None]:
    """Explain, in the error, what to do about an executor that takes no more tasks."""
    try:
        yield
    except BrokenExecutor as error:
        raise RuntimeError(
            f"the executor is broken ({error}); this kind cannot replace a worker; run again with "
            "a new one of fewer workers, or without `executor`: then workers that die are replaced"
        ) from error
    except CancelledError as error:
        raise RuntimeError(
            "the executor dropped a chunk: it was shut down, or its scheduler is gone; "
            "start it and run again"
        ) from error


class ProcessExecutor(ThreadPool):
    """Threads that each hand their tasks to one fresh Python process over a pipe.

    Unlike multiprocessing, the processes neither fork (unsafe with threads) nor import the
    caller's main script (which would run twice where it has no `__main__` guard). Functions and
    arguments are pickled, so functions are found by the name of their module. A process that dies
    is replaced, and its task tried again: RuntimeError after TRIES attempts.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._local = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Schedule fn(*args, **kwargs) in one of the processes."""
        return super().submit(self._call, (fn, args, kwargs))

    def _call(self, task: tuple) -> Any:
        question = pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
        for tries in range(1, TRIES + 1):
            process: subprocess.Popen[bytes] | None = getattr(self._local, "process", None)
            if process is None:
                process = self._local.process = self._start()
            try:
                answer = _ask(process, question)
            except (EOFError, BrokenPipeError) as error:
                self._local.process = None
                exit_code = self._end(process)
                # Ctrl-C ends every process: trying again is pointless.
                if tries == TRIES or exit_code == -signal.SIGINT:
                    raise RuntimeError(
                        f"a tokenizer worker ended with exit code {exit_code}, in attempt {tries} "
                        f"of {TRIES} at its chunk, perhaps for lack of memory; run again with "
                        "fewer workers"
                    ) from error
                logger.warning(
                    "a tokenizer worker ended with exit code %d; trying its chunk again",
                    exit_code,
                )
            except BaseException:  # such as MemoryError: its answer may still be in the pipe
                self._local.process = None
                self._kill(process)
                raise
            else:
                succeeded, result = pickle.loads(answer)
                if not succeeded:
                    raise result
                return result
        raise AssertionError("the last try returns or raises")

    def _start(self) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", "from lmlib.tokenizer.workers import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError("a tokenizer worker cannot be started") from error
            raise
        self._processes.append(process)
        return process

    def _end(self, process: "subprocess.Popen[bytes]") -> int:
        """Close the pipes of a process, which makes it end, and return its exit code."""
        self._processes.remove(process)
        process.communicate()
        return process.returncode

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        self._processes.remove(process)
        process.kill()
        with suppress(OSError), process:  # closes the pipes and waits
            pass

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the tasks that have begun, then end the processes."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        while self._processes:
            self._end(self._processes[-1])


def _ask(process: "subprocess.Popen[bytes]", question: bytes) -> bytes:
    """Return the answer of a process; raise EOFError or BrokenPipeError when it has died."""
    assert process.stdin
    assert process.stdout
    _write_message(process.stdin, question)
    return _read_message(process.stdout)


def _write_message(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(LENGTH_BYTES, "little"))
    stream.write(message)
    stream.flush()


def _read_message(stream: IO[bytes]) -> bytes:
    """Return the next complete message; raise EOFError if the stream ends inside it."""
    length = stream.read(LENGTH_BYTES)
    message = stream.read(int.from_bytes(length, "little"))
    if len(length) < LENGTH_BYTES or len(message) < int.from_bytes(length, "little"):
        raise EOFError("the other process has ended")
    return message


def serve() -> None:
    """Answer tasks on standard input until it ends: the main loop of a worker process.

    When the caller dies, this process ends within a second, also in the middle of a task; where no
    thread can be started, after the task.
    """
    with suppress(RuntimeError, MemoryError):
        start_thread(partial(_end_with, os.getppid()))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a task prints is not an answer
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the caller reports Ctrl-C
    while True:
        try:
            question = _read_message(sys.stdin.buffer)
        except EOFError:
            return
        _write_message(answers, _answer(question))


def _end_with(parent: int) -> None:
    """End this process when its parent has died."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _answer(question: bytes) -> bytes:
    """Return the pickled pair (True, result) or (False, error)."""
    try:
        function, args, kwargs = pickle.loads(question)
        return pickle.dumps((True, function(*args, **kwargs)), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return pickle.dumps((False, error), pickle.HIGHEST_PROTOCOL)
