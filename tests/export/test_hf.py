"""The layout of Llama, Mistral and Qwen3, by hand, and what they cannot express."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import MistralConfig, Qwen3Config

from lmlib.export import hf_config, hf_obstacle, hf_state_dict
from lmlib.export.hf import QWEN3, from_hf, hf_params, to_halves, to_neighbours
from lmlib.model import ModelParams, TransformerLM
from tests.export.conftest import make_model


def test_rows_by_hand() -> None:
    """Two heads of size 4: in each, the pairs (0, 1), (2, 3) become (0, 2), (1, 3)."""
    rows = torch.arange(8.0)[:, None]
    halves = to_halves(rows, d_head=4)
    assert halves.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert to_neighbours(halves, d_head=4).equal(rows)


def test_rows_of_groups_by_hand() -> None:
    """Of one head of keys of size 8, the rows 0 to 7; of two of queries, each on its own."""
    model = make_model(5, d_model=16, num_heads=2, num_kv_heads=1)
    theirs, ours = hf_state_dict(model), model.state_dict()
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for name, rows in (("k", order), ("q", order + [8 + row for row in order])):
        found = theirs[f"model.layers.0.self_attn.{name}_proj.weight"]
        assert found.equal(ours[f"layers.0.attn.{name}_proj.weight"][rows])


def test_gains_of_queries_and_keys_move_with_their_rows() -> None:
    """Of heads of size 6: the pairs (0, 1), (2, 3), (4, 5) become (0, 3), (1, 4), (2, 5)."""
    model = make_model(17, num_heads=4, qk_norm=True)
    for name in ("layers.1.attn.q_norm.weight", "layers.0.attn.k_norm.weight"):
        model.get_parameter(name).data = torch.arange(6.0)
    state = hf_state_dict(model)
    for name in ("layers.1.self_attn.q_norm.weight", "layers.0.self_attn.k_norm.weight"):
        assert state[f"model.{name}"].tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("num_kv_heads", [0, 1])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tie", [True, False])
def test_state_dict_and_back(tie: bool, qk_norm: bool, num_kv_heads: int) -> None:
    model = make_model(17, tie=tie, num_heads=3, num_kv_heads=num_kv_heads, qk_norm=qk_norm)
    state = hf_state_dict(model)
    assert ("lm_head.weight" in state) is not tie
    back = from_hf(state, model.params)
    assert back.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert back[name].equal(weight)
    # some writers store the tied matrix under both names
    from_hf(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, model.params)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("norm", "post", "pre"),
        ("norm", "none", "pre"),
        ("position", "none", "rope"),
        ("ffn", "silu", "swiglu"),
        ("ffn", "relu2", "swiglu"),
        ("logit_softcap", 30.0, 0.0),
    ],
)
@pytest.mark.parametrize(("qk_norm", "kind"), [(False, "Llama"), (True, "Qwen3")])
def test_what_cannot_be_expressed_is_refused_by_name(
    name: str, value: Any, needed: Any, qk_norm: bool, kind: str
) -> None:
    params = replace(make_model(5, qk_norm=qk_norm).params, **{name: value})
    message = f"model.{name} is {value}, which the {kind} .* needs model.{name}: {needed}"
    with pytest.raises(ValueError, match=message):
        hf_config(params, 5)
    with pytest.raises(ValueError, match=message):
        hf_state_dict(TransformerLM(params, 5))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_config_and_back(qk_norm: bool) -> None:
    params = make_model(5, tie=True, qk_norm=qk_norm).params
    assert hf_obstacle(params) is None
    assert hf_params(hf_config(params, 5, end_id=4), "c.json") == (params, 5)
    assert hf_params(hf_config(params, 5), "c.json") == (params, 5)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("window", [0, 7, 100])
@pytest.mark.parametrize("num_kv_heads", [0, 1, 2])
def test_config_of_groups_and_windows_and_back(
    num_kv_heads: int, window: int, qk_norm: bool
) -> None:
    model = make_model(5, num_heads=4, num_kv_heads=num_kv_heads, window=window, qk_norm=qk_norm)
    params = model.params
    config = hf_config(params, 5)
    without_norms = "mistral" if window else "llama"
    assert config["model_type"] == ("qwen3" if qk_norm else without_norms)
    assert config["num_key_value_heads"] == (num_kv_heads or 4)
    assert hf_params(config, "c.json") == (params, 5)


def test_a_mistral_of_defaults() -> None:
    """What its config.json leaves out is what MistralConfig has, and null means off."""
    config = hf_config(make_model(5, num_heads=12, window=7).params, 5)
    with pytest.raises(ValueError, match="num_kv_heads is 8, which does not divide num_heads 12"):
        hf_params({k: v for k, v in config.items() if k != "num_key_value_heads"}, "c.json")
    left_out = {k: v for k, v in config.items() if k != "sliding_window"}
    for given, window in (({}, MistralConfig().sliding_window), ({"sliding_window": None}, 0)):
        assert hf_params(left_out | given, "c.json")[0].attention_window == window
    assert MistralConfig().num_key_value_heads == 8


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_window_or_heads_of_none(qk_norm: bool) -> None:
    """0 means no bound here; there, nothing would be seen."""
    config = hf_config(make_model(5, window=7, qk_norm=qk_norm).params, 5)
    for name in ("sliding_window", "num_key_value_heads"):
        with pytest.raises(ValueError, match=rf"^c\.json: {name} is 0; it should be at least 1"):
            hf_params(config | {name: 0}, "c.json")


def test_config_as_transformers_5_writes_it() -> None:
    """RoPE in a table of its own."""
    params = make_model(5).params
    config = hf_config(params, 5)
    del config["rope_scaling"], config["rope_theta"]
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": params.rope_theta}
    assert hf_params(config, "c.json") == (params, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "qwen2"),
        ("num_key_value_heads", "2"),
        ("head_dim", 24),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("quantization_config", {"quant_method": "awq"}),
        ("hidden_size", "24"),
        ("vocab_size", None),
        ("rope_parameters", {"rope_type": "yarn", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("rope_parameters", "default"),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "default", "unheard_of": 3}),
        ("final_logit_softcapping", 30.0),
        ("sliding_window", 16),
        ("logit_scale", 0),
        ("auto_map", {"AutoModel": "code.Model"}),
    ],
)
def test_a_setting_of_another_model_is_refused_by_name(name: str, value: object) -> None:
    config = hf_config(make_model(5).params, 5)
    with pytest.raises(ValueError, match=rf"^c\.json: {name}"):
        hf_params(config | {name: value}, "c.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "qwen2"),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("layer_types", "sliding_attention"),
        ("layer_types", 3),
    ],
)
def test_a_setting_that_a_qwen3_should_not_have_is_refused(name: str, value: object) -> None:
    config = hf_config(make_model(5, qk_norm=True).params, 5)
    with pytest.raises(ValueError, match=rf"^c\.json: {name}"):
        hf_params(config | {name: value}, "c.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("head_dim", "head_dim is 128, .* it must be 12$"),
        ("max_window_layers", "max_window_layers is 28, .* it must be 0$"),
        ("num_key_value_heads", "num_kv_heads is 32, which does not divide num_heads 2"),
    ],
)
def test_what_a_qwen3_leaves_out_is_not_ours(name: str, message: str) -> None:
    """transformers then takes 128 and 32, of which the one is not d_model / num_heads here.

    And the window begins at layer 28.
    """
    config = hf_config(make_model(5, qk_norm=True, window=7).params, 5)
    del config[name]
    with pytest.raises(ValueError, match=rf"^c\.json: {message}"):
        hf_params(config, "c.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_window_layers", 1),
        ("use_sliding_window", 2),
        ("layer_types", ["sliding_attention", "full_attention"]),
    ],
)
def test_a_window_in_some_layers_of_a_qwen3_is_refused(name: str, value: object) -> None:
    config = hf_config(make_model(5, qk_norm=True, window=7).params, 5)
    with pytest.raises(ValueError, match=rf"^c\.json: {name}"):
        hf_params(config | {name: value}, "c.json")


def test_a_qwen3_of_defaults() -> None:
    """Qwen3Config has a window of 4096, of which it makes use only when told to."""
    params = make_model(5, qk_norm=True, window=7).params
    config = hf_config(params, 5)
    theirs = Qwen3Config(use_sliding_window=True)
    for name in ("head_dim", "max_window_layers", "num_key_value_heads", "sliding_window"):
        assert QWEN3.defaults[name] == getattr(theirs, name)
    del config["sliding_window"]
    assert hf_params(config, "c.json")[0] == replace(params, attention_window=4096)
    del config["use_sliding_window"]
    assert hf_params(config, "c.json")[0] == replace(params, attention_window=0)


def test_settings_of_a_published_qwen3() -> None:
    """Those of Qwen/Qwen3-0.6B, and the layers that transformers 5 adds."""
    params = make_model(5, qk_norm=True).params
    extra = {
        "attention_dropout": 0.0,
        "layer_types": ["full_attention"] * 2,
        "max_window_layers": 28,
        "sliding_window": None,
        "use_cache": True,
        "use_sliding_window": False,
    }
    assert hf_params(hf_config(params, 5) | extra, "c.json") == (params, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_scaling", {"rope_type": "default"}),
        ("rope_scaling", {"type": "linear", "factor": 1.0}),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 1}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 500.0, "factor": 1.0}),
        ("rope_parameters", {"rope_theta": 500.0, "partial_rotary_factor": 1.0}),
        ("rope_parameters", {"rope_theta": 500.0, "original_max_position_embeddings": 32}),
        ("hidden_act", "swish"),
        ("attention_bias", None),
        ("num_key_value_heads", None),
        ("head_dim", None),
        ("attention_dropout", 0.1),
        ("use_cache", False),
        ("pretraining_tp", 2),
        ("quantization_config", None),
        ("pruned_heads", {}),
        ("add_cross_attention", False),
        ("temperature", 0.7),
        ("transformers_version", "4.30.0"),
    ],
)
def test_a_setting_that_changes_nothing_is_accepted(name: str, value: object) -> None:
    params = make_model(5).params
    assert hf_params(hf_config(params, 5) | {name: value}, "c.json") == (params, 5)


def test_weights_of_another_model_are_refused_by_name() -> None:
    model = make_model(5)
    state = hf_state_dict(model)
    bias = "model.layers.0.self_attn.q_proj.bias"
    with pytest.raises(ValueError, match=f"missing weights: none; unknown: {bias}"):
        from_hf(state | {bias: torch.zeros(24)}, model.params)
    del state["model.norm.weight"]
    with pytest.raises(ValueError, match=r"missing weights: model\.norm\.weight; unknown: none"):
        from_hf(state, model.params)


def test_params_that_cannot_be_are_refused() -> None:
    config = hf_config(ModelParams(8, 8, 1, 2, 8), 5)
    with pytest.raises(ValueError, match=r"c\.json: num_layers is 0"):
        hf_params(config | {"num_hidden_layers": 0}, "c.json")
