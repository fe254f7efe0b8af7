"""Find the files of a corpus: regular files only, each once, whatever its name.

A file is known by its device and inode: a symbolic link, a hard link and another spelling of a path
are the same file.
"""

import os
import stat
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

ADVICE = "correct corpus.train or corpus.valid in params.yaml"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

FileId = tuple[int, int]


def find_files(patterns: Iterable[str], root: Path) -> dict[FileId, Path]:
    """Return the files that match `patterns` (paths or globs, relative to `root`) by identity.

    Files are in the order of the patterns, and within a glob in that of their names. `**` also
    follows links to folders, into each folder once. Raises FileNotFoundError for a pattern that
    matches no file, ValueError for a folder or anything else that is not a regular file, OSError
    for what cannot be read.
    """
    found: dict[FileId, Path] = {}
    for pattern in patterns:
        try:
            paths = _matches(pattern, root)
        except (OSError, ValueError) as error:  # a name that is too long or has a NUL, and so on
            reason = getattr(error, "strerror", None) or error
            where = getattr(error, "filename", None) or repr(pattern)
            kind = type(error) if isinstance(error, OSError) else ValueError
            raise kind(f"corpus: {where} cannot be read ({reason}); {ADVICE}") from error
        if not paths:
            raise FileNotFoundError(f"corpus: no file matches {pattern} below {root}; {ADVICE}")
        for path in paths:
            found.setdefault(check_file(path), path)
    return found


def check_file(path: Path) -> FileId:
    """Return the identity of a file that may be read: a regular one, which ends.

    Raises FileNotFoundError if there is none, ValueError if it is something else, PermissionError
    if it is not readable.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        what = "is a link to a missing file" if path.is_symlink() else "no such file"
        raise FileNotFoundError(f"corpus: {path}: {what}; check the path") from error
    except OSError as error:
        raise type(error)(f"corpus: {path} cannot be read ({error.strerror})") from error
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "")
    if kind == "a folder":
        raise ValueError(f"corpus: {path} is a folder; name its files, as in {path}/*.txt")
    if status.st_dev in _kernel_devices():
        kind = "made by the kernel"
    if kind:
        raise ValueError(
            f"corpus: {path} is {kind}, not a regular file; copy the text to a file, and name that"
        )
    if not os.access(path, os.R_OK):
        raise PermissionError(f"corpus: {path} is not readable; change its permissions")
    return status.st_dev, status.st_ino


@cache
def _kernel_devices() -> set[int]:
    """Return the devices of the file systems whose files are made while they are read."""
    return {os.stat(folder).st_dev for folder in ("/proc", "/sys") if os.path.ismount(folder)}  # noqa: PTH116


def _matches(pattern: str, root: Path) -> list[Path]:
    """Return what a path or a glob names, without the folders that a glob matches, sorted."""
    path = root / os.path.expanduser(pattern)  # noqa: PTH111 - pathlib fails for an unknown ~user
    if _exists(path):
        return [path]
    *folders, name = path.relative_to(root).parts if path.is_relative_to(root) else path.parts
    found = [root]
    for part in [*folders, *([name, "*"] if name == "**" else [name])]:
        found = _below(found) if part == "**" else [at for f in found for at in _named(f, part)]
    return sorted((at for at in found if not at.is_dir()), key=str)


def _named(folder: Path, part: str) -> list[Path]:
    """Return what is called `part` in a folder: that very name, or else all that it matches."""
    if not set(part) & set("*?"):  # a name with brackets that exists is a name
        if _exists(folder / part):
            return [folder / part]
        if "[" not in part:
            return []
    if not folder.is_dir():
        return []
    hidden = part.startswith(".")
    return [
        folder / name
        for name in sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
        if fnmatchcase(name, part) and name.startswith(".") == hidden
    ]


def _below(folders: list[Path]) -> list[Path]:
    """Return the folders and those below them, hidden ones excepted, each once."""
    found: dict[FileId, Path] = {}
    waiting = folders[::-1]
    while waiting:
        folder = waiting.pop()
        if folder.is_dir():
            status = folder.stat()
            if found.setdefault((status.st_dev, status.st_ino), folder) is folder:
                waiting += _named(folder, "*")[::-1]
    return list(found.values())


def _exists(path: Path) -> bool:
    """Return whether there is such a name, of a link to nothing too."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
