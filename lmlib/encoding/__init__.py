"""Texts to shards of token ids, of which only those whose text has changed are made again."""

from lmlib.encoding.encode import encode_texts
from lmlib.encoding.encoder import Text
from lmlib.encoding.params import EncodeParams
from lmlib.encoding.workshop import remove_others

__all__ = ["EncodeParams", "Text", "encode_texts", "remove_others"]
