"""A tiny copy of the project in its own git repository."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from tests.fork_server import TOOLS
from tests.pipeline.imports import ROOT

# Paths may have spaces, and non-ASCII characters where DVC can write them.
SUFFIX = " ü" if "dvc_utf8" in sys.modules else " u"
WAY_BACK = "git stash && dvc checkout"  # to the last commit, as README and the Makefile give it


class Project:
    """A working copy to run commands in; `programs` is a folder to find them in first."""

    def __init__(self, folder: Path, programs: Path = TOOLS) -> None:
        self.folder = folder
        self.programs = programs
        path = os.pathsep.join([str(programs), str(TOOLS), os.environ["PATH"]])
        self.env = os.environ | {"PATH": path}

    def at(self, folder: Path) -> "Project":
        """Return one in another folder, with the same programs."""
        return Project(folder, self.programs)

    def with_real_processes(self) -> "Project":
        """Return one in the same folder, for a test about processes: it uses no fork server."""
        return Project(self.folder)

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command; return its stdout and stderr; fail the test on another exit status.

        The limit only ends a broken test: six experiments on a busy machine take minutes.
        """
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=1200
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, f"{' '.join(command)} gave {done.returncode}:\n{output}"
        return output

    def stages_run(self, *command: str) -> list[str]:
        """Run a command of DVC; return the stages that it ran."""
        return re.findall(r"Running stage '(\w+)'", self.run(*command))

    def clone(self, folder: Path) -> "Project":
        """Return a clone of the last commit, without runs, with outs from this project's cache."""
        self.run("git", "clone", "--quiet", str(self.folder), str(folder))
        clone = self.at(folder)
        # `dvc config` cannot write a non-ASCII path, but DVC reads it
        settings = f"[cache]\n    dir = {self.folder}/.dvc/cache\n"
        (folder / ".dvc" / "config.local").write_text(settings, encoding="utf-8")
        clone.run("dvc", "checkout", "--quiet")
        return clone

    def wait_until_tracked(self) -> None:
        """Return once MLflow has everything; on a busy machine, stages leave some for later."""
        start = time.monotonic()
        while list(self.folder.glob("models/.tracking/*.jsonl")):
            waited = time.monotonic() - start
            assert waited < 240  # only ends a broken test
            time.sleep(0.2)
            if waited > 30:
                sync = ["python", "-m", "stages.sync_tracking"]
                subprocess.run(sync, cwd=self.folder, env=self.env, capture_output=True)

    def set_params(self, overrides: dict[str, str]) -> None:
        """Change params.yaml as `dvc exp run -S KEY=VALUE` does."""
        path = self.folder / "params.yaml"
        yaml = YAML()
        document = yaml.load(path)
        for dotted, value in overrides.items():
            *sections, key = dotted.split(".")
            section = document
            for name in sections:
                section = section[name]
            assert key in section, f"{dotted} is not in params.yaml"
            section[key] = YAML(typ="safe").load(value)
        before = path.stat().st_mtime
        yaml.dump(document, path)
        # Git compares whole seconds, and DVC rewrites git's index when it stages dvc.lock: an edit
        # of the same size within a second of a checkout, too fast for a person, would go unseen.
        os.utime(path, (time.time(), max(time.time(), before + 1)))


def go_back(project: Project) -> str:
    """Go back to the last commit as README tells users to; return what the commands say."""
    return project.run("sh", "-c", WAY_BACK)


def tiny_overrides() -> dict[str, str]:
    """Return the parameters of the preset `tiny`, as in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    definition = re.search(r"^TINY = ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert definition
    return dict(re.findall(r"-S ([\w.]+)=(\S+)", definition[1]))


def copy_project(folder: Path, overrides: dict[str, str], programs: Path = TOOLS) -> Project:
    """Copy the project, in its present state, into a new repository with other parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for relative in filter(None, listed.split("\0")):
        if (ROOT / relative).is_file():  # not one that is deleted but still in the index
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / relative, folder / relative)
    project = Project(folder, programs)
    project.set_params(overrides)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message=start")
    return project


@pytest.fixture(scope="session")
def make_project(
    tmp_path_factory: pytest.TempPathFactory, programs: Path
) -> Callable[[str], Project]:
    """Return a function that copies the project, in its present state, into a new repository."""

    def make(name: str, **overrides: str) -> Project:
        folder = tmp_path_factory.mktemp(name + SUFFIX)
        return copy_project(folder, tiny_overrides() | overrides, programs)

    return make


@pytest.fixture(scope="session")
def project(
    make_project: Callable[[str], Project], tmp_path_factory: pytest.TempPathFactory, programs: Path
) -> Project:
    """The project after its first `dvc repro`, committed. Tests do not change it.

    The first worker of pytest-xdist builds it for all, and each has a copy.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return build(make_project)
    built = tmp_path_factory.getbasetemp().parent / "built"
    with FileLock(built.with_suffix(".lock")):
        if not built.exists():
            built.write_text(str(build(make_project).folder), encoding="utf-8")
    folder = tmp_path_factory.mktemp("copy") / f"project{SUFFIX}"
    shutil.copytree(built.read_text(encoding="utf-8"), folder, symlinks=True)
    return Project(folder, programs)


def build(make_project: Callable[[str], Project]) -> Project:
    """Return a project after its first `dvc repro`, committed."""
    project = make_project("project")
    project.run("dvc", "repro")
    project.wait_until_tracked()
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message=results")
    return project
