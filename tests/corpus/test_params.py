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
    "train": [],
    "valid": [],
    "text_field": "text",
    "valid_fraction": 0.01,
    "sha256": [],
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
        ({"train_bytes": 0}, "train_bytes is 0; it should be above 0"),
        ({"source": "local"}, "train is empty, but source is local; list paths or globs there"),
        ({"source": "url"}, "train is empty, but source is url; list addresses there"),
        ({"source": "local", "train": [""]}, "train holds an empty text"),
        ({"source": "local", "train": ["a"], "valid_fraction": 1.0}, "valid_fraction is 1.0"),
        ({"source": "local", "train": ["a"], "text_field": ""}, "text_field is empty"),
        ({"source": "local", "train": ["a"], "sha256": ["12"]}, "sha256 holds '12'"),
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
