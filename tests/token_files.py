"""Texts to encode, and folders of tokens written without the code that is tested."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmlib.tokens import TokenInfo


@dataclass(frozen=True)
class TextFile:
    """A text in a plain file."""

    path: Path
    digest: str | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    def open(self) -> AbstractContextManager[Path]:
        return nullcontext(self.path)


def write_tokens(
    folder: Path,
    tokens: np.ndarray,
    info: TokenInfo,
    lengths: Sequence[int] | None = None,
    **changes: Any,
) -> Path:
    """Write tokens as shards of the given lengths, by default one; return the folder.

    `changes` are made to the index.
    """
    folder.mkdir(parents=True)
    shards, parts = [], np.split(tokens, np.cumsum(lengths or [len(tokens)])[:-1])
    for number, part in enumerate(part for part in parts if len(part)):
        path = folder / f"{number:05d}.npy"
        np.save(path, part)
        shards.append(
            {
                "file": path.name,
                "tokens": len(part),
                "documents": int((part == info.separator_id).sum()),
                "largest_id": int(part.max()),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "source": "0" * 64,
            }
        )
    text = {"name": "a.txt", "bytes": info.source_bytes, "digest": None, "separator": "none"}
    index = {
        "format": 1,
        **asdict(replace(info, tokens=len(tokens))),
        "dtype": str(tokens.dtype),
        "shard_tokens": 10**9,
        "texts": [text | {"shards": len(shards)}],
        "shards": shards,
    }
    write_index(folder, index | changes)
    return folder


def write_index(folder: Path, index: Any) -> None:
    """Write an index and its digest."""
    content = (index if isinstance(index, str) else json.dumps(index)).encode()
    (folder / "index.json").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  index.json\n", encoding="utf-8")


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index as it is in the file."""
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))
