"""How to sample: the section `sampling` of params.yaml."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lmlib.params import (
    Count,
    CountOrZero,
    Fraction,
    FractionAboveZero,
    Positive,
    PositiveOrZero,
    Seed,
    check_bounds,
)


@dataclass(frozen=True)
class SamplingParams:
    """How to continue prompts: the section `sampling` of params.yaml.

    temperature:         divides the logits; 0 takes the most likely token
    top_k:               keep the k most likely tokens; 0 keeps all
    top_p:               keep the most likely tokens that together reach probability p; 1 keeps all
    min_p:               keep tokens at least p times as likely as the top one; 0 keeps all
    repetition_penalty:  penalises tokens of the prompt and of the text so far; 1 is none
    num_samples:         continuations of each prompt; the j-th is drawn with seed + j
    stop:                texts that end a continuation and are not part of it
    beyond_context:      slide: continue with the newest half of the context; stop: end when full
    allow_special:       read special tokens in a prompt as such; otherwise they are ordinary text
    """

    prompts: tuple[str, ...]
    max_tokens: Count
    temperature: Annotated[PositiveOrZero, "0: the most likely token"]
    top_k: Annotated[CountOrZero, "0: all tokens"]
    top_p: Annotated[FractionAboveZero, "1: all tokens"]
    seed: Seed
    num_samples: Count = 1
    min_p: Annotated[Fraction, "0: all tokens"] = 0.0
    repetition_penalty: Annotated[Positive, "1: none"] = 1.0
    stop: tuple[str, ...] = ()
    beyond_context: Literal["slide", "stop"] = "slide"
    allow_special: bool = False

    def __post_init__(self) -> None:
        for name in ("prompts", "stop"):
            if not all(getattr(self, name)):
                raise ValueError(f"{name} holds an empty text; each needs at least one character")
        check_bounds(self)
        if self.seed + self.num_samples > 1 << 63:
            raise ValueError(
                f"seed is {self.seed}, and num_samples {self.num_samples}: seed + num_samples must "
                "be at most 2**63, since sample j is drawn with seed + j; lower seed"
            )
