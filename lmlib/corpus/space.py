"""Where a corpus is written: what can be known before the work."""

import os
import shutil
from pathlib import Path


def check_place(path: Path) -> None:
    """Raise OSError if the file `path` cannot be written where it belongs."""
    if path.is_dir():
        raise IsADirectoryError(f"corpus: {path} is a folder, where a text belongs; remove it")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise NotADirectoryError(f"corpus: {folder} is a file, where a folder belongs; remove it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"corpus: {folder} is not writable; change its permissions")


def check_space(folder: Path, size_bytes: int) -> None:
    """Raise OSError if fewer than `size_bytes` are free in a folder."""
    free = shutil.disk_usage(next(filter(Path.exists, [folder, *folder.absolute().parents]))).free
    if size_bytes > free:
        raise OSError(
            f"corpus: {folder}: {size_bytes:,} bytes are needed, but {free:,} are free; make room "
            "and run again"
        )
