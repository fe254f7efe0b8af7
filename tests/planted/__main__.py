"""Plant bugs, one at a time, and see whether the tests find them.

    python -m tests.planted              all of tests/planted/bugs.toml
    python -m tests.planted NAME...      some of them; a NAME may have * in it

The code is copied to a temporary folder, and each bug is planted in the copy. Its tests must pass
without it and fail with it. Ends with status 1 if they do not.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from lmlib.params import from_dict

ROOT = Path(__file__).parents[2]
BUGS = Path(__file__).with_name("bugs.toml")
COPIED = ("lmlib", "stages", "tests", "pyproject.toml", "params.yaml", "dvc.yaml", "README.md")
LIMIT_S = 900.0  # for the tests of a bug


@dataclass(frozen=True)
class Bug:
    """A bug to plant.

    name:   what is wrong, in a few words
    file:   the file with the bug
    text:   the right text, which occurs once in the file
    bug:    what replaces it
    tests:  the test files that must find it: the first one that does ends the search
    """

    name: str
    file: str
    text: str
    bug: str
    tests: tuple[str, ...]

    @contextmanager
    def planted(self, root: Path) -> Iterator[None]:
        """Within the context, the file in the copy at `root` has the bug.

        Raises ValueError, naming the bug, if the text does not occur exactly once.
        """
        path = root / self.file
        content = path.read_text(encoding="utf-8")
        if (count := content.count(self.text)) != 1:
            raise ValueError(
                f"{BUGS.name}: {self.name}: its text occurs {count} times in {self.file}; copy it "
                "from there again, with as many lines as make it unique"
            )
        path.write_text(content.replace(self.text, self.bug), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(content, encoding="utf-8")


def read_bugs() -> list[Bug]:
    """Return the bugs of bugs.toml."""
    entries = tomllib.loads(BUGS.read_text(encoding="utf-8"))["bugs"]
    return [from_dict(Bug, entry, f"{BUGS.name}[{i}]") for i, entry in enumerate(entries)]


def chosen(bugs: Sequence[Bug], names: Sequence[str]) -> list[Bug]:
    """Return the bugs whose names match; raise ValueError for a name that matches none."""
    for name in names:
        if not any(fnmatchcase(bug.name, name) for bug in bugs):
            raise ValueError(f"{name}: no such bug; {BUGS.name} has their names")
    return [b for b in bugs if not names or any(fnmatchcase(b.name, name) for name in names)]


def copy_code(folder: Path) -> None:
    """Copy what the tests need to a folder."""
    ignored = shutil.ignore_patterns("__pycache__", "benchmarks")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder)


@dataclass(frozen=True)
class Outcome:
    """How tests ended: the first one that failed, or why none could; None if all passed."""

    failed: str | None
    seconds: float
    output: str


def run_tests(folder: Path, tests: Sequence[str]) -> Outcome:
    """Run test files in the copy, with their slow tests, until one test fails."""
    command = [sys.executable, "-m", "pytest", "-m", "", "-x", "-q", "--tb=short", "-rfE"]
    command += ["-p", "no:cacheprovider", "-p", "without_shrinking", *tests]
    # without options for another run of pytest, and with the place of the plugin
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    # Python takes code that it compiled in the same second, of a file of the same size, for current
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Outcome(f"(no end after {LIMIT_S:.0f} s)", LIMIT_S, "")
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return Outcome(None, seconds, done.stdout)
    found = re.search(r"^(?:FAILED|ERROR) tests/([^\s[]+)", done.stdout, re.MULTILINE)
    failed = found[1] if found else f"(pytest ended with status {done.returncode})"
    return Outcome(failed, seconds, done.stdout + done.stderr)


def write(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant the bugs; return how many were not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="bugs to plant; default: all")
    try:
        bugs = chosen(read_bugs(), parser.parse_args(arguments).names)
    except ValueError as error:
        parser.error(str(error))
    width = max(len(bug.name) for bug in bugs)
    escaped = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as place:
        folder = Path(place)
        copy_code(folder)

        @cache
        def require_passing(test: str) -> None:
            without = run_tests(folder, [test])
            if without.failed is not None:
                sys.exit(f"{without.output}\nerror: {test} fails without a bug; mend it first")

        for bug in bugs:
            for test in bug.tests:
                require_passing(test)
            with bug.planted(folder):
                outcome = run_tests(folder, bug.tests)
            escaped += outcome.failed is None
            verdict = "NOT CAUGHT" if outcome.failed is None else f"caught by {outcome.failed}"
            write(f"{bug.name:{width}}  {outcome.seconds:5.0f} s  {verdict}")
    write(f"planted: {len(bugs)}, caught: {len(bugs) - escaped}")
    return escaped


if __name__ == "__main__":
    sys.exit(main() > 0)
