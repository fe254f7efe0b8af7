"""The index of a folder of tokens: its shards in order, and the texts they were made of.

A folder of tokens has the shards 00000.npy, 00001.npy, ..., an index.json with a record of each,
and SHA256SUMS with the digest of the index. The index has the digests of the shards.

Where shards are in a store, the folder has only the index and its digest; the index says which
store, and each shard is there under the name of its digest, as in s3://bucket/folder/SHA256.npy.
"""

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmlib.digests import check_digests, write_digests
from lmlib.files import read_json, write_json
from lmlib.params import Count, CountOrZero, check_bounds, from_dict
from lmlib.tokens.ids import TokenInfo

INDEX = "index.json"
# Raise it when a field of the index gets another meaning, or when some text gets other ids from the
# same tokenizer: `encode` then keeps no shards of before.
FORMAT = 1

Ending = Literal["own", "added", "none"]

_FILE = re.compile(r"([0-9]{5,12}|[0-9a-f]{64})\.npy", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def shard_name(number: int) -> str:
    """Return the name of the shard with this number, from 0."""
    return f"{number:05d}.npy"


@dataclass(frozen=True)
class Shard:
    """The record of one shard.

    file:        its name in the folder, or in the store
    tokens:      number of ids in it
    documents:   separators in it
    largest_id:  of its ids
    sha256:      of the file
    source:      digest of all that it was made from: text, tokenizer and settings
    """

    file: str
    tokens: int
    documents: int
    largest_id: int
    sha256: str
    source: str

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.file):
            raise ValueError(f"file is {self.file!r:.80}; a shard has a name such as 00000.npy")
        if not (0 <= self.documents <= self.tokens <= 10**12 and self.tokens):
            raise ValueError(
                f"tokens is {self.tokens} and documents is {self.documents}; a shard has at least "
                "one token, and no more documents than tokens"
            )
        if not 0 <= self.largest_id < 1 << 32:
            raise ValueError(f"largest_id is {self.largest_id}; ids have 32 bits")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r:.80}; it has 64 hexadecimal digits")


@dataclass(frozen=True)
class SourceText:
    """The record of one text that was encoded.

    name:       for people
    bytes:      of the text, without a separator that was added
    digest:     of the text, where its source knows one
    separator:  own (the text ends with one), added (one was put after it), none (the last text)
    shards:     number of shards made of it
    """

    name: str
    bytes: CountOrZero
    digest: str | None
    separator: Ending
    shards: CountOrZero

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class TokenIndex:
    """What a folder of tokens contains: its shards in order, and the texts that they were made of.

    info:          of all shards together
    dtype:         of the ids in each shard
    shard_tokens:  the most ids that a shard may have
    store:         the address at which the shards are; "": in the folder of the index
    """

    info: TokenInfo
    dtype: Literal["uint16", "uint32"]
    shard_tokens: Count
    texts: tuple[SourceText, ...]
    shards: tuple[Shard, ...]
    store: str = ""

    def __post_init__(self) -> None:
        check_bounds(self)
        tokens = sum(shard.tokens for shard in self.shards)
        if tokens != self.info.tokens:
            raise ValueError(f"the shards have {tokens} tokens, but `tokens` is {self.info.tokens}")
        if not self.store and len({shard.file for shard in self.shards}) < len(self.shards):
            raise ValueError("a file is listed twice; each shard has its own")
        of_texts = sum(text.shards for text in self.texts)
        if of_texts != len(self.shards):
            raise ValueError(
                f"the texts have {of_texts} shards, but `shards` has {len(self.shards)}"
            )

    @property
    def nbytes(self) -> int:
        """Return the bytes of all ids."""
        return self.info.tokens * np.dtype(self.dtype).itemsize


def write_index(folder: Path, index: TokenIndex) -> None:
    """Write the index of a folder and its digest."""
    values = {
        "format": FORMAT,
        **asdict(index.info),
        "dtype": index.dtype,
        "shard_tokens": index.shard_tokens,
        "texts": [asdict(text) for text in index.texts],
        "shards": [asdict(shard) for shard in index.shards],
        **({"store": index.store} if index.store else {}),
    }
    write_json(folder / INDEX, values)
    write_digests(folder, INDEX)


def read_index(folder: Path) -> TokenIndex:
    """Return the index of a folder of tokens; the shards themselves are not looked at.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or of another format.
    """
    check_digests(folder, INDEX)
    path = folder / INDEX
    values = read_json(path, missing="no such file; it says which shards make the tokens")
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path}: has the format {values.get('format')!r:.80}, and this version reads "
            f"{FORMAT}; encode the texts again"
        )
    del values["format"]
    of_info = {field.name for field in fields(TokenInfo)}
    info = {key: values.pop(key) for key in list(values) if key in of_info}
    for key, read in (("texts", _read_text), ("shards", read_shard)):
        if not isinstance(rows := values.get(key), list):
            raise ValueError(f"{path}.{key}: should be a list")
        values[key] = tuple(read(row, f"{path}: {key}[{i}]") for i, row in enumerate(rows))
    values.setdefault("store", "")
    values["info"] = from_dict(TokenInfo, info, where=str(path))
    index = from_dict(TokenIndex, values, where=str(path))
    for shard in index.shards:
        if shard.largest_id >= info["vocab_size"]:
            raise ValueError(
                f"{folder / shard.file}: holds token id {shard.largest_id}, but the vocabulary "
                f"ends at {info['vocab_size'] - 1}"
            )
    return index


def _read_text(values: Any, where: str) -> SourceText:
    return from_dict(SourceText, values, where)


_KINDS = {field.name: field.type for field in fields(Shard)}


def read_shard(values: Any, where: str) -> Shard:
    """Return the record of a shard; errors begin with `where`."""
    if not isinstance(values, dict) or {k: type(v) for k, v in values.items()} != _KINDS:
        return from_dict(Shard, values, where)  # says what is wrong; slow for thousands
    try:
        return Shard(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
