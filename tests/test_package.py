"""What every package has: a version, a licence, types, metadata for those who cite it."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import metadata
from pathlib import Path
from zipfile import ZipFile

import yaml

import lmlib
from tests.pipeline.imports import ROOT

STAGES = "stages/__init__.py"


def test_the_version_is_told_by_the_package_and_its_metadata() -> None:
    assert metadata("lmlib")["Version"] == lmlib.__version__


def test_the_license_is_named_alike() -> None:
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert metadata("lmlib")["License-Expression"] == "MIT"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["license"] == "MIT"


def test_the_citation_has_what_its_format_demands() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()


def test_every_module_is_where_the_pages_say() -> None:
    """lmlib/README.md has the library's modules and packages; the stages name their own."""
    picture = (ROOT / "lmlib/README.md").read_text(encoding="utf-8").split("```")[1]
    found = {path.stem if path.is_dir() else path.name for path in modules(ROOT / "lmlib")}
    assert found <= set(picture.split())
    listed = set(
        re.findall(r"\w+", ast.get_docstring(ast.parse((ROOT / STAGES).read_text())) or "")
    )
    assert {path.stem for path in modules(ROOT / "stages")} <= listed


def modules(package: Path) -> list[Path]:
    """Return the modules and packages in a package."""
    packages = (path.parent for path in package.glob("*/__init__.py"))
    return [p for p in (*package.glob("*.py"), *packages) if p.name != "__init__.py"]


def test_types_are_for_those_who_import_it() -> None:
    assert (Path(lmlib.__file__).parent / "py.typed").is_file()


def test_stories_are_told_by_an_installed_wheel(tmp_path: Path) -> None:
    """Built from a source distribution, so both have the text files of the stories."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "lmlib", source / "lmlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build(source, "sdist", tmp_path)
    with tarfile.open(next(tmp_path.glob("lmlib-*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    build(next((tmp_path / "unpacked").iterdir()), "wheel", tmp_path)
    with ZipFile(next(tmp_path.glob("lmlib-*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")  # all that an installation does to pure Python

    code = "import lmlib.toystories as t; print(t.__file__); print(next(t.generate_stories(1)))"
    done = run_python(code, tmp_path / "installed")
    here = run_python(code, ROOT)
    assert done.startswith(str(tmp_path / "installed"))
    assert done.split("\n", 1)[1] == here.split("\n", 1)[1]


def build(source: Path, kind: str, folder: Path) -> None:
    run_python(f"from setuptools import build_meta as b; b.build_{kind}({str(folder)!r})", source)


def run_python(code: str, folder: Path) -> str:
    """Return what `code` prints, run in `folder`, whose modules it imports before others."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
