"""tests/fuzz: it finds nothing in the kernels, and what is planted."""

import importlib
import re
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import files
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guard pages need Linux")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of findings."""
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def run(*arguments: str) -> int:
    """Fuzz; return the exit status."""
    with pytest.raises(SystemExit) as ended:
        fuzz.main([*arguments, "--seed", "1", "--minutes", "5"])
    assert isinstance(ended.value.code, int), ended.value.code
    return ended.value.code


@pytest.mark.parametrize("name", ["encode", "sample"])
def test_kernels_agree_with_plain_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", name, "--count", "6") == 0, capsys.readouterr().out
    assert re.search(rf"{name} +6 inputs +0 findings", capsys.readouterr().out)


def test_every_target_exists() -> None:
    for target in TARGETS.values():
        module, function, *arguments = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert set(arguments) <= set(files.READERS)
    assert [name for name in TARGETS if name.endswith("-files")] == [
        f"{name}-files" for name in files.READERS
    ]


def test_every_kernel_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    status = run("--only", "tests.fuzz.planted:call_every_kernel", "--count", "1")
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("planted", "seen", "count"),
    [
        ("decode_without_room", "SIG(SEGV|ABRT)", "[1-6]"),
        ("write_before", "SIG(SEGV|ABRT)", "[1-6]"),
        ("read_uninitialised", "AssertionError", "[1-6]"),
        ("raise_key_error", "KeyError at fuzz/planted.py:.*planted", "[1-5]"),
    ],
)
def test_a_planted_fault_is_found_and_repeated(
    planted: str, seen: str, count: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is kept with its input; the command that is printed shows it again."""
    target = f"tests.fuzz.planted:{planted}"
    assert run("--only", target, "--count", "6") == 1
    printed = capsys.readouterr().out
    assert re.search(f"FOUND {target}: {seen}", printed)
    assert re.search(rf"{target} +6 inputs +{count} findings", printed)
    folder, *_ = kept.iterdir()
    case = re.search(r"--case (\d+)", (folder / "report.txt").read_text(encoding="utf-8"))
    assert case
    assert (folder / "input").is_dir()
    assert run("--only", target, "--case", case[1]) == 1
    assert re.search(f"FOUND {target}: {seen}", capsys.readouterr().out)


def test_hostile_files_are_damaged_in_many_ways() -> None:
    """By a seed, and never by an error of the fuzzer itself."""
    contents = {
        ".json": b'{"a": {"b": [1, 2]}, "vocab_size": 3}',
        ".jsonl": b'{"kind": "open"}\n{"kind": "end"}\n',
        ".yaml": b"model:\n  d_model: 16\n",
        ".npy": b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<u2', 'shape': (40,)}".ljust(118)
        + b"abcd",
        ".safetensors": b"\x02" + bytes(7) + b"{}",
        ".pt": b"0" * 64 + b"body",
        ".gz": b"no gzip",
        ".txt": b"",
    }
    for suffix, content in contents.items():
        results = [files.damaged(content, suffix, Random(seed)) for seed in range(300)]
        assert results == [files.damaged(content, suffix, Random(seed)) for seed in range(300)]
        assert len(set(results)) > 20


def test_a_reader_that_names_no_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise ValueError("something is wrong")

    def write(folder: Path) -> None:
        (folder / "a.json").write_text("{}")

    monkeypatch.setitem(files.READERS, "planted", files.Reader(write, refuse))
    with pytest.raises(AssertionError, match="no file is named: ValueError"):
        files.read("planted", Random(1), tmp_path)
