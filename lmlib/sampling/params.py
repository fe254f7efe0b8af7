"""How to sample: the section `sampling` of params.yaml."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SamplingParams:
    """How to continue prompts: the section `sampling` of params.yaml.

    temperature:         divides the logits; 0 takes the most likely token
    top_k:               keep the k most likely tokens; 0 keeps all
    top_p:               keep the most likely tokens that together reach probability p; 1 keeps all
    min_p:               keep tokens with at least this share of the top probability; 0 keeps all
    repetition_penalty:  for tokens of the prompt and of the text; 1: no penalty
    num_samples:         continuations of each prompt; the j-th is drawn with seed + j
    stop:                texts that end a continuation and are not part of it
    beyond_context:      slide: keep the newest half of a full context; stop: end there
    """

    prompts: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    num_samples: int = 1
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    beyond_context: Literal["slide", "stop"] = "slide"

    def __post_init__(self) -> None:
        for name in ("prompts", "stop"):
            if not all(getattr(self, name)):
                raise ValueError(f"{name} holds an empty text; each needs at least one character")
        for name in ("max_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.temperature >= 0:
            raise ValueError(
                f"temperature is {self.temperature}; it must be at least 0 (0: the top token)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 0 (0: all tokens)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be in (0, 1] (1: all tokens)")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must be in [0, 1] (0: all tokens)")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1: none)"
            )
