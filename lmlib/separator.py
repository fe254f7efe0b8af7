"""The text between two documents, in corpora and as a special token."""

import os
from collections.abc import Mapping
from pathlib import Path

SEPARATOR = "<|endoftext|>"
TAIL_BYTES = 1 << 16  # of a file, in which its last separator should be


def separator_id(special_ids: Mapping[str, int]) -> int | None:
    """Return the separator's id among a tokenizer's `special_ids`; None if it is not a token."""
    return special_ids.get(SEPARATOR)


def ends_with_separator(path: Path) -> bool:
    """Return whether at most white space follows the last separator of a text file."""
    return file_tail(path).rstrip().endswith(SEPARATOR.encode())


def file_tail(path: Path) -> bytes:
    """Return the last TAIL_BYTES of a file, or all of a shorter one."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read()
