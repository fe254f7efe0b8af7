"""The commands of the READMEs and of the pages beside the code: all are known, and all run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import NOT_RUN, PAGES, ROOT, commands

NO_COMMANDS = {  # pages that explain and list
    "CHANGELOG.md",
    "README.zh.md",  # has those of README.md, says test_documents.py
    "lmlib/README.md",
    "lmlib/corpus/SCALE.md",
    "stages/PARAMETERS.md",
    "stages/TROUBLESHOOTING.md",
}


def test_each_page_is_walked() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "stages").rglob("*.md"), *(ROOT / "lmlib").rglob("*.md")]
    assert {page.relative_to(ROOT).as_posix() for page in pages} == {*PAGES, *NO_COMMANDS}


def test_what_is_not_run_has_a_reason_that_is_needed() -> None:
    found = [command.text for page in PAGES for command in commands(page)]
    assert len(found) > 30
    assert [part for part in NOT_RUN if not any(part in text for text in found)] == []


def test_lines_are_read_as_a_shell_reads_them() -> None:
    """Continued lines are joined, and comments are gone."""
    texts = [str(command) for command in commands("README.md")]
    assert texts[0] == "make"
    assert "git stash && dvc checkout" in texts
    (hub,) = (text for text in texts if "corpus.source=hub" in text)
    assert hub.endswith("-S 'corpus.train=[sample/10BT/000_00000.parquet]' -S train.copy_weight=1")


@pytest.mark.slow
def test_all_run_in_a_fresh_clone(tmp_path: Path) -> None:
    folder = tmp_path / "My Models ü"
    command = [sys.executable, "-m", "tests.commands", "--run", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
