"""The fingerprint of a stage: it changes only with what dvc.yaml lists."""

from pathlib import Path

import pytest

from stages.fingerprint import fingerprint

PIPELINE = """
stages:
  train:
    deps: [lmlib/optim, lmlib/data.py]
    params: [optim, train]
"""
PARAMS = """
optim: {lr: 1e-3}
train: {seed: 1, sample_every: 10}
sampling: {seed: 1}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "dvc.yaml": PIPELINE,
        "params.yaml": PARAMS,
        "lmlib/data.py": "data",
        "lmlib/optim/adamw.py": "adamw",
        "lmlib/optim/inner/muon.py": "muon",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lmlib/data.py", "other"),
        ("lmlib/optim/adamw.py", "other"),
        ("lmlib/optim/inner/muon.py", "other"),
        ("lmlib/optim/lion.py", "new"),
        ("params.yaml", PARAMS.replace("lr: 1e-3", "lr: 1e-4")),
        ("params.yaml", PARAMS.replace("train: {seed: 1", "train: {seed: 2")),
    ],
)
def test_changes_with_a_dep_and_a_param(project: Path, name: str, content: str) -> None:
    before = fingerprint("train")
    (project / name).write_text(content, encoding="utf-8")
    assert fingerprint("train") != before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lmlib/model.py", "not listed"),
        ("lmlib/optim/README.md", "documentation: .dvcignore has it too"),
        ("lmlib/optim/__pycache__/adamw.pyc", "compiled"),
        ("params.yaml", PARAMS.replace("sample_every: 10", "sample_every: 20")),
        ("params.yaml", PARAMS.replace("sampling: {seed: 1}", "sampling: {seed: 2}")),
        ("params.yaml", PARAMS + "note: a value that is no section\nmore: [1, null]\n"),
    ],
)
def test_stays_with_anything_else(project: Path, name: str, content: str) -> None:
    before = fingerprint("train")
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(content, encoding="utf-8")
    assert fingerprint("train") == before


def test_a_missing_dep_is_named(project: Path) -> None:
    (project / "lmlib/data.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"lmlib/data\.py: missing; run `dvc repro`"):
        fingerprint("train")


def test_params_that_are_missing_are_named(project: Path) -> None:
    (project / "params.yaml").write_text("optim: {lr: 1e-3}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^params\.yaml: train is missing; dvc\.yaml names it"):
        fingerprint("train")
