"""Token ids: a file of them, what they were made from, and where their documents end."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lmlib.params import Count, CountOrZero, check_bounds


@runtime_checkable
class Tokens(Protocol):
    """One row of token ids: an array, a memory map, or the shards of `lmlib.tokens.shards`.

    An index gives an id, a slice an array.
    """

    @property
    def dtype(self) -> np.dtype:
        """Return the type of the ids: uint16 or uint32 in files."""
        ...

    @property
    def nbytes(self) -> int:
        """Return the bytes of all ids."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class TokenInfo:
    """What the tokens of a text were made from.

    tokens:            number of token ids
    vocab_size:        size of the tokenizer's vocabulary; every id is below it
    tokenizer_sha256:  hash of the tokenizer's tokenizer.json
    source_bytes:      bytes of the text that was encoded, separators included
    documents:         texts between separators
    separator_id:      the token between documents; None if the vocabulary has none
    """

    tokens: CountOrZero
    vocab_size: Count
    tokenizer_sha256: str
    source_bytes: CountOrZero
    documents: CountOrZero
    separator_id: int | None = None

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.separator_id is not None and not 0 <= self.separator_id < self.vocab_size:
            raise ValueError(
                f"separator_id is {self.separator_id}; the ids are 0 to {self.vocab_size - 1}"
            )
        if self.tokens and not self.source_bytes:
            raise ValueError(f"source_bytes is 0, but tokens is {self.tokens}")


# version 1.0 of the format, as we and NumPy write it, in at most 10 + 65,535 bytes
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"(\{'descr': '([^']*)', 'fortran_order': (?:False|True), 'shape': \(([^)]*)\), \} *\n)",
    re.DOTALL,
)
_HEADER_BYTES = 10 + 0xFFFF


def read_tokens(path: str | Path) -> np.ndarray:
    """Return the ids in a .npy file as a read-only memory map.

    The header is compared with the size of the file first: NumPy trusts headers, and some of them
    crash it. Raises FileNotFoundError if there is no file, ValueError if it holds anything but
    one row of uint16 or uint32.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such token file")
    if not path.is_file():
        raise ValueError(f"{path}: not a token file, but a folder or a device")
    with path.open("rb") as file:
        header = _HEADER.match(file.read(_HEADER_BYTES))
        size = file.seek(0, os.SEEK_END)
    if not header or len(header[2]) != int.from_bytes(header[1], "little"):
        raise ValueError(f"{path}: truncated, or not a token file (no header of one)")
    descr, shape = header[3].decode("ascii", "replace"), header[4].decode("ascii", "replace")
    dtype = {np.dtype(kind).str: np.dtype(kind) for kind in (np.uint16, np.uint32)}.get(descr)
    length = re.fullmatch(r"(\d{1,18}),", shape, re.ASCII)
    if dtype is None or length is None:
        raise ValueError(
            f"{path}: holds {descr:.20} of shape ({shape:.80}); a token file holds one row of "
            "uint16 or uint32"
        )
    needed = header.end() + int(length[1]) * dtype.itemsize
    if size != needed:
        raise ValueError(
            f"{path}: truncated, or not a token file ({size:,} bytes, and {needed:,} by its header)"
        )
    return np.memmap(path, dtype, mode="r", offset=header.end(), shape=(int(length[1]),))


def last_id(parts: Iterable[Tokens], blank_ids: set[int]) -> int | None:
    """Return the last id that is not in `blank_ids`; None if there is none.

    parts:  of the ids, the last one first
    """
    for tokens in parts:
        for at in range(len(tokens) - 1, -1, -1):
            if (token_id := int(tokens[at])) not in blank_ids:
                return token_id
    return None


def first_separators(tokens: Tokens, separator_id: int | None, count: int) -> list[int]:
    """Return the indices of the first `count` separators; no more of the tokens is read."""
    found, first = [], 0
    for block in blocks(tokens) if separator_id is not None else ():
        found += (np.flatnonzero(block == separator_id)[: count - len(found)] + first).tolist()
        first += len(block)
        if len(found) == count:
            break
    return found


def find_separators(tokens: Tokens, separator_id: int | None) -> Int[np.ndarray, " separators"]:
    """Return the indices of all separators, block by block: a copy of the tokens is not needed."""
    found, first = [np.zeros(0, dtype=np.int64)], 0
    for block in blocks(tokens) if separator_id is not None else ():
        found.append(np.flatnonzero(block == separator_id) + first)
        first += len(block)
    return np.concatenate(found)


def blocks(tokens: Tokens, size: int = 1 << 22) -> Iterator[np.ndarray]:
    """Yield the array in pieces, so that memory stays bounded."""
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]
