"""stages/PARAMETERS.md: what `python -m stages.parameters` prints, with a meaning for each key."""

import re

import pytest

from lmlib.files import read_yaml
from stages import parameters
from tests.pipeline.imports import ROOT


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(ROOT)
    parameters.main()
    return capsys.readouterr().out


def test_the_page_is_up_to_date(page: str) -> None:
    """If this fails: python -m stages.parameters > stages/PARAMETERS.md."""
    assert page == (ROOT / "stages" / "PARAMETERS.md").read_text(encoding="utf-8")


def test_each_key_has_a_row_and_each_cell_a_text(page: str) -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if "| `" in line[:3]]
    assert all(cell.strip() for row in rows for cell in row)
    keys = [key for section in read_yaml(ROOT / "params.yaml").values() for key in section]
    assert [row[0].strip(" `") for row in rows] == keys
