"""Install the project, and what a purpose needs in addition, into a virtual environment.

Reads:  pyproject.toml and constraints.txt, or the list of the benchmarks' peers or of check-cuda.
Writes: .venv (or .venv-bench, .venv-cuda), dvc_plots/vega.js.
Run:    make setup   (by hand, from the repository root: python3 -m stages.install)

Nothing is installed yet when this runs, so it imports only the standard library. If two run at
once, the second waits, and finds the work done.
"""

import argparse
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

UNUSABLE = ":{}#?"  # in the path of a folder
LOG_LINES = 15  # of pip's output, shown when it fails
LINE_S, TERMINAL_LINE_S = 15.0, 0.5  # between progress lines: in a log, on a terminal


@dataclass(frozen=True)
class Purpose:
    """An environment, what pip installs into it, the files that list it, and whether to compile."""

    venv: Path
    stamp: str
    arguments: tuple[str, ...]
    lists: tuple[Path, ...]
    builds: bool


PROJECT = (Path("pyproject.toml"), Path("constraints.txt"))
PEERS = Path("tests/benchmarks/peers-requirements.txt")
WITH_CUDA = Path("tests/cuda/requirements.txt")
PURPOSES = {
    "run": Purpose(
        Path(".venv"),
        ".ready",
        ("--constraint", "constraints.txt", "--editable", "."),
        PROJECT,
        builds=True,
    ),
    "dev": Purpose(
        Path(".venv"),
        ".ready-dev",
        ("--constraint", "constraints.txt", "--editable", ".[dev]"),
        PROJECT,
        builds=False,
    ),
    "eval": Purpose(
        Path(".venv"),
        ".ready-eval",
        ("--constraint", "constraints.txt", "--editable", ".[eval]"),
        PROJECT,
        builds=False,
    ),
    "bench": Purpose(
        Path(".venv-bench"), ".ready", ("--requirement", str(PEERS)), (PEERS,), builds=False
    ),
    "cuda": Purpose(
        Path(".venv-cuda"), ".ready", ("--requirement", str(WITH_CUDA)), (WITH_CUDA,), builds=False
    ),
}


def main() -> None:
    """Install for one purpose, unless that is done already; on failure, end with one sentence."""
    parser = argparse.ArgumentParser(prog="python3 -m stages.install", description=__doc__)
    parser.add_argument("purpose", nargs="?", choices=PURPOSES, default="run")
    purpose = PURPOSES[parser.parse_args().purpose]
    try:
        with lock(Path("pyproject.toml"), "another process is installing here"):
            install(purpose)
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def lock(path: Path, reason: str) -> BinaryIO:
    """Return the file, open and locked; say `reason` and wait while another process holds the lock.

    The file is not changed. The lock ends when the file's last copy is closed, so a killed process
    leaves none behind.
    """
    file = path.open("r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{reason}; this one waits until it is done")
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def install(purpose: Purpose) -> None:
    """Bring an environment up to date; on failure raise OSError, which says what to do."""
    stamp = purpose.venv / purpose.stamp
    if is_current(stamp, purpose):
        stamp.touch()
        return
    stamp.unlink(missing_ok=True)
    check_folder(Path.cwd())
    prepare(purpose.venv)
    run_pip(purpose)
    python = str(purpose.venv / "bin" / "python")
    if purpose.builds:
        say("compiling kernels: up to a minute the first time")
        run(python, "-m", "stages.compile_kernels")
        run(python, "-m", "stages.vega")  # so that pages of `dvc plots` need no network
        run(python, "-m", "stages.dvc_utf8")
    stamp.write_text(content_of_stamp(purpose), encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Raise OSError, which says what to do, for a folder in which the pipeline could not run."""
    if found := sorted(set(UNUSABLE) & set(str(folder))):
        raise OSError(
            f"{folder}: virtual environments, DVC or git fail in a folder whose path has "
            f"{' '.join(found)}; rename it"
        )
    configs = [folder / ".dvc" / name for name in ("config", "config.local")]
    texts = [path.read_text(encoding="utf-8") for path in configs if path.is_file()]
    without_git = any(re.search(r"^\s*no_scm\s*=\s*true", text, re.MULTILINE) for text in texts)
    places = (folder, *folder.parents)
    if not without_git and not any((place / ".git").exists() for place in places):
        raise OSError(
            f"{folder}: not in a git repository, which DVC needs; clone the project with git, or "
            "run git init && git add . && git commit -m 'A copy'"
        )


def content_of_stamp(purpose: Purpose) -> str:
    """Return the folder (an environment does not work if it is moved) and a hash of the lists."""
    asked = hashlib.sha256(b"".join(path.read_bytes() for path in purpose.lists))
    return f"{Path.cwd()}\n{asked.hexdigest()}\n"


def is_current(stamp: Path, purpose: Purpose) -> bool:
    """Return whether the environment was made here, for these lists of packages."""
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == content_of_stamp(purpose)


def prepare(venv: Path) -> None:
    """Make a virtual environment, unless there is a complete one that was made here.

    Its file `.made` is created first, and names this folder once the rest is complete. An
    environment without that file is someone else's, and is left alone.
    """
    made, here = venv / ".made", f"{Path.cwd()}\n"
    if made.is_file() and made.read_text(encoding="utf-8") == here:
        return
    if venv.is_dir() and any(venv.iterdir()):
        if not made.is_file() and not (venv / ".ready").is_file():  # earlier versions had no .made
            raise OSError(
                f"{venv} was not made by `make`: remove it (rm -r {venv}), or keep it, "
                f"activate it (source {venv}/bin/activate) and call dvc, pytest and "
                "`python -m stages...` yourself"
            )
        if venv.is_symlink():
            raise OSError(f"{venv} is a symbolic link to an outdated environment: remove it")
        shutil.rmtree(venv)
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
        raise OSError(
            f"{sys.executable} has no venv (Debian: apt install python3-venv); or name another "
            "Python: make PYTHON=/path/to/python3"
        )
    venv.mkdir(exist_ok=True)
    made.touch()
    run(sys.executable, "-m", "venv", str(venv))
    made.write_text(here, encoding="utf-8")


def run_pip(purpose: Purpose) -> None:
    """Install with pip and show progress; pip's output goes to install.log in the environment."""
    log = purpose.venv / "install.log"
    command = [str(purpose.venv / "bin" / "python"), "-m", "pip", "install"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    say(f"installing into {Path.cwd() / purpose.venv}; pip's output: {log}")
    with log.open("wb") as output:
        pip = subprocess.Popen([*command, *purpose.arguments], stdout=output, stderr=output)
        try:
            follow(pip, log, purpose.venv)
        except BaseException:
            pip.terminate()
            pip.wait()
            raise
    if pip.returncode:
        words = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise OSError(
            f"pip ended with {pip.returncode}; the end of {log}:\n  "
            + "\n  ".join(words)
            + "\nFix that and run the same command again: pip keeps its downloads"
        )


def follow(pip: subprocess.Popen[bytes], log: Path, venv: Path) -> None:
    """Show what pip does until it ends: on a terminal in one line, elsewhere now and then."""
    terminal = sys.stdout.isatty()
    start = told = time.monotonic()
    while pip.poll() is None:
        time.sleep(0.1)
        now = time.monotonic()
        if now - told >= (TERMINAL_LINE_S if terminal else LINE_S):
            minutes, seconds = divmod(int(now - start), 60)
            line = f"{minutes}:{seconds:02} {doing(log, venv)}"
            if terminal:
                width = shutil.get_terminal_size().columns - 1
                sys.stdout.write(f"\r{line[:width]:<{width}}")
                sys.stdout.flush()
            else:
                say(line)
            told = now
    if terminal:
        sys.stdout.write("\r\033[K")
        sys.stdout.flush()


def doing(log: Path, venv: Path) -> str:
    """Return what pip is doing, judged by its output and by what it has installed so far."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    title = "Installing collected packages: "
    if wanted := [line.removeprefix(title) for line in lines if line.startswith(title)]:
        names = set(map(plain_name, wanted[-1].split(", ")))
        found = venv.glob("lib/python*/site-packages/*.dist-info")
        done = names & {plain_name(path.name.partition("-")[0]) for path in found}
        return f"installing packages: {len(done)} of {len(names)}"
    told = [line.strip() for line in lines if not line.startswith("WARNING:")]
    return told[-1] if told else "starting pip"


def plain_name(package: str) -> str:
    """Return the name of a package as indexes compare it (PEP 503)."""
    return re.sub("[-_.]+", "-", package).lower()


def run(*command: str) -> None:
    """Run a command, whose output is shown; raise OSError if it fails."""
    status = subprocess.run(command).returncode
    if status:
        raise OSError(f"`{' '.join(command[:3])} ...` ended with {status}; see above")


def say(line: str) -> None:
    """Write a line and flush it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
