"""Where a file or a folder is to be written: what can be known before the work."""

import errno
import os
import shutil
from pathlib import Path


def check_place(path: Path, *, is_folder: bool = False) -> None:
    """Raise OSError if a file, or a folder with files in it, cannot be written at `path`.

    The error names what stands in the way. Folders that are missing can be created.
    """
    if path.is_dir() and not is_folder:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    folder = _existing(path if is_folder else path.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def check_space(path: Path, size: int) -> None:
    """Raise OSError if fewer than `size` bytes are free where `path` belongs."""
    if size > shutil.disk_usage(_existing(path)).free:
        raise OSError(errno.ENOSPC, no_space(path, size), str(path))


def no_space(path: Path, size: int | None) -> str:
    """Return what to say of a disk on which `path`, of `size` bytes, does not fit."""
    needed = f"{size:,} bytes are needed, " if size else ""
    free = shutil.disk_usage(_existing(path)).free
    return f"{os.strerror(errno.ENOSPC)} ({needed}{free:,} bytes are free)"


def _existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists, or what stands in its place."""
    return next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
