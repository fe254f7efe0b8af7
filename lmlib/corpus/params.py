"""The section `corpus` of params.yaml."""

import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from lmlib.params import Count, Seed, check_bounds

LOGINS = (
    "the environment (AWS_PROFILE, ...), in ~/.netrc (http) or in the configuration of fsspec "
    "(~/.config/fsspec/*.json)"
)
# what may stand in the query of an address; anything else may be a secret
PUBLIC_QUERIES = {"download", "dl", "raw", "format", "ref", "revision", "version", "versionid"}


@dataclass(frozen=True)
class _ToyStories:
    """The numbers that the source toystories reads, with their limits."""

    seed: Seed
    train_bytes: Count
    valid_bytes: Count


@dataclass(frozen=True)
class CorpusParams:
    """Where the text comes from. A source reads its own keys and ignores the others.

    toystories              seed, train_bytes, valid_bytes
    tinystories, owt        keep
    local, url              train, valid, text_field, valid_fraction, sha256, keep
    hub                     dataset, revision, train, valid, text_field, valid_fraction, keep

    Raises ValueError if a key that `source` reads has an invalid value, and for an address with a
    secret: params are kept in dvc.lock, in DVC's caches and in MLflow.
    """

    source: Literal["toystories", "tinystories", "owt", "local", "url", "hub"]
    seed: int
    train_bytes: int
    valid_bytes: int
    dataset: str  # hub: OWNER/NAME
    revision: str  # hub: a branch, tag or commit
    train: tuple[str, ...]  # local, hub: paths or globs; url: addresses
    valid: tuple[str, ...]  # empty: split `train` by a hash of each document
    text_field: str  # the field of .jsonl and the column of .parquet that holds the text
    valid_fraction: float  # of the documents, if `valid` is empty
    sha256: tuple[str, ...]  # of each file, train before valid; empty: not checked
    keep: Literal["copy", "reference"]  # reference: the files are read where they are

    def __post_init__(self) -> None:
        for name in ("train", "valid"):
            for number, address in enumerate(getattr(self, name)):
                if "://" in address:
                    _check_public(address, f"{name}[{number}]")
        if self.source == "toystories":
            check_bounds(_ToyStories(self.seed, self.train_bytes, self.valid_bytes))
        elif self.source in ("local", "url", "hub"):
            self._check_files()

    def _check_files(self) -> None:
        kind = "addresses" if self.source == "url" else "paths or globs"
        if self.source == "hub":
            self._check_hub()
        if not self.train:
            raise ValueError(f"train is empty, but source is {self.source}; list {kind} there")
        for name in ("train", "valid"):
            if "" in getattr(self, name):
                raise ValueError(f"{name} holds an empty text; its items should be {kind}")
        if not self.valid and not 0 < self.valid_fraction < 1:
            raise ValueError(
                f"valid_fraction is {self.valid_fraction}; it should be between 0 and 1, "
                "or name validation files in valid"
            )
        if not self.text_field:
            raise ValueError("text_field is empty; write the name of the field, usually `text`")
        for digest in self.sha256:
            if not re.fullmatch("[0-9a-fA-F]{64}", digest):
                raise ValueError(f"sha256 holds {digest!r}; a digest has 64 hexadecimal digits")
        if self.source == "url":
            for address, count in Counter(map(_spelled, self.train + self.valid)).items():
                if count > 1:
                    raise ValueError(f"{address} is listed twice in train and valid; list it once")
        # the files of a local corpus are counted when its globs are expanded
        addresses = len(self.train) + len(self.valid)
        if self.source == "url" and self.sha256 and len(self.sha256) != addresses:
            raise ValueError(
                f"sha256 has {len(self.sha256)} digests for {addresses} addresses; give one for "
                "each, those of train before those of valid, or none"
            )

    def _check_hub(self) -> None:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.dataset, re.ASCII):
            raise ValueError(
                f"dataset is {self.dataset!r:.80}, but source is hub; write the name of a data "
                "set, as in HuggingFaceFW/fineweb-edu"
            )
        if not re.fullmatch(r"[\w./+-]+", self.revision):
            raise ValueError(
                f"revision is {self.revision!r:.80}; write a branch, a tag or a commit, usually "
                "`main`"
            )
        if self.sha256:
            raise ValueError("sha256 is not empty, but source is hub, which knows the digests")


def _check_public(address: str, where: str) -> None:
    """Raise ValueError, which does not show the address, if a part of it may be secret."""
    for link in re.split(r"::(?=[\w+.-]+://)", address):  # fsspec joins addresses with ::
        try:
            parts = urlsplit(link)
            parts.port  # noqa: B018 - a password with a slash is taken for a port
        except ValueError:
            raise ValueError(
                f"{where} is not an address; correct it, and keep a user name or password out of "
                f"it: give them in {LOGINS}"
            ) from None
        queries = {item.partition("=")[0].lower() for item in re.split("[&;]", parts.query) if item}
        found = {
            "a user name or a password": "@" in parts.netloc,
            "a query that may be secret": queries - PUBLIC_QUERIES,
            "a fragment": "#" in link,
        }
        for what, is_there in found.items():
            if is_there:
                raise ValueError(
                    f"{where} is an address with {what}, which dvc.lock and MLflow would keep; "
                    f"write it without, and give a login in {LOGINS}, or download the file and set "
                    "source to local"
                )


def _spelled(address: str) -> str:
    """Return an address in one spelling."""
    parts = urlsplit(address)
    path = posixpath.normpath("/" + unquote(parts.path).lstrip("/"))
    return parts._replace(netloc=parts.netloc.lower(), path=path).geturl()
