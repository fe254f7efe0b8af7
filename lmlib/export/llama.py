"""Convert our model to the Llama architecture of the `transformers` package, and back.

The two differ in names and in RoPE: it rotates the pairs (2k, 2k+1) of a head here, and the pairs
(k, k + d_head / 2) there. The order of the rows of W_q and W_k determines the pairs, so permuting
the rows of each head converts one into the other, exactly.
"""

import json
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lmlib.checkpoint import plain_state_dict
from lmlib.model import ModelParams, TransformerLM
from lmlib.params import from_dict

_NAMES = {
    "token_embeddings": "model.embed_tokens",
    "ln_final": "model.norm",
    "lm_head": "lm_head",
}
_LAYER_NAMES = {
    "ln1": "input_layernorm",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
}
_ROTATED = ("q_proj.weight", "k_proj.weight")
# the parameters in which our model may differ from Llama, with Llama's values
_LLAMA = {"norm": "pre", "position": "rope", "ffn": "swiglu"}


def llama_obstacle(params: ModelParams) -> str | None:
    """Return, in a sentence, why Llama's architecture cannot express a model, or None."""
    for name, needed in _LLAMA.items():
        value = getattr(params, name)
        if value != needed:
            return (
                f"model.{name} is {value}, which the Llama architecture cannot express; "
                f"a model that is to be exported needs model.{name}: {needed}"
            )
    return None


def _refuse_unless_llama(params: ModelParams) -> None:
    if obstacle := llama_obstacle(params):
        raise ValueError(obstacle)


def llama_names(params: ModelParams) -> dict[str, str]:
    """Return the names of the weights, ours -> Llama's; a tied matrix has one name."""
    names = dict(_NAMES)
    for i in range(params.num_layers):
        names |= {f"layers.{i}.{a}": f"model.layers.{i}.{b}" for a, b in _LAYER_NAMES.items()}
    if params.tie_embeddings:
        del names["lm_head"]
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}


def llama_config(params: ModelParams, vocab_size: int, end_id: int | None = None) -> dict[str, Any]:
    """Return config.json, as versions 4 and 5 of `transformers` read it.

    `end_id` is the token that separates texts: it ends each text and precedes the first.
    Raises ValueError, naming the parameter, for a model that Llama cannot express.
    """
    _refuse_unless_llama(params)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": params.d_model,
        "intermediate_size": params.d_ff,
        "num_hidden_layers": params.num_layers,
        "num_attention_heads": params.num_heads,
        "num_key_value_heads": params.num_heads,
        "head_dim": params.d_model // params.num_heads,
        "hidden_act": "silu",
        "max_position_embeddings": params.context_length,
        "rope_theta": params.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": params.norm_eps,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": params.tie_embeddings,
        # if left out, these would be 1 and 2
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "torch_dtype": "float32",
    }


def llama_state_dict(model: TransformerLM) -> dict[str, Tensor]:
    """Return the weights under the names and in the layout of LlamaForCausalLM, on the CPU.

    Raises ValueError, naming the parameter, for a model that Llama cannot express.
    """
    _refuse_unless_llama(model.params)
    state = plain_state_dict(model)
    weights = {}
    for ours, theirs in llama_names(model.params).items():
        weight = state[ours].detach().cpu().float()
        if theirs.endswith(_ROTATED):
            weight = to_halves(weight, model.params.num_heads)
        weights[theirs] = weight.contiguous()
    return weights


def llama_params(config: Mapping[str, Any], where: str) -> tuple[ModelParams, int]:
    """Return the params of a config.json, and its vocabulary size.

    The attention kernel is not part of a checkpoint: it comes back as `auto`. Raises
    ValueError, naming the setting, for a model this project cannot express; the message begins with
    `where`.
    """

    def whole_number(name: str) -> int:
        if type(config.get(name)) is not int:
            raise ValueError(
                f"{where}: {name} is {config.get(name)!r}; it should be a whole number"
            )
        return config[name]

    d_model, num_heads = whole_number("hidden_size"), whole_number("num_attention_heads")
    needed = {
        "model_type": "llama",
        "num_key_value_heads": num_heads,
        "head_dim": d_model // max(num_heads, 1),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "quantization_config": None,
    }
    rope = dict(config.get("rope_parameters") or {})  # transformers 5; 4 has two settings instead
    theta = rope.pop("rope_theta", config.get("rope_theta", 10_000.0))
    needed |= {f"rope_parameters.{name}": None for name in rope}
    needed["rope_parameters.rope_type"] = "default"
    found = {**config, **{f"rope_parameters.{name}": value for name, value in rope.items()}}
    for name, value in needed.items():
        if found.get(name) not in (None, value):
            raise ValueError(
                f"{where}: {name} is {found[name]!r}, which this project cannot express; it "
                f"must be {json.dumps(value)}"
            )
    values = {
        "context_length": whole_number("max_position_embeddings"),
        "d_model": d_model,
        "num_layers": whole_number("num_hidden_layers"),
        "num_heads": num_heads,
        "d_ff": whole_number("intermediate_size"),
        "rope_theta": theta,
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        **_LLAMA,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "attention": "auto",
    }
    return from_dict(ModelParams, values, where), whole_number("vocab_size")


def from_llama(weights: Mapping[str, Tensor], params: ModelParams) -> dict[str, Tensor]:
    """Return the weights under our names and in our layout: the inverse of `llama_state_dict`.

    Raises ValueError if names are missing or unknown.
    """
    names = llama_names(params)
    needed, found = set(names.values()), set(weights)
    if params.tie_embeddings:
        found.discard("lm_head.weight")  # some writers store the tied matrix twice
    if needed != found:
        raise ValueError(
            f"missing weights: {', '.join(sorted(needed - found)) or 'none'}; "
            f"unknown: {', '.join(sorted(found - needed)) or 'none'}"
        )
    state = {
        ours: to_neighbours(weights[theirs], params.num_heads)
        if theirs.endswith(_ROTATED)
        else weights[theirs]
        for ours, theirs in names.items()
    }
    if params.tie_embeddings:
        state["lm_head.weight"] = state["token_embeddings.weight"]
    return state


def to_halves(weight: Float[Tensor, "rows d_in"], num_heads: int) -> Float[Tensor, "rows d_in"]:
    """Move rows 2k and 2k+1 of each head to k and k + d_head / 2."""
    return weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_neighbours(weight: Float[Tensor, "rows d_in"], num_heads: int) -> Float[Tensor, "rows d_in"]:
    """Move rows k and k + d_head / 2 of each head to 2k and 2k+1."""
    return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
