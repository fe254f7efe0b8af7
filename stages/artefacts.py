"""What a stage reads and writes, as dvc.yaml lists it: checked before the work begins."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmlib.digests import SUMS
from lmlib.files import read_json, read_text, read_yaml
from lmlib.places import check_place
from stages.paths import EXPORTED, HARNESS_METRICS, LOCK, PIPELINE

logger = logging.getLogger(__name__)

LOCKS = Path(".dvc/tmp")


@contextmanager
def producing(stage: str) -> Iterator[None]:
    """Check the files that a stage reads and the places where it writes; let no other write there.

    Raises OSError, naming the path, where it could not write, and ValueError for a file that is not
    the one that DVC made; without DVC, that is a warning.
    """
    entry = read_yaml(PIPELINE)["stages"][stage]
    for out in _paths(entry, "outs", "metrics", "plots"):
        check_place(out, is_folder=not out.suffix)
    for path in changed(_paths(entry, "deps")):
        if "DVC_STAGE" in os.environ:
            raise ValueError(
                f"{path}: damaged: its hash is not that in {LOCK}; run `make verify`, "
                "then `dvc repro`"
            )
        logger.warning("%s: not the one in %s; was it made by hand?", path, LOCK)
    LOCKS.mkdir(parents=True, exist_ok=True)
    lock = FileLock(LOCKS / f"{stage}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info(
            "waiting for another process that is running the stage %s in this folder", stage
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
    if stage == "export":
        _drop_outdated_scores()


def _drop_outdated_scores() -> None:
    """Remove the scores that stages.harness wrote, if the exported model is another one now."""
    scores = HARNESS_METRICS
    if scores.exists() and read_json(scores).get("model") != exported_model_id():
        logger.info("%s: removed, because it is about another model", scores)
        scores.unlink()


def exported_model_id() -> str:
    """Return what tells exported models apart: the first digits of the hash of the weights.

    "" if none was exported.
    """
    sums = EXPORTED / SUMS
    lines = read_text(sums).splitlines() if sums.exists() else ()
    return next((line[:12] for line in lines if line.endswith("  model.safetensors")), "")


def _paths(entry: dict[str, Any], *keys: str) -> list[Path]:
    """Return paths that dvc.yaml lists, as strings or as mappings whose only key is the path."""
    items = [item for key in keys for item in entry.get(key, [])]
    return [Path(item if isinstance(item, str) else next(iter(item))) for item in items]


def changed(deps: list[Path]) -> list[Path]:
    """Return the files and folders that are outs in dvc.lock, but have another hash there.

    DVC does not look again at files that it has checked out, nor at read-only files of its cache.
    Folders with SHA256SUMS, or folders of such, are checked where their files are used.
    """
    recorded = recorded_outs()
    found = []
    for path in deps:
        if path in recorded and path.is_file() and md5_file(path) != recorded[path]:
            found.append(path)
        elif path in recorded and path.is_dir() and not _has_digests(path):
            found += [path] if md5_folder(path) != recorded[path] else []
    return found


def _has_digests(folder: Path) -> bool:
    return (folder / SUMS).exists() or any(folder.glob(f"*/{SUMS}"))


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


def md5_folder(folder: Path) -> str:
    """Return the hash by which DVC knows a folder: of the list of its files and their hashes."""
    files = [
        {"md5": md5_file(path), "relpath": path.relative_to(folder).as_posix()}
        for path in folder.rglob("*")
        if path.is_file()
    ]
    # as dvc_data.hashfile.tree.Tree has it
    listed = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return hashlib.md5(listed.encode()).hexdigest() + ".dir"


def md5_file(path: Path) -> str:
    """Return the hash by which DVC knows a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
