"""Whatever a user, a disk or a limit can cause ends a stage with one sentence."""

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.cli import run_stage


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    yield
    root.handlers = before


def failing(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with pytest.raises(SystemExit) as end:
        run_stage(path.read_text)
    assert end.value.code == f"error: {path}: no such file or directory; check the name"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.ENOSPC, "No space left on device (9 bytes are needed)", "data/x")
    with pytest.raises(SystemExit, match=r"^error: data/x: no space left on device \(9 bytes"):
        run_stage(failing(error))


def test_no_threads() -> None:
    with pytest.raises(SystemExit, match=r"^error: no thread can be started; raise the limit"):
        run_stage(failing(RuntimeError("can't start new thread")))


def test_secrets_are_hidden() -> None:
    with pytest.raises(SystemExit, match=r"^error: http://\*\*\*@host: gone$"):
        run_stage(failing(ValueError("http://me:PW@host: gone")))


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run_stage(failing(RuntimeError("shapes do not match")))
