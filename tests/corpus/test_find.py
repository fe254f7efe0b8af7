"""Which files a corpus has: by what they are, not by their names."""

import os
import socket
from pathlib import Path

import pytest

from lmlib.corpus.find import find_files


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def found(root: Path, *patterns: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_files(patterns, root).values()]


def test_order(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "a.txt", "deep/c.txt", "[x].txt")
    assert found(tmp_path, "b.txt", "?.txt") == ["b.txt", "a.txt"]
    assert found(tmp_path, "**/*.txt") == ["[x].txt", "a.txt", "b.txt", "deep/c.txt"]
    assert found(tmp_path, "deep/**") == ["deep/c.txt"]
    assert found(tmp_path, str(tmp_path / "*" / "c.txt")) == ["deep/c.txt"]


def test_what_is_missing_or_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "deep/c.txt")
    with pytest.raises(FileNotFoundError, match=r"no file matches z\*\.txt .*correct corpus.train"):
        found(tmp_path, "z*.txt")
    with pytest.raises(FileNotFoundError, match=r"no file matches ~nobody-here/a.txt"):
        found(tmp_path, "~nobody-here/a.txt")
    with pytest.raises(ValueError, match=r"deep is a folder; name its files, as in .*deep/\*\.txt"):
        found(tmp_path, "deep")


@pytest.mark.parametrize(
    "name",
    [
        "a[1].txt",
        "a[b.txt",
        "100%.txt",
        "%41.txt",
        "why?.txt",
        "a:b.txt",
        "a#b.txt",
        "ä ö.txt",
        "~tilde.txt",
        "in [brackets]/a.txt",
        "*.txt",
    ],
)
def test_names_that_look_like_syntax(tmp_path: Path, name: str) -> None:
    root = tmp_path / "my [project] 100% #1?"
    make(root, name)
    assert found(root, name) == [name]
    assert found(root, str(root / name)) == [name]
    assert found(root, f"{Path(name).parent}/*.txt") == [name]
    assert found(root, "**/*.txt") == [name]


def test_hidden_files_are_named(tmp_path: Path) -> None:
    make(tmp_path, ".a.txt", ".git/b.txt", "c.txt")
    assert found(tmp_path, "**/*.txt") == ["c.txt"]
    assert found(tmp_path, ".*.txt") == [".a.txt"]


def test_each_file_once(tmp_path: Path) -> None:
    """The links make 2**40 paths to each file."""
    make(tmp_path, "books/a.txt", "books/b.txt", "elsewhere/c.txt")
    (tmp_path / "books" / "all").symlink_to(".")
    (tmp_path / "books" / "again").symlink_to("../books")
    (tmp_path / "books" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "books" / "c.txt").symlink_to("a.txt")
    (tmp_path / "books" / "d.txt").hardlink_to(tmp_path / "books" / "a.txt")
    assert found(tmp_path, "books/**/*.txt") == ["books/a.txt", "books/b.txt", "books/more/c.txt"]
    assert found(tmp_path, "books/a.txt", "books/../books/a.txt", "books/d.txt") == ["books/a.txt"]


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "lost.txt").symlink_to("nowhere.txt")
    (tmp_path / "ring.txt").symlink_to("ring.txt")
    for name, message in {
        "pipe.txt": "pipe.txt is a pipe, not a regular file; copy the text",
        "z*.txt": "zero.txt is a device, not a regular file",
        "lost.txt": "lost.txt: is a link to a missing file",
        "ring.*": "ring.txt cannot be read",
    }.items():
        with pytest.raises((ValueError, OSError), match=f"corpus: .*{message}"):
            found(tmp_path, name)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
def test_files_that_the_kernel_makes(tmp_path: Path) -> None:
    """It has the secrets of the environment."""
    (tmp_path / "environ.txt").symlink_to("/proc/self/environ")
    with pytest.raises(ValueError, match=r"environ\.txt is made by the kernel, not a regular file"):
        found(tmp_path, "*.txt")


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.txt")
        with pytest.raises(ValueError, match=r"a\.txt is a socket, not a regular file"):
            found(tmp_path, "*.txt")


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".txt", "a\0.txt", "a\ud800.txt", "x" * 300 + "/*.txt"]
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises((OSError, ValueError), match=r"corpus: .*correct corpus\.train"):
        found(tmp_path, name)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test may run as root, who may read everything, so os.access is replaced."""
    make(tmp_path, "a.txt")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"a\.txt is not readable; change its permissions"):
        found(tmp_path, "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_unreadable_folder(tmp_path: Path) -> None:
    """Its files would be missing in silence."""
    make(tmp_path, "books/a.txt", "books/closed/b.txt")
    (tmp_path / "books" / "closed").chmod(0)
    try:
        with pytest.raises(PermissionError, match=r"books/closed cannot be read"):
            found(tmp_path, "books/**/*.txt")
    finally:
        (tmp_path / "books" / "closed").chmod(0o700)
