"""Convert our model to an architecture of the `transformers` package, and back.

A model becomes a Llama; with a sliding window a Mistral; with norms of queries and keys a Qwen3,
which may have a window too. A window counts the query's own key, as ours does
(`sliding_window_overlay` in masking_utils.py of transformers).

Ours differs from all three in names and in RoPE: it rotates the pairs (2k, 2k+1) of a head here,
and the pairs (k, k + d_head / 2) there. The order of the rows of W_q and W_k, and of the gains of
their norms, determines the pairs, so permuting the rows of each head converts one into the other,
exactly.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lmlib.checkpoint import plain_state_dict
from lmlib.model import ModelParams, Shape, TransformerLM, weight_shapes
from lmlib.params import from_dict, shown

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
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
}
_ROTATED = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
# the parameters in which our model may differ from all three, with their values
_NEEDED = {"norm": "pre", "position": "rope", "ffn": "swiglu", "logit_softcap": 0.0}

# settings of config.json that change no logits: of the library, of training, of generation
_HARMLESS = """
    _name_or_path architectures dtype initializer_range is_decoder max_sequence_length
    output_attentions output_hidden_states output_scores pretraining_tp return_dict
    return_dict_in_generate tokenizer_class torch_dtype torchscript transformers_version
    unsloth_fixed unsloth_version use_bfloat16 use_cache
    chunk_size_feed_forward finetuning_task id2label label2id problem_type task_specific_params
    bad_words_ids begin_suppress_tokens bos_token_id cls_token_id decoder_start_token_id
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size eos_token_id
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences pad_token_id prefix
    repetition_penalty sep_token_id suppress_tokens temperature top_k top_p typical_p unk_token_id
"""
# those that become our params
_READ = """
    hidden_size intermediate_size max_position_embeddings model_type num_attention_heads
    num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters rope_scaling rope_theta
    tie_word_embeddings vocab_size
"""
# settings of a table of RoPE, with the values that change nothing; None: any value
_ROPE = {
    "attention_factor": (1,),
    "factor": (1,),
    "original_max_position_embeddings": None,
    "partial_rotary_factor": (1,),
    "rope_type": ("default",),
    "type": ("default",),
}


@dataclass(frozen=True)
class Architecture:
    """What distinguishes an architecture of `transformers` from its relatives.

    name:        begins the names of its classes
    model_type:  in config.json
    gguf:        its name in a GGUF
    window:      the settings that, next to `sliding_window`, give each layer a window
    defaults:    what it takes for settings that config.json leaves out, unless that is null
    """

    name: str
    model_type: str
    gguf: str
    window: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


LLAMA = Architecture("Llama", "llama", gguf="llama")
MISTRAL = Architecture(
    "Mistral",
    "mistral",
    gguf="llama",
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
QWEN3 = Architecture(
    "Qwen3",
    "qwen3",
    gguf="qwen3",
    window={"use_sliding_window": True, "max_window_layers": 0},
    defaults={
        "head_dim": 128,
        "max_window_layers": 28,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
)
_ARCHITECTURES = {each.model_type: each for each in (LLAMA, MISTRAL, QWEN3)}


def architecture(params: ModelParams) -> Architecture:
    """Return the architecture that a model is exported to."""
    if params.qk_norm:
        return QWEN3
    return MISTRAL if params.attention_window else LLAMA


def hf_obstacle(params: ModelParams) -> str | None:
    """Return, in a sentence, why its architecture cannot express a model, or None."""
    for name, needed in _NEEDED.items():
        value = getattr(params, name)
        if value != needed:
            return (
                f"model.{name} is {value}, which the {architecture(params).name} architecture "
                f"cannot express; a model that is to be exported needs model.{name}: {needed}"
            )
    return None


def _refuse_obstacle(params: ModelParams) -> None:
    if obstacle := hf_obstacle(params):
        raise ValueError(obstacle)


def hf_names(params: ModelParams) -> dict[str, str]:
    """Return the names of the weights, ours -> theirs; a tied matrix has one name."""
    return {name: _hf_name(name) for name, _ in weight_shapes(params, vocab_size=1)}


def _hf_name(ours: str) -> str:
    name = ours.removesuffix(".weight")
    if name in _NAMES:
        return f"{_NAMES[name]}.weight"
    _, i, name = name.split(".", 2)
    return f"model.layers.{i}.{_LAYER_NAMES[name]}.weight"


def hf_shapes(params: ModelParams, vocab_size: int) -> Iterator[tuple[str, Shape]]:
    """Yield their name and the shape of each weight; see `weight_shapes`."""
    return ((_hf_name(name), shape) for name, shape in weight_shapes(params, vocab_size))


def hf_config(params: ModelParams, vocab_size: int, end_id: int | None = None) -> dict[str, Any]:
    """Return config.json, as versions 4 and 5 of `transformers` read it.

    `end_id` is the token that separates texts: it ends each text and precedes the first.
    Raises ValueError, naming the parameter, for a model that cannot be expressed.
    """
    _refuse_obstacle(params)
    kind = architecture(params)
    config: dict[str, Any] = {
        "architectures": [f"{kind.name}ForCausalLM"],
        "model_type": kind.model_type,
        "vocab_size": vocab_size,
        "hidden_size": params.d_model,
        "intermediate_size": params.d_ff,
        "num_hidden_layers": params.num_layers,
        "num_attention_heads": params.num_heads,
        "num_key_value_heads": params.kv_heads,
        "head_dim": params.d_head,
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
    if params.attention_window:
        config |= {"sliding_window": params.attention_window, **kind.window}
    return config


def hf_state_dict(model: TransformerLM) -> dict[str, Tensor]:
    """Return the weights under the names and in the layout of transformers, on the CPU.

    Raises ValueError, naming the parameter, for a model that cannot be expressed.
    """
    _refuse_obstacle(model.params)
    state = plain_state_dict(model)
    weights = {}
    for ours, theirs in hf_names(model.params).items():
        weight = state[ours].detach().cpu().float()
        if theirs.endswith(_ROTATED):
            weight = to_halves(weight, model.params.d_head)
        weights[theirs] = weight.contiguous()
    return weights


def hf_params(config: Mapping[str, Any], where: str) -> tuple[ModelParams, int]:
    """Return the params of a config.json, and its vocabulary size.

    The attention kernel is not part of a checkpoint: it comes back as `auto`. As many heads of keys
    and values as of queries come back as num_kv_heads 0. Raises ValueError, naming the setting, for
    a model this project cannot express; the message begins with `where`.
    """

    def whole_number(name: str) -> int:
        if type(config.get(name)) is not int:
            raise ValueError(
                f"{where}: {name} is {shown(config.get(name))}; it should be a whole number"
            )
        return config[name]

    def count_or_null(name: str) -> int:
        """Return a setting, or 0 if it is null or left out."""
        if config.get(name) is None:
            return 0
        if (count := whole_number(name)) < 1:
            raise ValueError(f"{where}: {name} is {count}; it should be at least 1, or null")
        return count

    model_type = config.get("model_type")
    _require(model_type, tuple(_ARCHITECTURES), f"{where}: model_type")
    kind = LLAMA if model_type is None else _ARCHITECTURES[model_type]
    config = {**kind.defaults, **config}
    d_model, num_heads = whole_number("hidden_size"), whole_number("num_attention_heads")
    num_kv_heads, window = count_or_null("num_key_value_heads"), 0
    needed = {
        "head_dim": (d_model // max(num_heads, 1),),
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
    }
    if kind is MISTRAL or (kind is QWEN3 and config["use_sliding_window"]):
        window = count_or_null("sliding_window")
        needed |= {name: (value,) for name, value in kind.window.items()}
    for name, allowed in needed.items():
        _require(config.get(name), allowed, f"{where}: {name}")
    layers = config.get("layer_types")
    attention = "sliding_attention" if window else "full_attention"
    if not isinstance(layers, list) or any(layer != attention for layer in layers):
        _require(layers, (), f"{where}: layer_types")
    theta = _rope_theta(config, where)
    values = {
        "context_length": whole_number("max_position_embeddings"),
        "d_model": d_model,
        "num_layers": whole_number("num_hidden_layers"),
        "num_heads": num_heads,
        "d_ff": whole_number("intermediate_size"),
        "num_kv_heads": 0 if num_kv_heads == num_heads else num_kv_heads,
        "attention_window": window,
        "rope_theta": theta,
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        **_NEEDED,
        "qk_norm": kind is QWEN3,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "attention": "auto",
    }
    known = {*_READ.split(), "layer_types", *needed, *kind.defaults}
    _refuse_unknown(set(config) - known, config, where)
    return from_dict(ModelParams, values, where), whole_number("vocab_size")


def _require(value: Any, allowed: tuple[Any, ...], what: str) -> None:
    """Raise ValueError unless a setting is left out or has one of the allowed values."""
    if value is not None and value not in allowed:
        raise ValueError(
            f"{what} is {shown(value)}, which this project cannot express; it must be "
            f"{' or '.join(map(json.dumps, allowed)) or 'left out'}"
        )


def _rope_theta(config: Mapping[str, Any], where: str) -> Any:
    """Return the base of RoPE's angles; raise ValueError for angles that are scaled."""
    theta = config.get("rope_theta")
    for name in ("rope_scaling", "rope_parameters"):  # of transformers 4 and 5
        table = config.get(name) or {}
        if not isinstance(table, dict):
            raise ValueError(f"{where}: {name} is {shown(table)}; it should be a table, or null")
        for key, value in table.items():
            allowed = _ROPE.get(key, ())
            if key in ("rope_type", "type") and table.get("factor") == 1:
                allowed = ("default", "linear", "dynamic")
            if key == "rope_theta":
                theta = value
            elif allowed is not None:
                _require(value, allowed, f"{where}: {name}.{key}")
    return 10_000.0 if theta is None else theta


def _refuse_unknown(names: set[str], config: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a setting that might change the logits, unless it is switched off."""
    for name in sorted(names - {*_HARMLESS.split()}):
        value = config[name]
        is_off = value is None or value is False or value in ("", [], {})
        if not is_off and not name.endswith(("dropout", "dropout_prob", "pdrop")):
            raise ValueError(
                f"{where}: {name} is {shown(value)}, a setting that this project does not know; "
                "delete it there if it changes no result"
            )


def from_hf(weights: Mapping[str, Tensor], params: ModelParams) -> dict[str, Tensor]:
    """Return the weights under our names and in our layout: the inverse of `hf_state_dict`.

    Raises ValueError if names are missing or unknown.
    """
    names = hf_names(params)
    needed, found = set(names.values()), set(weights)
    if params.tie_embeddings:
        found.discard("lm_head.weight")  # some writers store the tied matrix twice
    if needed != found:
        raise ValueError(
            f"missing weights: {', '.join(sorted(needed - found)) or 'none'}; "
            f"unknown: {', '.join(sorted(found - needed)) or 'none'}"
        )
    state = {
        ours: to_neighbours(weights[theirs], params.d_head)
        if theirs.endswith(_ROTATED)
        else weights[theirs]
        for ours, theirs in names.items()
    }
    if params.tie_embeddings:
        state["lm_head.weight"] = state["token_embeddings.weight"]
    return state


def to_halves(weight: Float[Tensor, "rows ..."], d_head: int) -> Float[Tensor, "rows ..."]:
    """Move rows 2k and 2k+1 of each head of d_head rows to k and k + d_head / 2."""
    return weight.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).flatten(0, 2)


def to_neighbours(weight: Float[Tensor, "rows ..."], d_head: int) -> Float[Tensor, "rows ..."]:
    """Move rows k and k + d_head / 2 of each head of d_head rows to 2k and 2k+1."""
    return weight.unflatten(0, (-1, 2, d_head // 2)).transpose(1, 2).flatten(0, 2)
