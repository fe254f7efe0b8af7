"""Write the two texts of a corpus, or the lists of its files, atomically."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from lmlib.corpus.documents import check_head
from lmlib.corpus.fetch import check_digest, describe, fetched, working_folder
from lmlib.corpus.params import CorpusParams
from lmlib.corpus.sources import Source, find_sources, name_of
from lmlib.corpus.split import Found, Reading, copy_file, require_two_sides, split_file
from lmlib.corpus.texts import write_manifest
from lmlib.files import read_json, replacing, sha256_file, write_json
from lmlib.monitoring.progress import OnBytes, byte_bar, progress_bar
from lmlib.places import check_place, check_space
from lmlib.threads import entered_ahead

LOG_EVERY_S = 10.0
RECORD = "source.json"  # next to copies of files of the Hub: their commit and their digests

logger = logging.getLogger(__name__)


def write_corpus(
    params: CorpusParams, train_path: Path, valid_path: Path, root: Path
) -> float | None:
    """Write the corpus that `params` describes to `train_path` and `valid_path`.

    Returns the floor of the validation text in bits per byte, below which no model can be expected
    to score, where it is known: for toystories.

    Both hold the bytes of the source, with documents separated by <|endoftext|>, and neither is
    empty. If `params.keep` is "reference", two files are written instead, with the suffix .json,
    that list where the text is (see `read_texts`). Next to a copy from the Hub, source.json says of
    which commit it is. Paths in `params` are relative to `root`. Files are downloaded one after the
    other to `root`/data/.partial, and an interrupted download stays there for the next run, with
    the text of the files before it. Raises ValueError, FileNotFoundError or another OSError that
    says what to do; existing files then stay as they are.
    """
    for path in (train_path, valid_path):
        check_place(path)
    record = train_path.with_name(RECORD)
    if params.source == "toystories":
        check_space(train_path.parent, params.train_bytes + params.valid_bytes)
        with replacing(train_path, valid_path) as parts:
            floor = _write_toystories(params, *parts)
        _remove(train_path.with_suffix(".json"), valid_path.with_suffix(".json"), record)
        return floor
    train, valid = find_sources(params, root)
    if params.keep == "reference":
        _write_manifests(params, train, valid, train_path, valid_path, root)
        _remove(train_path.with_suffix(".txt"), valid_path.with_suffix(".txt"), record)
        return None
    _copy(params, train, valid, train_path, valid_path, root / "data" / ".partial")
    _remove(train_path.with_suffix(".json"), valid_path.with_suffix(".json"))
    if train[0].address.startswith("hf://"):
        sides = {"train": train, "valid": valid}
        write_json(record, {side: [*map(asdict, files)] for side, files in sides.items()})
    else:
        _remove(record)
    return None


def _remove(*paths: Path) -> None:
    """Remove what other values of `corpus.source` and `corpus.keep` left."""
    for path in paths:
        path.unlink(missing_ok=True)


def _write_toystories(params: CorpusParams, train_path: Path, valid_path: Path) -> float:
    from lmlib import toystories

    with byte_bar("toystories", params.train_bytes + params.valid_bytes) as on_bytes:
        return toystories.write_corpus(
            train_path,
            valid_path,
            seed=params.seed,
            train_bytes=params.train_bytes,
            valid_bytes=params.valid_bytes,
            on_bytes=on_bytes,
        )


def _write_manifests(
    params: CorpusParams,
    train: list[Source],
    valid: list[Source],
    train_path: Path,
    valid_path: Path,
    root: Path,
) -> None:
    """Write the lists of the files, with the digests of local ones, which are read for that."""
    sources = []
    with progress_bar("files", len(train + valid), "files") as bar:
        for source in train + valid:
            if source.is_local:
                path = Path(source.address)
                check_head(path)
                check_digest(path, source.digest, str(path))
                source = replace(source, digest=source.digest or f"sha256:{sha256_file(path)}")
            elif not source.address.startswith("hf://"):
                source = describe(source)
            sources.append(source)
            bar.update()
    count, reading = len(train), Reading(text_field=params.text_field)
    sides = [(sources[:count], reading), (sources[count:], reading)]
    if not valid:
        divided = replace(reading, valid_fraction=params.valid_fraction)
        sides = [
            (sources, replace(divided, side="train")),
            (sources, replace(divided, side="valid")),
        ]
    for path, (files, how) in zip((train_path, valid_path), sides, strict=True):
        write_manifest(path.with_suffix(".json"), files, how, root.resolve())


def _copy(
    params: CorpusParams,
    train: list[Source],
    valid: list[Source],
    train_path: Path,
    valid_path: Path,
    partial: Path,
) -> None:
    """Write the documents of `train` and `valid`, or of `train` alone, split in two."""
    sources = train + valid
    total = _total_bytes(sources)
    check_space(train_path.parent, total or 0)
    with replacing(train_path, valid_path) as parts:
        if all(source.is_local for source in sources):
            with byte_bar("corpus", total) as on_bytes:
                _Copying(params, train, valid, parts).run(partial, on_bytes)
            return
        check_place(partial / "file")
        with working_folder(partial, "copying") as place:
            kept = [place / path.name for path in (train_path, valid_path)]
            copying = _Copying(params, train, valid, kept, place / "state.json")
            copying.run(partial, lambda count: None)  # each download has a bar
            for path, part in zip(kept, parts, strict=True):
                shutil.move(path, part)


def _total_bytes(sources: Sequence[Source]) -> int | None:
    """Return the bytes of text, after a look at each local file; None: known only after reading."""
    local = [Path(source.address) for source in sources if source.is_local]
    # the size of the text in a compressed or structured file is known only after reading it
    plain = {check_head(path) for path in local} == {".txt"}
    return sum(path.stat().st_size for path in local) if plain else None


class _Copying:
    """Copies files into the two texts, one after the other.

    With a file `state`, it saves after each file how far it came. A later one continues there, if
    it begins with the same files.
    """

    def __init__(
        self,
        params: CorpusParams,
        train: list[Source],
        valid: list[Source],
        outputs: Sequence[Path],
        state: Path | None = None,
    ) -> None:
        self.outputs = outputs
        self.state = state
        self.log_at = time.monotonic() + LOG_EVERY_S
        self.is_split = not valid
        reading = Reading(text_field=params.text_field)
        if self.is_split:
            reading = replace(reading, side="split", valid_fraction=params.valid_fraction)
        self.jobs = [
            (source, replace(reading, is_last=number == len(files)), side)
            for side, files in enumerate((train, valid))
            for number, source in enumerate(files, start=1)
        ]

    def run(self, partial: Path, on_bytes: OnBytes) -> None:
        """Copy what is missing, each file while the next one is downloaded to `partial`."""
        done, found = self._resume()
        waiting = self.jobs[done:]
        files = closing(entered_ahead(fetched(source, partial) for source, *_ in waiting))
        with (
            self.outputs[0].open("r+b") as train,
            self.outputs[1].open("r+b") as valid,
            files as paths,
        ):
            for (_, reading, side), path in zip(waiting, paths, strict=True):
                if self.is_split:
                    split_file(path, reading, train, valid, found[0], on_bytes)
                else:
                    copy_file(path, reading, (train, valid)[side], found[side], on_bytes)
                done += 1
                self._save(done, (train, valid), found)
            for side in (0,) if self.is_split else (0, 1):
                found[side].check([job[0].address for job in self.jobs if job[2] == side])
            if self.is_split:
                require_two_sides(train, valid, self.jobs[0][1].valid_fraction, found[0])

    def _resume(self) -> tuple[int, list[Found]]:
        """Return how many files are done, and what was found in them; cut off what is not saved."""
        done, sizes, found = 0, [0, 0], [Found(), Found()]
        if self.state and self.state.exists():
            values = read_json(self.state)
            # shorter ones: it was killed while it cut or moved them, after the last file
            is_whole = all(
                path.exists() and path.stat().st_size >= size
                for path, size in zip(self.outputs, values["bytes"], strict=True)
            )
            if is_whole and values["files"] == self._identities(len(values["files"])):
                done, sizes = len(values["files"]), values["bytes"]
                found = [Found(**each) for each in values["found"]]
                logger.info("corpus: an earlier run has copied %d of the files", done)
        for path, size in zip(self.outputs, sizes, strict=True):
            with path.open("ab") as file:
                file.truncate(size)
        return done, found

    def _save(self, done: int, files: Sequence[BinaryIO], found: list[Found]) -> None:
        """Save how far the copy came, and log it from time to time, if there is a state."""
        if self.state is None:
            return
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        sizes = [os.fstat(file.fileno()).st_size for file in files]
        values = {"bytes": sizes, "found": [asdict(each) for each in found]}
        write_json(self.state, {"files": self._identities(done), **values})
        if time.monotonic() > self.log_at:
            logger.info(
                "corpus: %d of %d files, %.2f GB of text", done, len(self.jobs), sum(sizes) / 1e9
            )
            self.log_at = time.monotonic() + LOG_EVERY_S

    def _identities(self, count: int) -> list[list[Any]]:
        """Return, of the first `count` files, all that decides what is copied from them."""
        return [
            [source.address, source.digest, side, *reading.identity(name_of(source.address))]
            for source, reading, side in self.jobs[:count]
        ]
