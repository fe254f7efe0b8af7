"""Find damaged files: in DVC's cache, and among the outs of the pipeline.

DVC trusts the read-only files of its cache, and outs that have not changed since it saw them. This
reads all files of the cache. A damaged one is replaced by a file of an out with the same hash, so
that no stage runs only because the cache was damaged, and removed where there is none. All outs get
a new time, so that DVC reads them again: what differs from dvc.lock is named, and `dvc repro` then
rebuilds what is damaged or missing.

Run:    make verify   (or, from the root of the repository: python -m stages.verify)
"""

import os
import shutil
from pathlib import Path

from dvc.repo import Repo

from lmlib.files import replacing
from stages.artefacts import md5_file, recorded_outs
from stages.cli import run_stage, say


def main() -> None:
    """Replace or remove damaged files of the cache; print these, and which of the outs differ."""
    with Repo() as repo:
        cache = Path(repo.cache.local.path)
    outs = recorded_outs()
    damaged = remove_damaged(cache)
    whole = replace_from(list(outs), damaged)
    for path in damaged:
        source = whole.get(path)
        done = f"replaced by {source}, which is whole" if source else "removed from the cache"
        say(f"{path}: damaged, so it was {done}\n")
    for out in outs:
        touch(out)
    changed = changed_files()
    for path, how in changed.items():
        say(f"{path}: {how}, compared with dvc.lock\n")
    say(f"damaged files in the cache: {len(damaged)}; outs unlike dvc.lock: {len(changed)}\n")
    if damaged or changed:
        say("run `dvc repro`: it rebuilds what is damaged or missing\n")


def remove_damaged(cache: Path) -> list[Path]:
    """Remove from a cache all that is not a file with the hash in its name; return the paths."""
    damaged = []
    for path in sorted(cache.glob("[0-9a-f][0-9a-f]/*")):
        if path.is_file() and md5_file(path) == _digest(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        damaged.append(path)
    return damaged


def replace_from(outs: list[Path], removed: list[Path]) -> dict[Path, Path]:
    """Copy to the cache what was removed there and is whole in an out; return the files copied."""
    missing = {_digest(path): path for path in removed}
    copied: dict[Path, Path] = {}
    files = [path for out in outs for path in (out, *out.rglob("*"))] if missing else []
    for path in files:
        cached = missing.get(md5_file(path)) if path.is_file() else None
        if cached is not None and cached not in copied:
            with replacing(cached) as (copy,):
                shutil.copyfile(path, copy)
                copy.chmod(0o444)  # as DVC keeps it
            copied[cached] = path
    return copied


def touch(out: Path) -> None:
    """Change the time of all files of an out: DVC then reads them again."""
    for path in [out, *out.rglob("*")]:
        if path.exists():
            os.utime(path)


def changed_files() -> dict[str, str]:
    """Return what differs from dvc.lock in the outs, and how: modified, missing or added.

    A folder is named, as data/raw/, only where DVC knows none of its files.
    """
    with Repo() as repo:
        found = repo.data_status(granular=True, untracked_files="no")["uncommitted"]
    kinds = {"modified": "modified", "deleted": "missing", "added": "added"}
    changed = {path: kinds[kind] for kind in kinds for path in sorted(found.get(kind, ()))}
    folders = {f"{folder}/" for path in changed for folder in Path(path).parents}
    return {path: kind for path, kind in changed.items() if path not in folders}


def _digest(cached: Path) -> str:
    return (cached.parent.name + cached.name).removesuffix(".dir")


if __name__ == "__main__":
    run_stage(main)
