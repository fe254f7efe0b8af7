"""The files that a corpus consists of, found before any of them is read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmlib.corpus import hub
from lmlib.corpus.documents import file_format
from lmlib.corpus.find import find_files
from lmlib.corpus.params import CorpusParams

# the data sets with a name of their own: data set, training file, validation file
NAMED = {
    "tinystories": (
        "roneneldan/TinyStories",
        "TinyStoriesV2-GPT4-train.txt",
        "TinyStoriesV2-GPT4-valid.txt",
    ),
    "owt": ("stanford-cs336/owt-sample", "owt_train.txt.gz", "owt_valid.txt.gz"),
}


@dataclass(frozen=True)
class Source:
    """A file of a corpus: where it is, and what it must contain.

    address    a path, https://..., s3://..., or hf://datasets/NAME@COMMIT/PATH
    num_bytes  None: not known
    digest     "sha256:" or "git:" (a git blob's) and the digits; "": not known
    version    of a file at an address without a digest, what its server says of it; "": not known
    """

    address: str
    num_bytes: int | None = None
    digest: str = ""
    version: str = ""

    @property
    def is_local(self) -> bool:
        """Return whether the address is a path."""
        return "://" not in self.address


def find_sources(params: CorpusParams, root: Path) -> tuple[list[Source], list[Source]]:
    """Return the files of train and of valid, in order; paths are absolute.

    Only a directory is read, of this machine or of the Hub. Raises ValueError for a file of unknown
    format, a file in both lists, or another number of digests than of files; FileNotFoundError for
    a glob that matches nothing; ConnectionError if the Hub cannot be reached.
    """
    if params.source == "local":
        return _local(params, root)
    if params.source == "url":
        for address in params.train + params.valid:
            if "://" not in address:
                raise ValueError(
                    f"corpus.source=url: {address} is a file of this machine; set "
                    "corpus.source=local and name its path"
                )
        digests = params.sha256 or ("",) * len(params.train + params.valid)
        return _divided(
            [
                Source(address, digest=_sha256(digest))
                for address, digest in zip(params.train + params.valid, digests, strict=True)
            ],
            len(params.train),
        )
    dataset, revision, train, valid = params.dataset, params.revision, params.train, params.valid
    if params.source in NAMED:
        dataset, *names = NAMED[params.source]
        revision, (train, valid) = "main", ((name,) for name in names)
    listing = hub.list_files(params.source, dataset, revision, train + valid)
    found = hub.select(listing, train, "corpus.train"), hub.select(listing, valid, "corpus.valid")
    twice = found[0].keys() & found[1].keys()
    if twice:
        raise ValueError(
            f"corpus: {min(twice)} is in corpus.train and in corpus.valid; remove it from one"
        )
    sources = [
        Source(listing.address(path), size, digest)
        for files in found
        for path, (size, digest) in files.items()
    ]
    return _divided(sources, len(found[0]))


def _local(params: CorpusParams, root: Path) -> tuple[list[Source], list[Source]]:
    train, valid = find_files(params.train, root), find_files(params.valid, root)
    for identity, path in valid.items():
        if identity in train:
            other = "" if train[identity] == path else f" (as {train[identity]})"
            raise ValueError(
                f"corpus: {path} is in corpus.train{other} and in corpus.valid; remove it from one"
            )
    files = [*train.values(), *valid.values()]
    if params.sha256 and len(params.sha256) != len(files):
        raise ValueError(
            f"corpus.sha256 has {len(params.sha256)} digests for {len(files)} files; give one for "
            "each, those of train before those of valid, or none"
        )
    digests = params.sha256 or ("",) * len(files)
    sources = [
        Source(os.path.abspath(path), path.stat().st_size, _sha256(digest))  # noqa: PTH100 - links stay
        for path, digest in zip(files, digests, strict=True)
    ]
    return _divided(sources, len(train))


def _divided(sources: Sequence[Source], num_train: int) -> tuple[list[Source], list[Source]]:
    """Return the sources of train and of valid; raise ValueError for an unknown format."""
    for source in sources:
        file_format(name_of(source.address))  # reject unusable names before reading anything
    return list(sources[:num_train]), list(sources[num_train:])


def _sha256(digits: str) -> str:
    return digits and f"sha256:{digits.lower()}"


def name_of(address: str) -> str:
    """Return the name of the file at an address, without what may be secret."""
    path = address.partition("?")[0].partition("#")[0] if "://" in address else address
    return path.rpartition("/")[2]
