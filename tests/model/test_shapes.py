"""The weights of a model, known without building it."""

from itertools import product
from typing import Any

import pytest

from lmlib.checkpoint import plain_state_dict
from lmlib.model import ModelParams, TransformerLM, count_weights, model_bytes, weight_shapes

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
