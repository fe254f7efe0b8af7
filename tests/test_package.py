"""What every package has: a version, a licence, types, metadata for those who cite it."""

from importlib.metadata import metadata
from pathlib import Path

import yaml

import lmlib
from tests.pipeline.imports import ROOT


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


def test_types_are_for_those_who_import_it() -> None:
    assert (Path(lmlib.__file__).parent / "py.typed").is_file()
