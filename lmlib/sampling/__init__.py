"""Sampling: distributions, token generation for batches of prompts, and texts."""

from lmlib.sampling.decoders import cast_matrices
from lmlib.sampling.generation import Generation, generate, require_sampling_memory
from lmlib.sampling.params import SamplingParams
from lmlib.sampling.text import (
    Sample,
    TextStream,
    generate_samples,
    generate_text,
    stream_text,
)
from lmlib.sampling.warpers import (
    apply_temperature,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
    penalise_repetition,
)

__all__ = [
    "Generation",
    "Sample",
    "SamplingParams",
    "TextStream",
    "apply_temperature",
    "cast_matrices",
    "generate",
    "generate_samples",
    "generate_text",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "next_token_probabilities",
    "penalise_repetition",
    "require_sampling_memory",
    "stream_text",
]
