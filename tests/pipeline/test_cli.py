"""How a stage ends when something is wrong: one sentence and status 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.imports import ROOT


def ending(raised: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a stage whose main raises this, in a process of its own."""
    code = (
        "from stages.cli import run_stage\n"
        f"def main():\n    raise {raised}\n"
        "run_stage(main, lower='train.batch_size')"
    )
    return run(code, **env)


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("raised", "start"),
    [
        ("MemoryError", "out of memory ("),
        ("MemoryError('Unable to allocate 7.28 TiB for an array')", "out of memory: 7.28 TiB more"),
        (
            "RuntimeError('[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: '"
            '"can\'t allocate memory: you tried to allocate 26214400000 bytes. Error code 12")',
            "out of memory: 26214400000 bytes more were needed (",
        ),
        (
            "RuntimeError('CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total')",
            "out of memory: 20.00 GiB more were needed (",
        ),
        ("RuntimeError('std::bad_alloc')", "out of memory ("),
        ("OSError(12, 'Cannot allocate memory')", "out of memory ("),
    ],
)
def test_a_lack_of_memory_is_one_sentence(raised: str, start: str) -> None:
    done = ending(raised)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {start}")
    assert done.stderr.endswith("are available on this machine); lower train.batch_size\n")
    assert done.stderr.count("\n") == 1


def test_what_was_refused_before_it_was_done_is_said_as_it_is() -> None:
    raised = "__import__('lmlib.memory').memory.NotEnoughMemory('a step needs 30 GB; lower x')"
    assert ending(raised).stderr == "error: a step needs 30 GB; lower x\n"


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("ImportError('libtorch_cpu.so: failed to map segment from shared object')", "error: out"),
        ("MemoryError", "error: out of memory ("),
        ("ImportError('no module named x')", "Traceback"),
    ],
)
def test_an_import_without_memory_is_one_sentence(raised: str, shown: str) -> None:
    """Libraries are imported before `run_stage` is called."""
    done = run(f"import stages\nraise {raised}")
    assert done.returncode == 1
    assert done.stderr.startswith(shown)


def test_a_cause_that_a_library_hides_is_found() -> None:
    code = (
        "import stages\ntry:\n    raise OSError('x.so: failed to map segment')\n"
        "except OSError:\n    raise OSError('the library literally cannot be found')"
    )
    assert run(code).stderr.startswith("error: out of memory (")


def test_the_traceback_is_shown_on_demand() -> None:
    assert "Traceback" in ending("MemoryError", LMLIB_DEBUG="1").stderr


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            "OSError(28, 'No space left on device (9 bytes are needed)', 'data/x')",
            "data/x: no space left on device (9 bytes are needed); free some space, for example "
            "with `make prune`, and run again",
        ),
        ("FileNotFoundError(2, 'No such file', 'x')", "x: no such file; check the name"),
        (
            'RuntimeError("can\'t start new thread")',
            "no thread can be started; raise the limit on processes and threads (`ulimit -u`), or "
            "close other programs",
        ),
        ("ValueError('http://me:PW@host: gone')", "http://***@host: gone"),
        (r"FileNotFoundError(2, 'No file', '\x1b[2J')", r"\x1b[2J: no file; check the name"),
    ],
)
def test_what_a_system_can_cause_is_one_sentence(raised: str, sentence: str) -> None:
    assert ending(raised).stderr == f"error: {sentence}\n"


def test_a_mistake_of_our_own_keeps_its_traceback() -> None:
    done = ending("RuntimeError('shapes differ')")
    assert done.stderr.startswith("Traceback")
    assert "RuntimeError: shapes differ" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize(
    ("redirection", "shown"),
    [
        ("> /dev/full", "error: stdout: no space left on device; free some space"),
        (">&-", "error: stdout is closed, where the result should go; give a file or a terminal"),
    ],
)
def test_a_result_that_cannot_be_shown(redirection: str, shown: str) -> None:
    code = "from stages.cli import run_stage, say; run_stage(lambda: say('scores'))"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(shown)
    assert done.stderr.count("\n") == 1


def test_what_an_encoding_lacks_is_spelt_out() -> None:
    code = "from stages.cli import run_stage, say; run_stage(lambda: say('\\xe9 \\u2014'))"
    done = run(code, PYTHONIOENCODING="ascii:strict")
    assert (done.stdout, done.stderr) == ("\\xe9 \\u2014", "")
