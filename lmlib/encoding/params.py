"""The section `encode` of params.yaml."""

from dataclasses import dataclass

from lmlib.params import Count, check_bounds


@dataclass(frozen=True)
class EncodeParams:
    """The section `encode` of params.yaml.

    shard_tokens:  the most ids that a file may have; it changes the files, and nothing else
    """

    shard_tokens: Count

    def __post_init__(self) -> None:
        check_bounds(self)
