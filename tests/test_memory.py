"""Work that needs more memory than there is: one sentence, with an estimate and what to lower."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lmlib.memory import (
    MIN_CHECKED_BYTES,
    NotEnoughMemory,
    available_bytes,
    out_of_memory,
    require_memory,
)
from tests.pipeline.imports import ROOT

TB = 10**12


def limits(monkeypatch: pytest.MonkeyPatch, free: int, swap: int = 0) -> None:
    """Give the machine this memory, and the process no limit."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=swap))
    monkeypatch.setattr("lmlib.memory.CGROUP", ())


def test_available_memory_is_free_memory_and_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 3 * 10**9, 2 * 10**9)
    assert available_bytes() == 5 * 10**9


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    limits(monkeypatch, TB)
    path = f"{tmp_path}/memory.max"
    monkeypatch.setattr("lmlib.memory.CGROUP", (path, "/missing"))
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("max\n")
    assert available_bytes() == TB
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(str(10**11))
    assert 0 < available_bytes() < 10**11


@pytest.mark.skipif(sys.platform != "linux", reason="others do not limit memory so")
def test_the_limit_of_the_process_counts() -> None:
    code = (
        "import resource; from lmlib.memory import available_bytes\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, resource.RLIM_INFINITY))\n"
        "print(available_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0 < int(done.stdout) < 2 * 10**9


def test_work_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 5 * 10**9)
    require_memory(5 * 10**9, "a step", "lower x")
    message = r"^a step needs at least 26\.2 GB of memory, and 5\.0 GB are available; lower x$"
    with pytest.raises(MemoryError, match=message):
        require_memory(26_214_400_000, "a step", "lower x")
    with pytest.raises(MemoryError, match=r"needs at least 10\*\*9 GB .* on cpu; lower"):
        require_memory(10**400, "a step", "lower x", torch.device("cpu"))


def test_little_work_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmlib.memory.available_bytes", lambda _: pytest.fail("asked"))
    require_memory(MIN_CHECKED_BYTES - 1, "a step", "lower x")


def allocate_in_pytorch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def allocate_in_python() -> None:
    bytearray(1 << 60)


def allocate_in_the_system() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    "allocate", [allocate_in_pytorch, allocate_in_python, allocate_in_the_system]
)
def test_a_failed_allocation_becomes_a_sentence(allocate: object) -> None:
    assert callable(allocate)
    with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
        allocate()
    sentence = out_of_memory(caught.value, "lower x")
    assert sentence
    assert sentence.startswith("out of memory")
    assert sentence.endswith(" are available on this machine); lower x")
    if allocate is allocate_in_pytorch:
        assert f"{1 << 60} bytes more were needed" in sentence


def test_another_error_is_not_lack_of_memory() -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOENT, "no such file")):
        assert out_of_memory(error, "lower x") is None


def test_a_sentence_is_not_wrapped_in_another() -> None:
    error = NotEnoughMemory("a step needs at least 3 GB; lower y")
    assert out_of_memory(error, "lower x") == "a step needs at least 3 GB; lower y"
