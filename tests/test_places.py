"""lmlib/places.py: where a file or a folder is to be written."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmlib.places import check_place, check_space


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a file and a folder."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    Path("dangling").symlink_to("nothing")


def test_places_that_are_free() -> None:
    check_place(Path("new/folders/out.json"))
    check_place(Path("file"))  # which is replaced
    check_place(Path("new"), is_folder=True)
    check_place(Path("folder"), is_folder=True)


@pytest.mark.parametrize(
    ("path", "is_folder", "error", "named"),
    [
        ("folder", False, IsADirectoryError, "folder"),
        ("file", True, NotADirectoryError, "file"),
        ("file/below", False, NotADirectoryError, "file"),
        ("file/below/deep", True, NotADirectoryError, "file"),
        ("dangling/below", False, NotADirectoryError, "dangling"),
    ],
)
def test_what_stands_in_the_way_is_named(
    path: str, is_folder: bool, error: type[OSError], named: str
) -> None:
    with pytest.raises(error) as failure:
        check_place(Path(path), is_folder=is_folder)
    assert Path(str(failure.value.filename)).name == named


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only() -> None:
    Path("folder").chmod(0o500)
    with pytest.raises(PermissionError, match="folder"):
        check_place(Path("folder/new/file"))


def test_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    check_space(Path("new/file"), 1000)
    message = r"\(1,001 bytes are needed, 1,000 bytes are free\): 'new/file'"
    with pytest.raises(OSError, match=message):
        check_space(Path("new/file"), 1001)
