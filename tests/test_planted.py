"""tests/planted: every bug can still be planted, and one that is not caught is seen."""

from pathlib import Path

import pytest

from tests.planted import __main__ as planted

CODE = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
TEST = "from code_of_mine import *\n\n\ndef test_double():\n    assert double(3) == 6\n"
BUGS = """
[[bugs]]
name = "thrice"
file = "code_of_mine.py"
text = "2 * x"
bug = "3 * x"
tests = ["tests/test_code.py"]

[[bugs]]
name = "third"
file = "code_of_mine.py"
text = "x / 2"
bug = "x / 3"
tests = ["tests/test_code.py"]
"""


def test_every_bug_can_be_planted() -> None:
    """Its text occurs once, what replaces it is Python, and its tests exist."""
    bugs = planted.read_bugs()
    assert len({bug.name for bug in bugs}) == len(bugs) >= 24
    for bug in bugs:
        content = (planted.ROOT / bug.file).read_text(encoding="utf-8")
        assert content.count(bug.text) == 1, f"{bug.name}: the text is not there once"
        compile(content.replace(bug.text, bug.bug), bug.name, "exec")
        assert bug.text != bug.bug, bug.name
        assert bug.tests, bug.name
        assert all((planted.ROOT / test).is_file() for test in bug.tests), bug.name


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a test of one of its two functions."""
    project = tmp_path / "My Models ü"
    (project / "tests").mkdir(parents=True)
    for name, content in (
        ("code_of_mine.py", CODE),
        ("tests/test_code.py", TEST),
        ("bugs.toml", BUGS),
        ("pytest.ini", "[pytest]\n"),
    ):
        (project / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(planted, "ROOT", project)
    monkeypatch.setattr(planted, "BUGS", project / "bugs.toml")
    monkeypatch.setattr(planted, "COPIED", ("code_of_mine.py", "tests", "pytest.ini"))
    return project


def test_what_is_caught_and_what_is_not(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.main([]) == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("thrice")
    assert first.endswith(" s  caught by test_code.py::test_double")
    assert second.startswith("third")
    assert second.endswith(" s  NOT CAUGHT")
    assert last == "planted: 2, caught: 1"
    assert (project / "code_of_mine.py").read_text(encoding="utf-8") == CODE


@pytest.mark.usefixtures("project")
def test_some_bugs_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    bugs = planted.read_bugs()
    assert planted.chosen(bugs, ["*hr*"]) == bugs[:1]
    assert planted.chosen(bugs, []) == bugs
    with pytest.raises(SystemExit):
        planted.main(["fourth"])
    assert "fourth: no such bug" in capsys.readouterr().err


def test_tests_that_fail_without_a_bug_end_it(project: Path) -> None:
    (project / "tests" / "test_code.py").write_text("def test_double():\n    assert 0\n")
    with pytest.raises(SystemExit, match=r"test_code\.py fails without a bug; mend it first"):
        planted.main([])


@pytest.mark.parametrize(("content", "count"), [(CODE + "# 2 * x", 2), ("", 0)])
def test_a_text_that_does_not_occur_once_is_an_error(
    project: Path, content: str, count: int
) -> None:
    (project / "code_of_mine.py").write_text(content, encoding="utf-8")
    bug = planted.read_bugs()[0]
    with (
        pytest.raises(ValueError, match=f"thrice: its text occurs {count} times in code_of_mine"),
        bug.planted(project),
    ):
        pass
