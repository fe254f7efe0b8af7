"""The folder in which shards are made, its journal, and how they get to their places."""

import errno
import json
import logging
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lmlib.digests import SUMS
from lmlib.files import naming, replacing, sync
from lmlib.states import lock_of
from lmlib.tokens.index import INDEX, Shard, TokenIndex, read_shard, write_index

JOURNAL = "finished.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A shard, and where it is now."""

    shard: Shard
    path: Path


@contextmanager
def locked(workshop: Path) -> Iterator[None]:
    """Lock the folder in which shards are made; remove it if it is empty."""
    workshop.mkdir(parents=True, exist_ok=True)
    with lock_of(workshop):
        workshop.mkdir(exist_ok=True)  # another process may have finished with it
        try:
            yield
        finally:
            with suppress(OSError):  # it holds shards for the next time, or is gone
                workshop.rmdir()


# -- the journal


def note(made: Made) -> None:
    """Note a shard in the workshop in its journal."""
    journal = made.path.with_name(JOURNAL)
    line = json.dumps({"at": made.path.name, "shard": asdict(made.shard)})
    with naming(journal), journal.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def noted(workshop: Path) -> list[Made]:
    """Return the shards that the journal of an interrupted run lists."""
    journal = workshop / JOURNAL
    if not journal.is_file():
        return []
    found = []
    # a line without its end is one in which the process died
    for line in journal.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            values = json.loads(line)
            shard = read_shard(values["shard"], str(journal))
            found.append(Made(shard, workshop / Path(values["at"]).name))
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s: a line is damaged (%s); its shard is made again", journal, error)
    return found


# -- the end


def each_its_own(made: Sequence[Made], workshop: Path) -> list[Made]:
    """Return the shards, with copies of those that are the same file as one before."""
    taken: set[Path] = set()
    own = []
    for each in made:
        if each.path in taken:  # equal pieces of text
            copy = replace(each, path=workshop / f"{secrets.token_hex(8)}.npy")
            shutil.copyfile(each.path, copy.path)
            note(copy)
            own.append(copy)
        else:
            own.append(each)
        taken.add(each.path)
    return own


def put_in_place(index: TokenIndex, made: Sequence[Made], folder: Path, workshop: Path) -> None:
    """Give the shards their places in the folder, write the index, and remove all else from it.

    At any time each shard is where the journal or an index lists it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / shard.file for shard in index.shards]
    paths = []
    for each, target in zip(made, targets, strict=True):
        if each.path.parent == folder and each.path != target:  # another may need its place
            moved = replace(each, path=workshop / f"{secrets.token_hex(8)}.npy")
            note(moved)
            _move(each.path, moved.path)
            paths.append(moved.path)
        else:
            paths.append(each.path)
    for path, target in zip(paths, targets, strict=True):
        if path != target:
            sync(path)
    write_index(folder, index)
    for path, target in zip(paths, targets, strict=True):
        if path != target:
            _move(path, target)
    remove_others(folder, {*(target.name for target in targets), INDEX, SUMS})


def remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove everything from a folder but the files and folders with these names."""
    for path in folder.iterdir():
        if path.name in wanted:
            continue
        logger.info("%s: removed, since it is not part of %s", path, folder)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _move(path: Path, target: Path) -> None:
    """Move a file to `target`, which may be on another disk, and replace what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as (part,):
            shutil.copyfile(path, part)
        path.unlink()
