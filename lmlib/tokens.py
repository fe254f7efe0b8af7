"""Token files: what a file of token ids was made from, and how many documents it contains."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lmlib.files import read_json, write_json
from lmlib.params import from_dict


@dataclass(frozen=True)
class TokenInfo:
    """What a token file was made from; kept next to `NAME.npy` as `NAME.json`.

    tokens:            number of token ids in the file
    vocab_size:        size of the tokenizer's vocabulary; every id is below it
    tokenizer_sha256:  hash of the tokenizer's tokenizer.json
    source_bytes:      bytes of the text that was encoded, separators included
    documents:         texts between separators
    """

    tokens: int
    vocab_size: int
    tokenizer_sha256: str
    source_bytes: int
    documents: int


def read_token_info(path: str | Path) -> TokenInfo:
    """Return what the token file `path` was made from; errors as in `read_json`, `from_dict`."""
    sidecar = Path(path).with_suffix(".json")
    values = read_json(sidecar, missing="missing; it says what the token file was made from")
    return from_dict(TokenInfo, values, where=str(sidecar))


def write_token_info(path: str | Path, info: TokenInfo) -> None:
    """Write next to the token file `path` what it was made from."""
    write_json(Path(path).with_suffix(".json"), asdict(info))


def count_documents(tokens: np.ndarray, separator_id: int | None, blank_ids: set[int]) -> int:
    """Return the number of documents; each ends with the separator, except perhaps the last.

    Tokens after the last separator are not a document if all are in `blank_ids` (tokens of white
    space), as after a newline at the end of the file. A text without separators is one document.
    """
    if separator_id is None:
        return min(len(tokens), 1)
    separators = sum(int((block == separator_id).sum()) for block in blocks(tokens))
    end = len(tokens)
    while end and int(tokens[end - 1]) in blank_ids:
        end -= 1
    return separators + int(end > 0 and tokens[end - 1] != separator_id)


def blocks(tokens: np.ndarray, size: int = 1 << 22) -> Iterator[np.ndarray]:
    """Yield the array in pieces, so that memory stays bounded."""
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]
