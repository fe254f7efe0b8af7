"""`stages.install`: who waits, what is kept, what is rebuilt, and what it prints."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stages import install
from stages.install import Purpose
from tests.pipeline.imports import ROOT

WHEEL = "tiny-1.0-py3-none-any.whl"
PURPOSE = Purpose(
    venv=Path(".venv"),
    stamp=".ready",
    arguments=("--no-index", WHEEL),
    lists=(Path("pyproject.toml"),),
    builds=False,
)
AT_ONCE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from stages import install
from tests.test_install import PURPOSE
install.PURPOSES["run"] = PURPOSE
install.main()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to install, whose only dependency is `tiny`."""
    folder = tmp_path / "My Models ü"
    folder.mkdir()
    (folder / ".git").mkdir()
    (folder / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("tiny.py", "ANSWER = 42\n")
        about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
        wheel.writestr("tiny-1.0.dist-info/METADATA", about)
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("tiny-1.0.dist-info/WHEEL", tag)
        names = ("tiny.py", *(f"tiny-1.0.dist-info/{x}" for x in ("METADATA", "WHEEL", "RECORD")))
        wheel.writestr("tiny-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in names))
    monkeypatch.chdir(folder)
    return folder


def answer(folder: Path) -> str:
    """Return what the installed package says in the environment."""
    command = [folder / ".venv/bin/python", "-c", "import tiny; print(tiny.ANSWER)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_of_two_at_once_the_second_waits(folder: Path) -> None:
    """Neither removes the other's files, and pip runs once."""
    processes = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, "run"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("installing into" in text for text in said) == 1
    assert sum("this one waits" in text for text in said) == 1
    assert answer(folder) == "42"


@pytest.mark.slow
def test_what_is_kept_and_what_is_made_again(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder / ".venv" / "mine"
    install.install(PURPOSE)
    mine.touch()
    capfd.readouterr()

    install.install(PURPOSE)
    assert capfd.readouterr().out == "", "nothing has changed, so nothing is installed"

    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n", encoding="utf-8")
    install.install(PURPOSE)
    assert "installing into" in capfd.readouterr().out
    assert mine.exists(), "other packages are wanted; the environment stays"

    moved = folder.rename(folder.with_name("moved"))
    monkeypatch.chdir(moved)
    install.install(PURPOSE)
    assert not (moved / ".venv/mine").exists(), "scripts in a moved environment do not start"
    assert answer(moved) == "42"

    (moved / ".venv/mine").touch()
    (moved / ".venv/.made").write_text("", encoding="utf-8")  # killed while it was made
    (moved / ".venv/.ready").unlink()
    install.install(PURPOSE)
    assert not (moved / ".venv/mine").exists()
    assert answer(moved) == "42"


def test_an_environment_of_another_maker_stays(folder: Path) -> None:
    (folder / ".venv").mkdir()
    (folder / ".venv/pyvenv.cfg").touch()
    with pytest.raises(OSError, match=r"^\.venv was not made by `make`: remove it"):
        install.install(PURPOSE)
    assert (folder / ".venv/pyvenv.cfg").exists()


def test_nothing_is_removed_behind_a_link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".made").touch()
    (folder / ".venv").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        install.install(PURPOSE)
    assert (elsewhere / ".made").exists()


@pytest.mark.slow
def test_a_failure_of_pip_is_shown(folder: Path) -> None:
    """It shows the end of pip's output and the path of the log; the environment is not ready."""
    (folder / WHEEL).write_bytes(b"no wheel")
    with pytest.raises(
        OSError, match=r"(?s)pip ended with [12]; the end of \.venv/install\.log:\n.*ERROR"
    ):
        install.install(PURPOSE)
    assert not (folder / ".venv/.ready").exists()


@pytest.mark.parametrize(("name", "found"), [("my:models", ":"), ("a{b}c", "{ }"), ("#1?", "# ?")])
def test_a_folder_in_which_nothing_would_work_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    odd = folder.rename(folder.with_name(name))
    monkeypatch.chdir(odd)
    with pytest.raises(OSError, match=f"whose path has {re.escape(found)}; rename it$"):
        install.install(PURPOSE)
    assert not (odd / ".venv").exists()


def test_a_folder_without_git_is_named(folder: Path) -> None:
    """As from an archive of the project. A repository above it is enough, or DVC's own word."""
    (folder / ".git").rmdir()
    with pytest.raises(OSError, match="not in a git repository, which DVC needs; clone"):
        install.install(PURPOSE)
    (folder.parent / ".git").mkdir()
    install.check_folder(folder)
    (folder.parent / ".git").rmdir()
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    install.check_folder(folder)


def test_a_python_without_venv_is_named_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Debian before python3-venv is installed."""
    python = folder / "python3"
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "argv", ["install"])
    monkeypatch.setitem(install.PURPOSES, "run", PURPOSE)
    with pytest.raises(SystemExit, match=rf"^error: {python} has no venv .*apt install"):
        install.main()
    assert not (folder / ".venv").exists()


def test_progress_in_pips_log(tmp_path: Path) -> None:
    log, packages = tmp_path / "log", tmp_path / "lib/python3.11/site-packages"
    log.write_text("Collecting torch==2.13.0\nWARNING: slow\n", encoding="utf-8")
    assert install.doing(log, tmp_path) == "Collecting torch==2.13.0"
    for name in ("ruamel_yaml-0.18.dist-info", "tqdm-4.67.dist-info", "pip-24.0.dist-info"):
        (packages / name).mkdir(parents=True)
    log.write_text(
        "Installing collected packages: ruamel.yaml, tqdm, torch\n  Attempting uninstall: tqdm\n",
        encoding="utf-8",
    )
    assert install.doing(log, tmp_path) == "installing packages: 2 of 3"
