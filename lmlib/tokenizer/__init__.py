"""Byte-level BPE from scratch: `train_bpe` learns a vocabulary, `Tokenizer` applies it."""

from lmlib.tokenizer.codec import Tokenizer
from lmlib.tokenizer.params import TokenizerParams
from lmlib.tokenizer.train import train_bpe

__all__ = ["Tokenizer", "TokenizerParams", "train_bpe"]
