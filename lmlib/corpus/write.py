"""Write the two texts of a corpus, atomically."""

from pathlib import Path

from lmlib.corpus.documents import check_head, file_format
from lmlib.corpus.fetch import check_digest, downloaded, fetch_from_hub
from lmlib.corpus.find import find_files
from lmlib.corpus.params import CorpusParams
from lmlib.corpus.split import copy_files, split_files
from lmlib.files import replacing
from lmlib.monitoring.progress import byte_bar
from lmlib.places import check_place, check_space


def write_corpus(
    params: CorpusParams, train_path: Path, valid_path: Path, root: Path
) -> float | None:
    """Write the corpus that `params` describes to `train_path` and `valid_path`.

    Returns the floor of the validation text in bits per byte, below which no model can be expected
    to score, where it is known: for toystories.

    Both hold the bytes of the source, with documents separated by <|endoftext|>, and neither is
    empty. Paths in `params` are relative to `root`; an interrupted download stays in
    `root`/data/.partial for the next run. Raises ValueError, FileNotFoundError or another OSError
    that says what to do; existing files then stay as they are.
    """
    for path in (train_path, valid_path):
        check_place(path)
    folder, floor = train_path.parent, None
    if params.source == "toystories":
        check_space(folder, params.train_bytes + params.valid_bytes)
        with replacing(train_path, valid_path) as parts:
            floor = _write_toystories(params, *parts)
    elif params.source == "local":
        train, valid = _local_files(params, root)
        with replacing(train_path, valid_path) as parts:
            _write_files(params, folder, train, valid, *parts)
    elif params.source == "url":
        addresses, partial = params.train + params.valid, root / "data" / ".partial"
        with (
            downloaded(addresses, params.sha256, partial) as files,
            replacing(train_path, valid_path) as parts,
        ):
            count = len(params.train)
            _write_files(params, folder, files[:count], files[count:], *parts)
    else:
        train_file, valid_file = fetch_from_hub(params.source)
        with replacing(train_path, valid_path) as parts:
            _write_files(params, folder, [train_file], [valid_file], *parts)
    return floor


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


def _local_files(params: CorpusParams, root: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of train and of valid.

    Raises ValueError for a file of unknown format, in both lists, or with a wrong sha256.
    """
    train, valid = find_files(params.train, root), find_files(params.valid, root)
    files = [*train.values(), *valid.values()]
    for path in files:
        file_format(path.name)
    for identity, path in valid.items():
        if identity in train:
            other = "" if train[identity] == path else f" (as {train[identity]})"
            raise ValueError(
                f"corpus: {path} is in corpus.train{other} and in corpus.valid; remove it from one"
            )
    if params.sha256 and len(params.sha256) != len(files):
        raise ValueError(
            f"corpus.sha256 has {len(params.sha256)} digests for {len(files)} files; give one for "
            "each, those of train before those of valid, or none"
        )
    for path, digest in zip(files, params.sha256, strict=False):
        check_digest(path, digest, str(path))
    return list(train.values()), list(valid.values())


def _write_files(
    params: CorpusParams,
    folder: Path,
    train: list[Path],
    valid: list[Path],
    train_path: Path,
    valid_path: Path,
) -> None:
    """Write the documents of `train` and `valid`, or of `train` alone, split in two.

    `folder` is where the two texts belong in the end.
    """
    files = train + valid
    # the size of the text in a compressed or structured file is known only after reading it
    plain = {check_head(path) for path in files} == {".txt"}
    total = sum(path.stat().st_size for path in files) if plain else None
    check_space(folder, total or 0)
    with byte_bar("corpus", total) as on_bytes:
        if valid:
            copy_files(train, params.text_field, train_path, on_bytes)
            copy_files(valid, params.text_field, valid_path, on_bytes)
        else:
            split_files(
                train, params.text_field, params.valid_fraction, train_path, valid_path, on_bytes
            )
