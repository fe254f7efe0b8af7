"""The weights of a model, known without building it."""

from itertools import product
from typing import Any

import pytest
import torch

from lmlib.checkpoint import plain_state_dict
from lmlib.model import (
    ModelParams,
    TransformerLM,
    count_weights,
    flops_per_token,
    model_bytes,
    weight_shapes,
)
from tests.model.test_transformer import each_variation
from tests.model.test_transformer import model as variation

TINY: dict[str, Any] = {
    "context_length": 8,
    "d_model": 4,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 6,
}
OPTIONS = list(
    product(["pre", "post", "none"], ["swiglu", "silu", "relu2"], [False, True], [False, True])
)


@pytest.mark.parametrize(("norm", "ffn", "qk_norm", "tie"), OPTIONS)
def test_weights_are_those_of_the_model(norm: Any, ffn: Any, qk_norm: bool, tie: bool) -> None:
    options: dict[str, Any] = {"norm": norm, "ffn": ffn, "qk_norm": qk_norm, "tie_embeddings": tie}
    for num_kv_heads in (0, 1, 2, 4):
        check_weights(ModelParams(8, 16, 3, 4, 7, num_kv_heads, **options))


def check_weights(params: ModelParams) -> None:
    model = TransformerLM(params, 11)
    state = plain_state_dict(model)
    if params.tie_embeddings:
        del state["lm_head.weight"]
    assert dict(weight_shapes(params, 11)) == {name: tuple(w.shape) for name, w in state.items()}
    assert count_weights(params, 11) == model.num_parameters()


def test_memory_is_that_of_weights_and_buffers() -> None:
    """RoPE's tables are the only buffers, and all layers share them."""
    params = ModelParams(8, 12, 3, 2, 7)
    model = TransformerLM(params, 11)
    tensors = {id(tensor): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    assert model_bytes(params, 11) == sum(tensors.values())


def test_params_of_any_size_are_counted_at_once() -> None:
    assert count_weights(ModelParams(1, 10**12, 10**12, 1, 10**12), 10**12) > 10**36


# -- floating-point operations of a token in a training step


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_operations_by_hand(tie_embeddings: bool) -> None:
    """Two layers of 4 * 4 * 4 + 3 * 4 * 6 weights, an output of 4 * 10; half of 12 * 2 * 4 * 8.

    The embedding table counts in neither model: tied, its matrix counts as the output's.
    """
    params = ModelParams(**TINY, tie_embeddings=tie_embeddings)
    assert flops_per_token(params, 10) == 6 * (2 * (64 + 72) + 40) + 12 * 2 * 4 * 4


@pytest.mark.parametrize(
    ("changes", "matrices", "pairs"),
    [
        ({"num_kv_heads": 1}, 2 * (48 + 72) + 40, 64 // 2),  # half of two matrices of 4 * 4 less
        ({"attention_window": 2}, 2 * (64 + 72) + 40, 8 * 2 - 2),
        ({"attention_window": 100}, 2 * (64 + 72) + 40, 64 // 2),
    ],
)
def test_operations_of_groups_and_windows(
    changes: dict[str, Any], matrices: int, pairs: int
) -> None:
    """A window of 2 misses half a square of 2 * 2 at the start of the text of 8."""
    params = ModelParams(**TINY, **changes)
    assert flops_per_token(params, 10) == 6 * matrices + 12 * 2 * 4 * pairs // 8


@each_variation
def test_operations_are_those_that_pytorch_counts(changes: dict[str, Any]) -> None:
    """Of a step with plain attention, which computes the pairs that the mask hides, too."""
    from torch.utils.flop_counter import FlopCounterMode

    model = variation(attention="plain", **changes)
    params, tokens = model.params, model.params.context_length
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, tokens, dtype=torch.long)).sum().backward()
    window = params.attention_window or tokens
    seen = window * (2 * tokens - window) / 2
    hidden = 12 * params.num_layers * params.d_model * (tokens**2 - seen)
    expected = tokens * flops_per_token(params, model.vocab_size) + hidden
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)
