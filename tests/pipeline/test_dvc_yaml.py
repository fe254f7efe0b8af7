"""dvc.yaml against the code: deps, params, and stages that only import what they need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import paths
from tests.pipeline.imports import ROOT, modules_behind, modules_of
from tests.test_params import SECTIONS

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_behind_the_stage(stage: str) -> None:
    """An edit to a module reruns exactly the stages whose outs it can change.

    A stage that needs only a part of a package fails here: its deps must then name the modules.
    """
    listed = [modules_of(dep) for dep in STAGES[stage]["deps"]]
    assert set().union(*listed) == modules_behind(Path(f"stages/{stage}.py"))
    assert sum(map(len, listed)) == len(set().union(*listed))  # none twice


@pytest.mark.parametrize("stage", STAGES)
def test_a_package_that_a_stage_needs_is_one_dep(stage: str) -> None:
    """A folder, so that a module added to it is a dep without another line."""
    modules = {Path(dep) for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    packages = {path.parent for path in modules} - {Path("lmlib"), Path("stages")}
    behind = modules_behind(Path(f"stages/{stage}.py"))
    assert [package for package in packages if modules_of(str(package)) <= behind] == []


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_the_stage_reads(stage: str) -> None:
    """`load_params(PARAMS, "model", ...)` in the stage or a module behind it; `model` here."""
    read = {name for module in modules_behind(Path(f"stages/{stage}.py")) for name in reads(module)}
    listed = {name.partition(".")[0] for name in STAGES[stage].get("params", [])}
    assert listed == read


def reads(module: str) -> set[str]:
    """Return the sections of params.yaml that calls in a module name after PARAMS."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and node.args
    ]
    first_two = [[ast.unparse(argument) for argument in call.args[:2]] for call in calls]
    sections = {ast.literal_eval(two[1]) for two in first_two if two[0] == "PARAMS" and two[1:]}
    assert sections <= SECTIONS.keys()
    return sections


@pytest.mark.parametrize("stage", STAGES)
def test_files_the_stage_uses_are_its_deps_and_outs(stage: str) -> None:
    """Each path that it imports from stages.paths: DVC never rebuilds a file it does not know."""
    entry = STAGES[stage]
    known = {Path(path) for path in [*entry["deps"], *outs_of(entry)]}
    known |= {
        Path(path) for kind in ("metrics", "plots") for each in entry.get(kind, []) for path in each
    }
    imported = {
        alias.name
        for module in modules_behind(Path(f"stages/{stage}.py"))
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "stages.paths"
        for alias in node.names
    }
    used = {getattr(paths, name) for name in imported} - {paths.PARAMS, paths.LOCK}
    files = {path for path in used if isinstance(path, Path)}
    assert files
    assert [path for path in files if not known & {path, *path.parents}] == []


@pytest.mark.parametrize("stage", STAGES)
def test_outs_that_are_no_metrics_or_plots_are_cached(stage: str) -> None:
    """DVC keeps no run of a stage with another kind of out that it does not cache.

    Nor of one with an out that persists: there encode itself finds what it need not do.
    """
    for out in STAGES[stage]["outs"]:
        assert isinstance(out, str) or out == {"data/tokens": {"persist": True}}


def outs_of(entry: dict) -> list[str]:
    """Return the paths of a stage's outs, which are strings or mappings with one key."""
    return [out if isinstance(out, str) else next(iter(out)) for out in entry["outs"]]


def test_editing_sampling_does_not_retrain() -> None:
    assert "lmlib/sampling" in STAGES["evaluate"]["deps"]
    assert "lmlib/sampling" not in STAGES["train"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_what_watches_a_run_is_behind_no_out(stage: str) -> None:
    """For example, adding a GPU to the table of peaks must not retrain."""
    assert [dep for dep in STAGES[stage]["deps"] if "monitoring" in dep] == []


def test_every_stage_has_a_description_and_reads_only_what_another_writes() -> None:
    outs = [out for stage in STAGES.values() for out in outs_of(stage)]
    for stage in STAGES.values():
        outs += [path for metrics in stage.get("metrics", []) for path in metrics]
    for name, stage in STAGES.items():
        assert stage["desc"]
        assert stage["cmd"] == f"python -m stages.{name}"
        for dep in stage["deps"]:
            assert modules_of(dep) or dep.startswith(tuple(outs)), f"{name}: {dep}"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("lmlib.monitoring", ["torch", "mlflow", "tqdm", "numpy"]),
        ("stages.download", ["torch", "mlflow", "pyarrow", "huggingface_hub", "fsspec", "numba"]),
        ("stages.train_tokenizer", ["torch", "mlflow", "numba"]),
        ("stages.encode", ["torch", "mlflow", "numba"]),
        ("stages.train", ["mlflow", "dvc"]),
        ("stages.report", ["torch", "mlflow", "numpy"]),
        ("stages.sync_tracking", ["torch", "mlflow"]),
        ("stages.ui", ["torch", "mlflow"]),
        ("stages.study", ["torch", "mlflow"]),
    ],
)
def test_a_stage_imports_late_what_is_slow(module: str, unwanted: list[str]) -> None:
    """torch and mlflow take 3 s each to import: stages that do not need them must not wait."""
    code = f"import {module}, sys; print(sorted(set({unwanted}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
