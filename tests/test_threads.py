"""Threads that start or are given up, and a pool that works with as many as it can get."""

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lmlib import threads
from lmlib.threads import ThreadPool, entered_ahead, shared_pool, start_thread


def die_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new threads die before they run anything, as they do when memory runs out."""
    monkeypatch.setattr(threads, "START_LIMIT_S", 0.1)
    monkeypatch.setattr(_thread, "start_new_thread", lambda function, arguments: 1)


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system refuse new threads."""

    def start(function: object, arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)


def test_start_waits_no_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    die_at_the_start(monkeypatch)
    with pytest.raises(MemoryError, match="a new thread did not start"):
        start_thread(list)


def test_a_thread_that_begins_too_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late = []
    monkeypatch.setattr(threads, "START_LIMIT_S", 0.1)
    monkeypatch.setattr(
        _thread, "start_new_thread", lambda function, arguments: late.append(function)
    )
    called = []
    with pytest.raises(MemoryError):
        start_thread(lambda: called.append(1))
    late[0]()
    assert called == []


def test_the_lock_is_free_when_the_function_has_returned() -> None:
    go_on = threading.Event()
    running = start_thread(go_on.wait)
    assert not running.acquire(timeout=0.05)
    go_on.set()
    assert running.acquire(timeout=60)


def test_calls_run_side_by_side_in_as_many_threads() -> None:
    with ThreadPool(2) as pool:
        both = threading.Barrier(2, timeout=60)  # breaks unless two threads run at once
        assert {future.result() for future in [pool.submit(both.wait) for _ in range(2)]} == {0, 1}
        assert len({pool.submit(threading.get_ident).result() for _ in range(50)}) <= 2


@pytest.mark.parametrize("trouble", [die_at_the_start, refuse])
def test_without_threads_the_caller_does_it(
    trouble: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble(monkeypatch)
    with ThreadPool(4) as pool:
        assert list(pool.map(lambda x: (x, threading.get_ident()), range(3))) == [
            (x, threading.get_ident()) for x in range(3)
        ]
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    with ThreadPool(1) as pool:
        future = pool.submit(int, "x")
        assert pool.submit(int, "7").result() == 7
        with pytest.raises(ValueError, match="invalid literal"):
            future.result()


def test_leaving_waits_for_what_was_begun_and_scheduled() -> None:
    done = []
    with ThreadPool(1) as pool:
        for x in range(3):
            pool.submit(lambda x=x: (time.sleep(0.02), done.append(x)))
    assert done == [0, 1, 2]
    with pytest.raises(RuntimeError, match="was shut down"):
        pool.submit(list)


def test_cancelled_calls_are_not_made() -> None:
    go_on, done = threading.Event(), []
    pool = ThreadPool(1)
    pool.submit(go_on.wait)
    later = pool.submit(done.append, 1)
    pool.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    pool.shutdown()
    assert later.cancelled()
    assert done == []


def test_threads_are_shared_within_a_process() -> None:
    assert shared_pool() is shared_pool()


@contextmanager
def noted(name: str, log: list[str], fails: bool = False) -> Iterator[str]:
    log.append(f"enter {name}")
    if fails:
        raise ValueError(name)
    ended = "break off"
    try:
        yield name
        ended = "leave"
    finally:
        log.append(f"{ended} {name}")


def test_the_next_manager_is_entered_ahead() -> None:
    log: list[str] = []
    for name in entered_ahead(noted(name, log) for name in "abc"):
        wait_for(lambda name=name: name == "c" or f"enter {chr(ord(name) + 1)}" in log)
        log.append(f"use {name}")
    order = "enter a, enter b, use a, leave a, enter c, use b, leave b, use c, leave c"
    assert sorted(log) == sorted(order.split(", "))
    assert [line for line in log if "c" not in line] == [
        line for line in order.split(", ") if "c" not in line
    ]
    assert list(entered_ahead([])) == []


def test_managers_are_left_after_an_error() -> None:
    log: list[str] = []
    names = entered_ahead(noted(name, log) for name in "abc")
    assert next(names) == "a"
    wait_for(lambda: "enter b" in log)
    names.close()
    wait_for(lambda: "break off b" in log)
    assert sorted(log) == ["break off a", "break off b", "enter a", "enter b"]


def test_an_error_ahead_waits_for_its_turn() -> None:
    log: list[str] = []
    names = entered_ahead(noted(name, log, fails=name == "b") for name in "abc")
    assert next(names) == "a"
    with pytest.raises(ValueError, match="b"):
        next(names)
    assert "leave a" in log
    assert "enter c" not in log


def wait_for(condition: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + 10
        time.sleep(0.001)
