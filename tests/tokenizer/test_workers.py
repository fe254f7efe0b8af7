"""Processes behind pipes, and the caller's executors."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokenizer.workers import ProcessExecutor, count_workers, map_in_order
from tests.tokenizer.conftest import END
from tests.tokenizer.dying import DyingWorkers, die_once


def test_results_come_in_order() -> None:
    with ProcessExecutor(2) as executor:
        assert list(map_in_order(executor, pow, ((2, n) for n in range(20)))) == [
            2**n for n in range(20)
        ]


def test_few_results_wait_in_memory() -> None:
    """Two tasks per worker are submitted, and one more when a result is yielded."""
    with ThreadPoolExecutor(3) as executor:
        for num_workers, under_way in ((None, 2 * 3), (10, 2 * 10)):
            tasks = iter([(2, n) for n in range(100)])
            results = map_in_order(executor, pow, tasks, num_workers)
            assert next(results) == 1
            assert len(list(tasks)) == 100 - under_way - 1


def test_workers_of_an_executor_are_counted() -> None:
    with ProcessExecutor(5) as executor:
        assert count_workers(executor) == 5
    assert count_workers(Executor()) >= 1


def test_errors_come_back_and_the_process_lives_on() -> None:
    with ProcessExecutor(1) as executor:
        process = executor.submit(os.getpid).result()
        with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
            executor.submit(math.sqrt, -1).result()
        assert executor.submit(os.getpid).result() == process


def test_an_answer_that_was_not_read_is_not_taken_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller had no memory for it; the process that still writes it is ended."""

    def fail(_stream: object) -> bytes:
        raise MemoryError

    with ProcessExecutor(1) as executor:
        with monkeypatch.context() as patched:
            patched.setattr("lmlib.tokenizer.workers._read_message", fail)
            answer = executor.submit(len, "abc")
            with pytest.raises(MemoryError):
                answer.result()
        assert executor.submit(len, "a").result() == 1


def test_a_chunk_is_tried_again_when_its_process_dies(
    corpus_file: Path,
    tokenizer: Tokenizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is lost or counted twice."""
    with ProcessExecutor(2) as executor:
        note = tmp_path / "note"
        dying = DyingWorkers(executor, note)
        vocab, merges = train_bpe(corpus_file, 700, [END], executor=dying, chunk_bytes=5000)
        assert (vocab, merges) == (tokenizer.vocab, tokenizer.merges)
        assert_died(int(note.read_text()))

        note.unlink()
        dying = DyingWorkers(executor, note)
        tokenizer.encode_file(corpus_file, tmp_path / "a.npy", executor=dying, chunk_bytes=5000)
        assert_died(int(note.read_text()))
    tokenizer.encode_file(corpus_file, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert caplog.text.count("exit code -9; trying its chunk again") == 2


def assert_died(pid: int) -> None:
    """Process ids are not reused so soon."""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_died_while_idle_is_replaced() -> None:
    with ProcessExecutor(1) as executor:
        pid = executor.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert executor.submit(os.getpid).result() != pid


def end_with(status: int) -> None:
    """End this process. (Not `os._exit` itself: where coverage is measured it is not pickled.)"""
    os._exit(status)


def test_a_chunk_that_kills_every_worker_is_given_up() -> None:
    with ProcessExecutor(1) as executor:
        with pytest.raises(RuntimeError, match="exit code 3, in attempt 3 of 3 at its chunk"):
            executor.submit(end_with, 3).result()
        assert executor.submit(math.sqrt, 4).result() == 2


def test_after_an_interrupt_nothing_is_tried_again() -> None:
    with (
        ProcessExecutor(1) as executor,
        pytest.raises(RuntimeError, match="exit code -2, in attempt 1 of 3"),
    ):
        executor.submit(signal.raise_signal, signal.SIGINT).result()


def test_a_pool_that_cannot_replace_its_workers_says_so(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(RuntimeError, match=r"the executor is broken \(A process in the pro"),
    ):
        list(map_in_order(pool, die_once, [(tmp_path / "note", pow, 2, 3)]))
    assert (tmp_path / "note").exists()


class DroppingExecutor(Executor):
    """Like Dask's when the connection to the scheduler is lost."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.cancel()
        return future


def test_a_worker_ends_with_its_caller(tmp_path: Path) -> None:
    """In the middle of a task, too, and without a traceback."""
    code = (
        "import os, time\nfrom lmlib.tokenizer.workers import ProcessExecutor\n"
        "executor = ProcessExecutor(1)\n"
        "print(executor.submit(os.getpid).result(), flush=True)\n"
        "executor.submit(time.sleep, 600).result()\n"
    )
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as caller,
    ):
        assert caller.stdout
        worker = int(caller.stdout.readline())
        assert psutil.pid_exists(worker)
        caller.kill()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not errors.read_text()


def test_a_worker_that_can_start_no_thread_works() -> None:
    code = (
        "from lmlib.tokenizer import workers\n"
        'def refuse(function): raise RuntimeError("can\'t start new thread")\n'
        "workers.start_thread = refuse\n"
        "workers.serve()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_executor_that_drops_its_tasks_says_so() -> None:
    with pytest.raises(RuntimeError, match="its scheduler is gone; start it and run"):
        list(map_in_order(DroppingExecutor(), pow, [(2, 3)]))


def test_what_a_task_prints_is_no_answer() -> None:
    with ProcessExecutor(1) as executor:
        assert executor.submit(os.write, 1, b"").result() == 0
        assert executor.submit(print, "to standard error").result() is None


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    """multiprocessing would import the script again, in every worker."""
    (tmp_path / "a.txt").write_text("some text " * 1000)
    script = tmp_path / "script.py"
    script.write_text(
        "from lmlib.tokenizer import train_bpe\n"
        f"vocab, _ = train_bpe({str(tmp_path / 'a.txt')!r}, 260, ['text'], pattern='.',\n"
        "                     num_workers=2, chunk_bytes=1000)\n"
        "print(len(vocab))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout == "257\n"
