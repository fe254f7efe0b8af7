"""The section `tokenizer` of params.yaml."""

from dataclasses import dataclass
from typing import Annotated

from lmlib.params import Bound, CountOrZero, check_bounds
from lmlib.tokenizer.patterns import find_pattern

VocabSize = Annotated[int, Bound("from 256 to 2**31 - 1", lambda n: 256 <= n < 1 << 31)]


@dataclass(frozen=True)
class TokenizerParams:
    """Size of the vocabulary (256 bytes and the special tokens included), and how text is split.

    pattern:       gpt2, cl100k (GPT-4), o200k (GPT-4o), or an expression in the syntax of `regex`
    sample_bytes:  how much of the training text it is learnt from, spread evenly; 0: all
    """

    vocab_size: VocabSize
    special_tokens: tuple[str, ...]
    pattern: str
    sample_bytes: CountOrZero

    def __post_init__(self) -> None:
        check_bounds(self)
        find_pattern(self.pattern)
        smallest = 256 + len(self.special_tokens)
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; 256 bytes and {len(self.special_tokens)} "
                f"special tokens need at least {smallest}"
            )
        if "" in self.special_tokens:
            raise ValueError("special_tokens holds an empty string; remove it")
        if len(set(self.special_tokens)) < len(self.special_tokens):
            raise ValueError("special_tokens lists a token twice; remove one")
