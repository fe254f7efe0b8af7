"""The weights of a model, known without building it."""

from itertools import product

import pytest

from lmlib.checkpoint import plain_state_dict
from lmlib.model import ModelParams, TransformerLM, count_weights, model_bytes, weight_shapes

OPTIONS = list(product(["pre", "post", "none"], ["swiglu", "silu"], [False, True]))


@pytest.mark.parametrize(("norm", "ffn", "tie"), OPTIONS)
def test_weights_are_those_of_the_model(norm: str, ffn: str, tie: bool) -> None:
    params = ModelParams(8, 12, 3, 2, 7, norm=norm, ffn=ffn, tie_embeddings=tie)
    model = TransformerLM(params, 11)
    state = plain_state_dict(model)
    if tie:
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
