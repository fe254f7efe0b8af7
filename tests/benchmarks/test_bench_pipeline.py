"""The benchmark of DVC and MLflow: where it stops a stage, and what it compares with what."""

import importlib
from functools import reduce
from pathlib import Path

import pytest

from tests.benchmarks.bench_pipeline import STAGES, Contender, seconds_of, start_of, take_turns
from tests.benchmarks.contest import ROOT
from tests.benchmarks.stage_probe import clocked
from tests.benchmarks.timing import Spread
from tests.pipeline.conftest import Project

BY_MAKE = {"compile_kernels", "dvc_utf8", "install", "repro"}  # they do no work of the pipeline


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose stage `work` writes a line, works, and writes whether that went well."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "library.py").write_text("class Tool:\n    def work(self): pass\n")
    (tmp_path / "stages" / "work.py").write_text(
        "import pathlib, sys\n"
        "from library import Tool\n"
        "print('begins', *sys.argv[1:], end='', flush=True)\n"
        "try:\n"
        "    Tool().work()\n"
        "    pathlib.Path('worked').touch()\n"
        "finally:\n"
        "    pathlib.Path('closed').touch()\n"
    )
    return Project(tmp_path)


def test_a_stage_is_stopped_where_its_work_begins(project: Project) -> None:
    numbers = start_of(project, "library:Tool.work", "work", "--fast")
    assert numbers["CPU s"] > 0
    assert numbers["s"] > 0
    assert not (project.folder / "worked").exists()
    assert (project.folder / "closed").exists()


def test_a_stage_that_never_begins_is_an_error(project: Project) -> None:
    with pytest.raises(AssertionError, match="never called"):
        start_of(project, "library:Tool.work", "missing")


def test_each_stage_is_measured_up_to_something_that_exists() -> None:
    scripts = {
        path.stem
        for path in (ROOT / "stages").glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert {stage.split()[0] for stage in STAGES} == scripts - BY_MAKE
    for target in STAGES.values():
        module, _, path = target.partition(":")
        assert callable(reduce(getattr, path.split("."), importlib.import_module(module)))


def test_ratios_are_of_the_same_turn_and_the_first_is_not_counted() -> None:
    mine = Contender("mine", iter([{"s": 99.0}, {"s": 1.0}, {"s": 6.0}]).__next__)
    theirs = Contender("theirs", iter([{"s": 1.0}, {"s": 2.0}, {"s": 3.0}]).__next__)
    take_turns([mine, theirs], repeats=2)
    assert mine.ratio("s", theirs) == Spread(1.25, 0.5, 2.0)


def test_a_command_that_does_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="built"):
        seconds_of(Project(tmp_path), "python", "-c", "print('built')", said="up to date")


def test_a_clock_adds_up_the_calls_that_fail_too() -> None:
    seconds: dict[str, float] = {}
    function = clocked(seconds, "parsing", int)
    assert function("12") == 12
    first = seconds["parsing"]
    with pytest.raises(ValueError, match="invalid literal"):
        function("twelve")
    assert seconds["parsing"] > first
