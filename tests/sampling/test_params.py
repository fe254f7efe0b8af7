"""lmlib/sampling/params.py: what is rejected."""

from dataclasses import replace
from typing import Any

import pytest

from tests.sampling.scripted import SAMPLING


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("a", "")}, "prompts holds an empty text"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be from 1 to 10"),
        (
            {"seed": 2**63 - 1, "num_samples": 2},
            r"seed is .*\+ num_samples must be at most 2\*\*63",
        ),
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0, or from 1e-30"),
        ({"top_k": -1}, "top_k is -1; it must be from 0 to 10"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be from 1e-30 to 1"),
        ({"min_p": 1.1}, r"min_p is 1.1; it must be in \[0, 1\]"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be from 1e-30 to 1e30"),
        ({"num_samples": 0}, "num_samples is 0; it must be from 1 to 10"),
        ({"stop": ("",)}, "stop holds an empty text"),
        ({"top_p": 1.1}, r"top_p is 1.1; it must be from 1e-30 to 1"),
        ({"top_p": 1e-300}, r"top_p is 1e-300; it must be from 1e-30 to 1"),
        ({"temperature": 1e-320}, r"temperature is 1e-320; it must be 0, or from 1e-30"),
    ],
)
def test_params_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SAMPLING, **changes)
