"""The Makefile's targets, run in a folder whose name has spaces and a non-ASCII letter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.install import PURPOSES, content_of_stamp
from tests.fork_server import TOOLS
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.pipeline


@pytest.fixture
def lab(
    project: Project, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A built clone in "My Models ü", with the packages of this environment installed."""
    lab = project.clone(tmp_path / "My Models ü")
    venv = lab.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
    tools = {path.name: path for folder in (TOOLS, programs) for path in folder.iterdir()}
    for name, path in tools.items():
        (venv / "bin" / name).symlink_to(path)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    monkeypatch.chdir(lab.folder)
    (venv / ".made").write_text(f"{lab.folder}\n", encoding="utf-8")
    for purpose in ("run", "dev"):
        stamp = venv / PURPOSES[purpose].stamp
        stamp.write_text(content_of_stamp(PURPOSES[purpose]), encoding="utf-8")
    lab.env["PATH"] = os.defpath  # so that the tools come from .venv
    return lab


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_help_lists_each_target_in_80_columns(lab: Project) -> None:
    listed = lab.run("make", "help").splitlines()
    assert max(map(len, listed)) <= 80
    targets = {line.split()[0] for line in listed}
    assert {"all", "setup", "test", "ui", "tiny", "sweep-lr", "prune", "clean", "help"} <= targets


def test_all_builds_and_reports(lab: Project) -> None:
    output = lab.run("make")
    assert "Data and pipelines are up to date." in output
    assert "bits per byte" in output


@pytest.mark.slow
def test_of_two_builds_at_once_the_second_waits(lab: Project) -> None:
    """It then has nothing to do."""
    lab.set_params({"train.seed": "2"})
    both = [
        subprocess.Popen(
            ["make", "repro"], cwd=lab.folder, env=lab.env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Running stage 'train'" in text for text in said) == 1
    (second,) = [text for text in said if "another `make` is building here; this one waits" in text]
    assert "Data and pipelines are up to date." in second


def test_parameters_of_all_stages_are_checked_before_the_first(lab: Project) -> None:
    lab.set_params({"corpus.seed": "2", "sampling.top_p": "2.0"})
    refused = lab.run("make", "repro", status=2)
    assert "error: params.yaml: sampling: top_p is 2.0; it must be" in refused
    assert "Running stage" not in refused


@pytest.mark.slow
def test_an_experiment_of_a_preset(lab: Project) -> None:
    output = lab.run("make", "tiny", "ARGS=--name small -S train.num_steps=25")
    assert "Running stage 'train'" in output
    assert "small" in lab.run(str(lab.folder / ".venv/bin/dvc"), "exp", "list")


def test_python_finds_the_project_with_a_safe_path(lab: Project) -> None:
    lab.env["PYTHONSAFEPATH"] = "1"
    assert "up to date" in lab.run("make", "repro")


def test_the_project_can_be_named_from_elsewhere(lab: Project, tmp_path: Path) -> None:
    elsewhere = Project(tmp_path)
    assert "up to date" in elsewhere.run("make", "-C", "My Models ü", "repro")
    refused = elsewhere.run("make", "-f", "My Models ü/Makefile", "clean", status=2)
    assert "call make in the folder of this Makefile, or as `make -C FOLDER`" in refused


def test_nothing_outside_of_the_project_is_removed(lab: Project, tmp_path: Path) -> None:
    """Neither a prefix of its path nor the target of a link in it."""
    for other in ("My", "Models", "My Models"):
        for folder in ("models/.resume", ".venv", "build"):
            (tmp_path / other / folder).mkdir(parents=True)
    (lab.folder / "models/.resume").mkdir(exist_ok=True)
    outside = {path for path in tree(tmp_path) if lab.folder not in (path, *path.parents)}
    model = lab.folder / "models/lm/model.safetensors"

    lab.run("make", "prune")
    assert not (lab.folder / "models/.resume").exists()
    lab.run("make", "clean")
    assert not (lab.folder / ".venv").exists()
    assert model.is_file()
    assert outside <= tree(tmp_path)
    assert (Path(sys.prefix) / "bin" / "dvc").is_file()


def test_no_recipe_spells_the_path_of_the_project(lab: Project) -> None:
    """make splits a path at its spaces, and the parts would be other paths."""
    for target in ("prune", "clean", "lint", "test", "tiny", "sweep-lr", "bench-tokenizer"):
        recipe = lab.run("make", "--dry-run", target, "CORPUS=a b.txt")
        lines = [x for x in recipe.splitlines() if not x.startswith("make")]
        assert lines
        assert not [line for line in lines if "My" in line or "Models" in line]


def test_ui_study_and_lm_eval_pass_their_arguments_on(lab: Project) -> None:
    assert "python -m stages.ui --port 5001" in lab.run(
        "make", "--dry-run", "ui", "ARGS=--port 5001"
    )
    study = lab.run("make", "--dry-run", "sweep-lr", "JOBS=4", "ARGS=-S train.seed=2")
    assert "python -m stages.study sweep-lr --jobs 4 -S train.seed=2" in study
    here = "http://127.0.0.1:8000"
    recipe = lab.run("make", "--dry-run", "lm-eval", "TASKS=a,b", "LIMIT=0", f"ADDRESS={here}")
    recipe = " ".join(recipe.replace("\\\n", "").split())
    assert f'stages.harness --tasks "a,b" --limit "0" --address "{here}"' in recipe
    study = lab.run("make", "--dry-run", "sweep-lr", "STEPS=9", "OVERWRITE=1")
    assert 'python -m stages.study sweep-lr --jobs 2 --steps "9" --overwrite' in study


def test_without_python_it_says_which_is_needed(lab: Project) -> None:
    (lab.folder / ".venv/.ready").unlink()
    assert "error: Python 3.11 or newer is needed" in lab.run("make", "setup", "PYTHON=", status=2)
    (lab.folder / ".venv/.ready-dev").unlink()
    assert "make PYTHON=/path/to/python3" in lab.run("make", "setup-dev", "PYTHON=", status=2)


def test_make_finds_no_python_in_the_environment_it_is_to_make(lab: Project) -> None:
    """An active .venv is not used as the Python to create .venv with."""
    print_it = ("--eval", "print: ; @echo '$(PYTHON)'", "print")
    active = lab.env | {"PATH": f"{lab.folder}/.venv/bin:{lab.env['PATH']}"}
    found = subprocess.run(
        ["make", *print_it], cwd=lab.folder, env=active, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip()
    assert ".venv" not in found.stdout
