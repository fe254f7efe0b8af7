"""The text between two documents, in corpora and as a special token."""

from collections.abc import Mapping

SEPARATOR = "<|endoftext|>"


def separator_id(special_ids: Mapping[str, int]) -> int | None:
    """Return the separator's id among a tokenizer's `special_ids`; None if it is not a token."""
    return special_ids.get(SEPARATOR)
