"""Processes behind pipes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmlib.tokenizer.workers import ProcessExecutor, map_in_order


def test_results_come_in_order() -> None:
    with ProcessExecutor(2) as executor:
        assert list(map_in_order(executor, pow, ((2, n) for n in range(20)))) == [
            2**n for n in range(20)
        ]


def test_errors_come_back_and_the_process_lives_on() -> None:
    with ProcessExecutor(1) as executor:
        with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
            executor.submit(math.sqrt, -1).result()
        assert executor.submit(math.sqrt, 4).result() == 2


def test_a_dead_worker_is_reported() -> None:
    with ProcessExecutor(1) as executor, pytest.raises(RuntimeError, match="exit code 3"):
        executor.submit(os._exit, 3).result()


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
