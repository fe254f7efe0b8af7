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
from stages.paths import LOCK, PIPELINE

logger = logging.getLogger(__name__)

LOCKS = Path(".dvc/tmp")


@contextmanager
def producing(stage: str) -> Iterator[None]:
    """Check the files that a stage reads and the places where it writes; let no other write there.

    Raises ValueError, naming the path, where it could not write, and for a file that is not the one
    that DVC made; without DVC, that is a warning.
    """
    entry = read_yaml(PIPELINE)["stages"][stage]
    for out in _paths(entry, "outs", "metrics", "plots"):
        check_writable(out)
    if LOCK.is_file():
        try:
            check_recorded(_paths(entry, "deps"))
        except ValueError as error:
            if "DVC_STAGE" in os.environ:
                raise
            # by hand, what another stage made by hand is right, although DVC has not seen it
            logger.warning("if it was not made by hand: %s", error)
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


def check_writable(out: Path) -> None:
    """Raise ValueError if a file cannot be written at `out`, or a folder if it has no suffix."""
    folder = out.parent if out.suffix else out
    if out.suffix and out.is_dir():
        raise ValueError(f"{out}: is a folder; move it away, since a file is to be written there")
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; move it away, since a folder is needed there")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: cannot be written; allow this user to write there")


def check_recorded(deps: list[Path]) -> None:
    """Raise ValueError for a file that has another hash than in dvc.lock, where it is an out.

    DVC does not look again at files that it has checked out, nor at read-only files of its cache.
    Folders have their SHA256SUMS.
    """
    recorded = recorded_outs()
    for path in deps:
        if path in recorded and path.is_file() and md5_file(path) != recorded[path]:
            raise ValueError(
                f"{path}: damaged: it has not the hash that {LOCK} records; run `make verify`, "
                "then `dvc repro`"
            )


def recorded_outs() -> dict[Path, str]:
    """Return the hash of each out that dvc.lock records; raise ValueError if it is damaged."""
    try:
        stages = read_yaml(LOCK)["stages"].values() if LOCK.is_file() else ()
        outs = [out for stage in stages for out in stage.get("outs", [])]
        return {Path(out["path"]): str(out["md5"]) for out in outs}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{LOCK}: not a lock file of DVC; `git checkout {LOCK}` restores it"
        ) from error


def md5_file(path: Path) -> str:
    """Return the hash by which DVC knows a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
