"""The commands of the READMEs and of the pages beside the code: listed, or run in a fresh clone.

    python -m tests.commands                  what there is, and what is not run, with the reason
    python -m tests.commands --run FOLDER     clone into FOLDER and run all of it, half an hour;
                                              in a FOLDER that exists it continues

A page is walked from top to bottom, as a reader would. A block without a language is shell, a line
or a continued line at a time; ```python is a script. What serves runs until the end of its page.
Pages follow each other in the same clone.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "stages/README.md",
    *(f"lmlib/{name}/README.md" for name in ("sampling", "serving", "evaluation", "export")),
    *(f"lmlib/{name}/README.md" for name in ("corpus", "training", "tokenizer")),
    "lmlib/tokenizer/CLUSTER.md",
    "lmlib/training/DISTRIBUTED.md",
    "CONTRIBUTING.md",
)
NOT_RUN = {  # part of a command: why
    "make test": "the tests are what .ci/run does",
    "ADDRESS make": "ADDRESS is that of a package index",
    "uv venv": "downloads another environment",
    "source .venv": "each command has the environment",
    "corpus.source=hub": "needs the network",
    "lambada": "needs the network",
    "dvc remote": "needs a remote; tests/pipeline/test_remotes.py has several",
    "git add .dvc/config": "needs a remote",
    "dvc push": "needs a remote",
    "pip install -c": "the extras are those of the tests",
    "SCHEDULER": "needs several machines; tests/tokenizer/test_cluster.py has processes",
    "dask scheduler": "needs several machines",
    "minio": "needs an object store; tests/tokenizer/test_paths.py has one",
    "torchrun": "needs several machines; tests/training/test_distributed.py has processes",
}
PORTS = {"make ui": 5000, "make serve": 8000, "mlflow models serve": 5000}  # of what serves
BOOKS = "books", "Meine Bücher"  # folders of a reader's texts, which the pages name
LIMIT_S = 1200
READY_S = 180


@dataclass(frozen=True)
class Command:
    """A command of a page; reason: why it is not run, or empty."""

    page: str
    text: str
    is_python: bool

    @property
    def reason(self) -> str:
        """Return why it is not run, or an empty text."""
        return next((why for part, why in NOT_RUN.items() if part in self.text), "")

    @property
    def port(self) -> int | None:
        """Return the port that it serves, if it does."""
        return next((port for start, port in PORTS.items() if self.text.startswith(start)), None)

    def __str__(self) -> str:
        first, *more = self.text.splitlines()
        return first + (" ..." if more else "")


def commands(page: str) -> Iterator[Command]:
    """Yield the commands of a page in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            yield Command(page, block, True)
        elif not language:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if without_comment := re.sub(r"(^|\s)# .*|\s+#.*$", "", line).strip():
                    yield Command(page, without_comment, False)


class Walk:
    """A clone in which pages are walked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[tuple[Command, subprocess.Popen[bytes]]] = []
        path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path}
        for name in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL"):
            self.environment.pop(name, None)

    def prepare(self) -> None:
        """Make the clone, and the texts that the pages take for granted, unless it is there."""
        if self.folder.exists():
            return
        subprocess.run(["git", "clone", "--quiet", ROOT, self.folder], check=True)
        story = (ROOT / "models" / "samples.md").read_text(encoding="utf-8")
        for name in BOOKS:
            (self.folder / name).mkdir()
            for number in range(20):
                text = "\n".join(f"{number} {i}: {story}" for i in range(200))
                (self.folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
        with (self.folder / ".git" / "info" / "exclude").open("a", encoding="utf-8") as file:
            file.writelines(f"/{name}/\n" for name in BOOKS)

    def walk(self, page: str) -> None:
        """Run the commands of a page; raise RuntimeError for the first that fails."""
        try:
            for command in commands(page):
                if command.reason:
                    say(f"-- {command}\n   not run: {command.reason}")
                elif command.port is not None:
                    self._serve(command, command.port)
                else:
                    self._run(command)
        finally:
            self._stop()

    def _arguments(self, command: Command) -> list[str]:
        if command.is_python:
            return ["python", "-c", command.text]
        return ["bash", "-c", command.text]

    def _run(self, command: Command) -> None:
        say(f"$  {command}")
        start = time.monotonic()
        done = subprocess.run(
            self._arguments(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        say(f"   {time.monotonic() - start:.0f} s")
        if done.returncode:
            raise RuntimeError(
                f"{command.page}: `{command}` ended with {done.returncode}:\n{output[-3000:]}"
            )

    def _serve(self, command: Command, port: int) -> None:
        say(f"&  {command}")
        process = subprocess.Popen(
            self._arguments(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.servers.append((command, process))
        end = time.monotonic() + READY_S
        while time.monotonic() < end and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.5)
        raise RuntimeError(f"{command.page}: `{command}` does not listen on port {port}")

    def _stop(self) -> None:
        while self.servers:
            command, process = self.servers.pop()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise RuntimeError(
                    f"{command.page}: `{command}` does not end with Ctrl-C"
                ) from None


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """List the commands, or run them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="where to clone to")
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=PAGES)
    args = parser.parse_args()
    walk = Walk(args.run.resolve()) if args.run else None
    if walk:
        walk.prepare()
    for page in args.pages:
        say(f"\n{page}")
        if walk:
            walk.walk(page)
            continue
        for command in commands(page):
            say(f"   {command}" + (f"\n      not run: {command.reason}" if command.reason else ""))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
