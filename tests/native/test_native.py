"""lmlib/native: kernels are compiled once, kept, checked, and loaded without Numba."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmlib import native
from lmlib.native import address_of, load_kernels, record
from stages.compile_kernels import PACKAGES
from tests.pipeline.imports import ROOT

SOURCE = """
import numpy as np
from lmlib.native.compiling import address_of, allocate, free, kernel, part, view

NUMBER = np.dtype([("value", np.int32), ("times", np.int64)])

@part
def scaled(number, factor):
    return number * factor

@kernel
def total(numbers, count, factor):
    result = np.int64(0)
    for number in view(numbers, count, np.int64):
        result += scaled(number, factor)
    return result

@kernel
def product(records):
    one = view(records, 1, NUMBER)[0]
    one.times += 1
    return np.int64(one.value * one.times)

@kernel
def copied(count):
    room = allocate(8 * count)
    if not room:
        return np.int64(-1)
    numbers = view(room, count, np.int64)
    for k in range(count):
        numbers[k] = k
    last = numbers[count - 1]
    free(room)
    return last

@kernel
def row_sum(numbers, rows, columns):
    array = view(numbers, (rows, columns), np.float32)
    result = np.float32(0)
    for column in range(columns):
        result += array[rows - 1, column]
    return np.int64(result) + 0 * address_of(array)
"""
USE = """
import json, sys
from lmlib.native import load_kernels
result = load_kernels("toy").copied(5)
print(json.dumps([result, "numba" in sys.modules]))
"""


class Toy:
    """A package of kernels in a folder of its own, and a folder for its object code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "toy" / "sums.py"
        self.source.parent.mkdir()
        self.source.write_text(SOURCE)
        (folder / "toy" / "__init__.py").touch()
        self.cache = folder / "home" / "lmlib"

    def use(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Load the kernels in a fresh process, without a virtual environment to keep them in."""
        code = "import sys; sys.prefix = sys.base_prefix\n" + USE
        paths = os.pathsep.join([str(ROOT), str(self.folder)])
        return subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ
            | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(self.cache.parent)}
            | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def result(self, **environment: str) -> tuple[int, bool, str]:
        """Return a kernel's result, whether Numba was imported, and what was logged."""
        done = self.use(**environment)
        assert done.returncode == 0, done.stderr
        result, with_numba = json.loads(done.stdout)
        return result, with_numba, done.stderr

    def kept(self) -> list[Path]:
        """Return the files of object code."""
        return sorted(self.cache.glob("toy-*.o"))


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_kernels_compute(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(toy.folder))
    monkeypatch.setattr(native, "cache_folders", lambda: iter([toy.cache]))
    kernels = load_kernels("toy")
    numbers = np.arange(5)
    assert kernels.total(address_of(numbers), 5, 3) == 30
    one = record(np.dtype([("value", np.int32), ("times", np.int64)]), value=7, times=2)
    assert kernels.product(address_of(one)) == 21
    assert one["times"][0] == 3
    assert kernels.copied(1000) == 999
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert kernels.row_sum(address_of(rows), 2, 3) == 12
    assert load_kernels("toy") is kernels


def test_the_second_process_needs_no_numba(toy: Toy) -> None:
    result, with_numba, said = toy.result()
    assert (result, with_numba) == (4, True)
    assert "compiling the kernels of toy, once" in said
    assert toy.result() == (4, False, "")
    assert len(toy.kept()) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "a flipped bit",
        *(
            pytest.param(damage, marks=pytest.mark.slow)
            for damage in ("cut short", "emptied", "a pipe")
        ),
    ],
)
def test_damaged_code_is_compiled_again(toy: Toy, damage: str) -> None:
    toy.result()
    (file,) = toy.kept()
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    if damage == "a pipe":  # it would wait for a writer
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_bytes(
            {"a flipped bit": changed, "cut short": whole[:-9], "emptied": b""}[damage]
        )
    assert toy.result()[:2] == (4, True)
    assert file.read_bytes()[32:].partition(b"\n")[0] == whole[32:].partition(b"\n")[0]
    assert toy.result() == (4, False, "")


@pytest.mark.slow
def test_what_the_code_depends_on_is_in_its_name(toy: Toy) -> None:
    toy.result()
    toy.source.write_text(SOURCE.replace("last = numbers[count - 1]", "last = numbers[0] - 7"))
    assert toy.result()[:2] == (-7, True)
    (toy.source.parent / "more.py").write_text("")
    assert toy.result()[:2] == (-7, True)
    assert toy.result(NUMBA_OPT="2")[:2] == (-7, True)
    assert len(toy.kept()) == 4


def test_old_code_goes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(toy.folder))
    monkeypatch.setattr(native, "cache_folders", lambda: iter([toy.cache]))
    toy.cache.mkdir(parents=True)
    for number in range(20):
        file = toy.cache / f"toy-{number:032}.o"
        file.touch()
        os.utime(file, (number, number))
    native.ObjectCode.compile("toy")
    assert len(toy.kept()) == native.KEPT_FILES
    assert toy.cache / native.file_name("toy") in toy.kept()
    assert toy.cache / f"toy-{19:032}.o" in toy.kept()


@pytest.mark.parametrize("obstacle", ["a file", "no home"])
def test_where_nothing_can_be_kept_it_works_all_the_same(toy: Toy, obstacle: str) -> None:
    if obstacle == "a file":
        toy.cache.parent.write_text("in the way")
        assert toy.result()[:2] == (4, True)
    else:
        assert toy.result(XDG_CACHE_HOME="", HOME="/dev/null/nowhere")[:2] == (4, True)
    assert not toy.kept()


def test_on_a_full_disk_it_works_all_the_same(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.syspath_prepend(str(toy.folder))
    monkeypatch.setattr(native, "cache_folders", lambda: iter([toy.cache]))
    monkeypatch.setattr(native, "write_atomically", fail)
    assert native.ObjectCode.compile("toy").link().copied(5) == 4
    assert not toy.kept()


def test_without_numba_kept_code_is_used(toy: Toy) -> None:
    toy.result()
    blocked = toy.folder / "numba"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ImportError('no numba here')")
    assert toy.result() == (4, False, "")
    toy.source.write_text(SOURCE + "\n")
    done = toy.use()
    assert done.returncode == 1
    assert "ImportError: no numba here" in done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("return np.empty(count).sum()", "nopython"),
        ("return np.float64(count)", "kernel broken returns float64, not int64"),
    ],
)
def test_kernels_that_cannot_stand_alone_are_refused(toy: Toy, source: str, message: str) -> None:
    broken = f"\n@kernel\ndef broken(count):\n    {source}\n"
    toy.source.write_text(SOURCE + broken)
    done = toy.use()
    assert done.returncode == 1
    assert message.lower() in done.stderr.lower()
    assert not toy.kept()


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(ImportError, match="nosuch"):
        load_kernels("nosuch")


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_kernels_of_the_project_call_nothing_but_c(package: str) -> None:
    """They are linked in processes without Numba, so what they call must exist there."""
    from lmlib.native.compiling import compile_package

    num_arguments, code = compile_package(package)
    assert num_arguments
    assert code.startswith(b"\x7fELF") or sys.platform != "linux"
