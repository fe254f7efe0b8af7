"""What a stage reads and writes, as dvc.yaml lists it: checked before the work begins."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmlib.files import read_yaml
from lmlib.places import check_place
from stages.paths import LOCK, PIPELINE

logger = logging.getLogger(__name__)

LOCKS = Path(".dvc/tmp")


@contextmanager
def producing(stage: str) -> Iterator[None]:
    """Check the files that a stage reads and the places where it writes; let no other write there.

    Raises OSError, naming the path, where it could not write, and ValueError for a file that is not
    the one that DVC made.
    """
    entry = read_yaml(PIPELINE)["stages"][stage]
    for out in _paths(entry, "outs", "metrics", "plots"):
        check_place(out, is_folder=not out.suffix)
    if "DVC_STAGE" in os.environ and LOCK.is_file():
        check_recorded(_paths(entry, "deps"))
    LOCKS.mkdir(parents=True, exist_ok=True)
    lock = FileLock(LOCKS / f"{stage}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that runs the stage %s in this folder", stage)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _paths(entry: dict[str, Any], *keys: str) -> list[Path]:
    """Return paths that dvc.yaml lists, as strings or as mappings whose only key is the path."""
    items = [item for key in keys for item in entry.get(key, [])]
    return [Path(item if isinstance(item, str) else next(iter(item))) for item in items]


def check_recorded(deps: list[Path]) -> None:
    """Raise ValueError for a file that has another hash than in dvc.lock, where it is an out.

    DVC does not look again at files that it has checked out, nor at read-only files of its cache.
    Folders have their SHA256SUMS.
    """
    outs = [out for stage in read_yaml(LOCK)["stages"].values() for out in stage.get("outs", [])]
    recorded = {Path(out["path"]): out["md5"] for out in outs}
    for path in deps:
        if path in recorded and path.is_file() and md5_file(path) != recorded[path]:
            raise ValueError(
                f"{path}: damaged: it has not the hash that {LOCK} records; run `make verify`, "
                "then `dvc repro`"
            )


def md5_file(path: Path) -> str:
    """Return the hash by which DVC knows a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
