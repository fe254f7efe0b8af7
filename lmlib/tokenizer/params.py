"""The section `tokenizer` of params.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenizerParams:
    """Size of the vocabulary (256 bytes and the special tokens included), and how text is split.

    pattern:  gpt2, cl100k (GPT-4), o200k (GPT-4o), or an expression in the syntax of `regex`
    """

    vocab_size: int
    special_tokens: tuple[str, ...]
    pattern: str

    def __post_init__(self) -> None:
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
