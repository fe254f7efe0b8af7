"""The section `corpus` of params.yaml."""

import re
from typing import Any

import pytest

from lmlib.corpus import CorpusParams
from lmlib.params import from_dict

VALUES: dict[str, Any] = {
    "source": "toystories",
    "seed": 0,
    "train_bytes": 1000,
    "valid_bytes": 100,
    "dataset": "",
    "revision": "main",
    "train": [],
    "valid": [],
    "text_field": "text",
    "valid_fraction": 0.01,
    "sha256": [],
    "keep": "copy",
}


def read(**changes: Any) -> CorpusParams:
    return from_dict(CorpusParams, VALUES | changes, "params.yaml: corpus")


def test_a_source_ignores_the_keys_of_another() -> None:
    assert read(train=["a.txt"], valid_fraction=7.0).source == "toystories"
    assert read(source="local", train=["a.txt"], train_bytes=-1).train == ("a.txt",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "owl"}, "source is 'owl'; choose one of toystories, tinystories, owt"),
        ({"train_bytes": 0}, "train_bytes is 0; it must be from 1 to 10**12"),
        ({"valid_bytes": 10**400}, "; it must be from 1 to 10**12"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 2**63 - 1"),
        ({"seed": 10**400}, "; it must be from 0 to 2**63 - 1"),
        ({"source": "local"}, "train is empty, but source is local; list paths or globs there"),
        ({"source": "url"}, "train is empty, but source is url; list addresses there"),
        ({"source": "local", "train": [""]}, "train holds an empty text"),
        ({"source": "local", "train": ["a"], "valid_fraction": 1.0}, "valid_fraction is 1.0"),
        ({"source": "local", "train": ["a"], "text_field": ""}, "text_field is empty"),
        ({"source": "local", "train": ["a"], "sha256": ["12"]}, "sha256 holds '12'"),
        ({"source": "hub", "dataset": "me/books"}, "train is empty, but source is hub; list paths"),
        ({"source": "hub", "train": ["*"]}, "dataset is '', but source is hub; write the name"),
        (
            {"source": "hub", "train": ["*"], "dataset": "https://hub/me/books"},
            "dataset is 'https://hub/me/books', but source is hub; write the name",
        ),
        (
            {"source": "hub", "train": ["*"], "dataset": "books", "revision": ""},
            "revision is ''; write a branch, a tag or a commit",
        ),
        (
            {"source": "hub", "train": ["*"], "dataset": "books", "sha256": ["0" * 64]},
            "sha256 is not empty, but source is hub, which knows the digests",
        ),
        ({"keep": "link"}, "keep is 'link'; choose one of copy, reference"),
        (
            {"source": "url", "train": ["a", "b"], "sha256": ["0" * 64]},
            "sha256 has 1 digests for 2 addresses",
        ),
    ],
)
def test_values_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"params.yaml: corpus.*{re.escape(message)}"):
        read(**changes)


def test_validation_files_make_the_fraction_unread() -> None:
    assert read(source="local", train=["a"], valid=["b"], valid_fraction=0.0).valid == ("b",)


@pytest.mark.parametrize("source", ["toystories", "local", "url"])
@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("https://me:SECRET@host/a.txt", "a user name or a password"),
        ("https://SECRET@host/a.txt", "a user name or a password"),
        ("HTTPS://me:SEC@RET@host/a.txt", "a user name or a password"),
        ("ftp://me:SECRET@host/a.txt", "a user name or a password"),
        ("s3://SECRET:KEY@bucket/a.txt", "a user name or a password"),
        ("zip://a.txt::https://me:SECRET@host/a.zip", "a user name or a password"),
        ("https://host/a.txt?token=SECRET", "a query that may be secret"),
        ("https://host/a.txt?SECRET", "a query that may be secret"),
        ("https://host/a.txt?download=true&X-Amz-Signature=SECRET", "a query that may be secret"),
        ("https://host/a.txt?raw=1;sig=SECRET", "a query that may be secret"),
        ("https://host/a b'<c.txt?key=SECRET", "a query that may be secret"),
        ("zip://a.txt?raw=1::https://host/a.zip?key=SECRET", "a query that may be secret"),
        ("https://host/a.txt#SECRET", "a fragment"),
        ("https://host/a.txt?download=true#SECRET", "a fragment"),
    ],
)
def test_an_address_with_a_secret_is_refused(source: str, address: str, what: str) -> None:
    """By every source: dvc.lock has all params, and MLflow too. The error does not show it."""
    for changes in ({"train": ["a", address]}, {"train": ["b"], "valid": ["a", address]}):
        with pytest.raises(
            ValueError,
            match=rf"^params\.yaml: corpus: {list(changes)[-1]}\[1\] is an address with {what}, .*"
            r"the environment .* ~/\.netrc .* configuration of fsspec .* set source to local$",
        ) as caught:
            read(source=source, **changes)
        assert not re.search("SEC|RET|KEY", str(caught.value))


@pytest.mark.parametrize("address", ["https://me:SEC/RET@host/a.txt", "https://me:SEC[@host/a.txt"])
def test_an_address_with_a_secret_that_is_misspelt(address: str) -> None:
    with pytest.raises(
        ValueError, match=r"corpus: train\[0\] is not an address; .*netrc"
    ) as caught:
        read(source="url", train=[address])
    assert "SEC" not in str(caught.value)


def test_addresses_and_names_without_secrets() -> None:
    addresses = ["https://host/a@1/b.txt?download=true&ref=main", "s3://bucket/a.txt?versionId=x"]
    addresses += ["simplecache::https://host:80/a.txt", "zip://a.txt::https://host/a.txt"]
    assert read(source="url", train=addresses).train == tuple(addresses)
    names = ["me@host?key=1#2.txt", "a:b.txt", "/data/a?.txt"]
    assert read(source="local", train=names).train == tuple(names)


@pytest.mark.parametrize(
    "other",
    ["https://host/a b.txt", "HTTPS://Host/x/../a%20b.txt", "https://host//./a%20b.txt"],
)
def test_an_address_is_listed_once(other: str) -> None:
    for changes in ({"train": ["https://host/a%20b.txt", other]}, {"valid": [other]}):
        with pytest.raises(ValueError, match=r"corpus: https://host/a b\.txt is listed twice"):
            read(**({"source": "url", "train": ["https://host/a%20b.txt"]} | changes))
