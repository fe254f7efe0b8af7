"""Run a function over many chunks, in order, in threads or in processes."""

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


def default_num_workers() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_executor(
    executor: Executor | None,
    num_workers: int | None,
    in_threads: bool,
    num_bytes: int,
    chunk_bytes: int,
) -> AbstractContextManager[Executor]:
    """Return the executor to use: the caller's, which stays open, or one of our own.

    Kernels release the interpreter's lock, so threads serve them; plain Python needs processes,
    unless there is only one chunk, for which starting any would be a waste.
    """
    if executor is not None:
        return nullcontext(executor)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}; give at least 1, or None for all cores.")
    wanted = min(num_workers or default_num_workers(), -(-num_bytes // chunk_bytes) or 1)
    if in_threads or wanted == 1:
        return ThreadPoolExecutor(wanted)
    return ProcessExecutor(wanted)


def map_in_order(
    executor: Executor, function: Callable[..., Result], tasks: Iterable[tuple]
) -> Iterator[Result]:
    """Yield function(*task) for each task, in order, with few results waiting in memory."""
    ahead = 2 * getattr(executor, "_max_workers", 2 * default_num_workers())
    futures: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            futures.append(executor.submit(function, *task))
            if len(futures) > ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


class ProcessExecutor(ThreadPoolExecutor):
    """Threads that each hand their tasks to one fresh Python process over a pipe.

    Unlike multiprocessing, the processes neither fork (unsafe with threads) nor import the
    caller's main script (which would run twice where it has no `__main__` guard). Functions and
    arguments are pickled, so functions are found by the name of their module.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._local = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Schedule fn(*args, **kwargs) in one of the processes."""
        return super().submit(self._call, (fn, args, kwargs))

    def _call(self, task: tuple) -> Any:
        process: subprocess.Popen[bytes] | None = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = self._start()
        assert process.stdin
        assert process.stdout
        pickle.dump(task, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        try:
            succeeded, result = pickle.load(process.stdout)
        except EOFError as error:
            raise RuntimeError(
                f"a tokenizer worker ended with exit code {process.wait()}, perhaps for want of "
                "memory; run again with fewer workers."
            ) from error
        if not succeeded:
            raise result
        return result

    def _start(self) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-c", "from lmlib.tokenizer.workers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._processes.append(process)
        return process

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the tasks begun and end the processes."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in self._processes:
            assert process.stdin
            assert process.stdout
            process.stdin.close()  # the process ends at the end of its input
            process.stdout.close()
            process.wait()
        self._processes.clear()


def serve() -> None:
    """Answer tasks on standard input until it ends: the main loop of a worker process."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a task prints is no answer
    while True:
        try:
            function, args, kwargs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            answer = (False, error)
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
