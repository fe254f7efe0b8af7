"""Find damaged files: in DVC's cache, and among the outs of the pipeline.

DVC trusts the read-only files of its cache, and outs that have not changed since it saw them. This
reads all files of the cache and removes the damaged ones. It gives all outs a new time, so that
`dvc repro` reads them again, and rebuilds what is damaged or missing.

Run:    make verify   (or, from the root of the repository: python -m stages.verify)
"""

import os
import shutil
from pathlib import Path

from dvc.repo import Repo

from stages.artefacts import md5_file, recorded_outs
from stages.cli import run_stage, say


def main() -> None:
    """Remove the damaged files of the cache, and print which they were."""
    with Repo() as repo:
        cache = Path(repo.cache.local.path)
    outs = recorded_outs()
    damaged = remove_damaged(cache)
    for path in damaged:
        say(f"{path}: damaged, so it was removed from the cache\n")
    for out in outs:
        touch(out)
    say(
        f"damaged files in the cache: {len(damaged)}; run `dvc repro`: it reads all outs, and "
        "rebuilds those that are damaged or missing\n"
    )


def remove_damaged(cache: Path) -> list[Path]:
    """Remove from a cache all that is not a file with the hash in its name; return the paths."""
    damaged = []
    for path in sorted(cache.glob("[0-9a-f][0-9a-f]/*")):
        digest = (path.parent.name + path.name).removesuffix(".dir")
        if path.is_file() and md5_file(path) == digest:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        damaged.append(path)
    return damaged


def touch(out: Path) -> None:
    """Change the time of all files of an out: DVC then reads them again."""
    for path in [out, *out.rglob("*")]:
        if path.exists():
            os.utime(path)


if __name__ == "__main__":
    run_stage(main)
