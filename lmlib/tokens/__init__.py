"""Token ids: files of them, and a folder of such files as one array."""

from lmlib.tokens.ids import (
    TokenInfo,
    Tokens,
    blocks,
    find_separators,
    first_separators,
    last_id,
    read_tokens,
)
from lmlib.tokens.index import INDEX
from lmlib.tokens.shards import is_checked, open_tokens

__all__ = [
    "INDEX",
    "TokenInfo",
    "Tokens",
    "blocks",
    "find_separators",
    "first_separators",
    "is_checked",
    "last_id",
    "open_tokens",
    "read_tokens",
]
