"""Threads that cannot make their caller wait forever.

`threading.Thread.start` waits without a timeout for the new thread to report that it runs. A thread
that runs out of memory before that never reports: https://github.com/python/cpython/issues/140746.
Under a memory limit a program must end or continue, not hang.
"""

import _thread
import logging
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cache, partial
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

START_LIMIT_S = 5.0

T = TypeVar("T")
Task = tuple[Future[Any], Callable[[], Any]]


def start_thread(function: Callable[[], object]) -> _thread.LockType:
    """Call `function()` in another thread, which does not keep the process from exiting.

    Returns a lock that is free once the function has returned: `acquire(timeout=s)` waits for it.
    Raises RuntimeError if the system refuses a thread, MemoryError if the new one has not started
    after START_LIMIT_S.
    """
    begun, running = _thread.allocate_lock(), _thread.allocate_lock()
    begun.acquire()
    running.acquire()
    is_wanted = True

    def run() -> None:
        try:
            begun.release()
            if is_wanted:
                function()
        finally:
            running.release()

    _thread.start_new_thread(run, ())
    if not begun.acquire(timeout=START_LIMIT_S):
        is_wanted = False
        raise MemoryError("a new thread did not start, probably for lack of memory")
    return running


class ThreadPool(Executor):
    """Calls functions in up to `max_workers` threads, or in the caller's if none can be started."""

    def __init__(self, max_workers: int) -> None:
        self._max_workers = max_workers
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._running: list[_thread.LockType] = []  # of each thread
        self._idle = threading.Semaphore(0)
        self._may_grow = True
        self._is_open = True

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Schedule fn(*args, **kwargs); raise RuntimeError after `shutdown`."""
        if not self._is_open:
            raise RuntimeError("this pool was shut down; open another one")
        if not self._idle.acquire(blocking=False) and self._may_grow:
            self._add_thread()
        future: Future[Any] = Future()
        task = future, partial(fn, *args, **kwargs)
        if self._running:
            self._tasks.put(task)
        else:
            _settle(*task)
        return future

    def _add_thread(self) -> None:
        try:
            self._running.append(start_thread(self._work))
            self._may_grow = len(self._running) < self._max_workers
        except (RuntimeError, MemoryError) as error:
            self._may_grow = False
            logger.debug("%d threads, no more: %s", len(self._running), error)

    def _work(self) -> None:
        while task := self._tasks.get():
            _settle(*task)
            self._idle.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; wait for those that run and, unless cancelled, those scheduled."""
        self._is_open = False
        if cancel_futures:
            while not self._tasks.empty():
                if task := self._tasks.get():
                    task[0].cancel()
        for _ in self._running:
            self._tasks.put(None)
        if wait:
            for running in self._running:
                with running:
                    pass


def entered_ahead(managers: Iterable[AbstractContextManager[T]]) -> Generator[T]:
    """Yield what each context manager gives, while a thread enters the next one.

    A manager is left when the next value is asked for, or, as after an error, when the generator is
    closed: use `contextlib.closing`. Raises what a manager raises, once it is that one's turn.
    """
    waiting = iter(managers)
    pool = ThreadPool(1)

    def enter_next() -> Future[tuple[AbstractContextManager[T], T]] | None:
        manager = next(waiting, None)
        return None if manager is None else pool.submit(lambda: (manager, manager.__enter__()))

    following = enter_next()
    try:
        while following is not None:
            manager, value = following.result()
            with ExitStack() as stack:
                stack.push(manager)
                following = enter_next()
                yield value
    finally:
        pool.shutdown(wait=False)
        if following is not None and not following.cancel():
            following.add_done_callback(_leave)


def _leave(future: Future[tuple[AbstractContextManager[Any], Any]]) -> None:
    """Leave a manager that was entered in vain, as after an error."""
    if not future.cancelled() and future.exception() is None:
        error = GeneratorExit()
        with suppress(GeneratorExit):
            future.result()[0].__exit__(GeneratorExit, error, None)


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    """Set what the call returns or raises on a future, unless it has been cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  # raised again where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)


def num_cores() -> int:
    """Return how many of the processor's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shared_pool() -> ThreadPool:
    """Return a pool with one thread per core, the same at each call, for short pieces of work.

    It belongs to this process: a fork inherits no threads, so it gets a pool of its own.
    """
    return _pool_of(os.getpid())


@cache
def _pool_of(process: int) -> ThreadPool:
    return ThreadPool(num_cores())
