"""Find damaged files: in DVC's cache, and among the outs of the pipeline.

DVC trusts the read-only files of its cache, and outs that have not changed since it saw them. This
reads all files of the cache and removes the damaged ones. It gives all outs a new time, so that
`dvc repro` reads them again, and makes anew what is damaged or missing.

Run:    make verify   (or, from the root of the repository: python -m stages.verify)
"""

import os
from pathlib import Path

from dvc.repo import Repo

from lmlib.files import read_yaml
from stages.artefacts import md5_file
from stages.cli import run_stage, say
from stages.paths import LOCK


def main() -> None:
    """Remove the damaged files of the cache, and print which they were."""
    with Repo() as repo:
        cache = Path(repo.cache.local.path)
    damaged = remove_damaged(cache)
    for out in outs():
        touch(out)
    for path in damaged:
        say(f"{path}: damaged, so it was removed from the cache\n")
    say(
        f"{len(damaged)} damaged files in the cache; now `dvc repro` reads all outs again and "
        "rebuilds what is damaged\n"
    )


def remove_damaged(cache: Path) -> list[Path]:
    """Remove the files of a cache that do not have the hash that is their name; return them."""
    damaged = []
    for path in sorted(cache.glob("[0-9a-f][0-9a-f]/*")):
        if md5_file(path) != (path.parent.name + path.name).removesuffix(".dir"):
            path.unlink()
            damaged.append(path)
    return damaged


def outs() -> list[Path]:
    """Return the outs in dvc.lock that are here."""
    stages = read_yaml(LOCK)["stages"].values() if LOCK.is_file() else []
    paths = [Path(out["path"]) for stage in stages for out in stage.get("outs", [])]
    return [path for path in paths if path.exists()]


def touch(out: Path) -> None:
    """Change the time of all files of an out: DVC then reads them again."""
    for path in [out, *out.rglob("*")] if out.is_dir() else [out]:
        os.utime(path)


if __name__ == "__main__":
    run_stage(main)
