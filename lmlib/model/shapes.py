"""The weights of a model and their memory, known from its params before it is built."""

from collections.abc import Iterator
from math import prod

from lmlib.model.transformer import ModelParams

Shape = tuple[int, ...]


def weight_shapes(params: ModelParams, vocab_size: int) -> Iterator[tuple[str, Shape]]:
    """Yield the name and the shape of each weight of a `TransformerLM`; a tied matrix once."""
    d_model = params.d_model
    yield "token_embeddings.weight", (vocab_size, d_model)
    for i in range(params.num_layers):
        for name, shape in _layer_shapes(params).items():
            yield f"layers.{i}.{name}.weight", shape
    if params.norm == "pre":
        yield "ln_final.weight", (d_model,)
    if not params.tie_embeddings:
        yield "lm_head.weight", (vocab_size, d_model)


def _layer_shapes(params: ModelParams) -> dict[str, Shape]:
    d_model, d_kv, d_ff = params.d_model, params.d_kv, params.d_ff
    shapes: dict[str, Shape] = {
        "attn.q_proj": (d_model, d_model),
        "attn.k_proj": (d_kv, d_model),
        "attn.v_proj": (d_kv, d_model),
        "attn.output_proj": (d_model, d_model),
    }
    if params.ffn == "swiglu":
        shapes |= {"ffn.w1": (d_ff, d_model), "ffn.w3": (d_ff, d_model)}
    else:
        d_ff = d_ff * 3 // 2
        shapes["ffn.w1"] = (d_ff, d_model)
    shapes["ffn.w2"] = (d_model, d_ff)
    if params.qk_norm:
        shapes |= {"attn.q_norm": (params.d_head,), "attn.k_norm": (params.d_head,)}
    if params.norm != "none":
        shapes |= {"ln1": (d_model,), "ln2": (d_model,)}
    return shapes


def count_weights(params: ModelParams, vocab_size: int) -> int:
    """Return the number of weights, counting tied ones once; in no time for any params."""
    matrices = 1 if params.tie_embeddings else 2
    layer = sum(map(prod, _layer_shapes(params).values()))
    final = params.d_model if params.norm == "pre" else 0
    return matrices * vocab_size * params.d_model + params.num_layers * layer + final


def flops_per_token(params: ModelParams, vocab_size: int) -> int:
    """Return the floating-point operations of one token in a training step.

        6 * matrix weights + 12 * num_layers * d_model * keys

    One multiplication and one addition for each weight, once in the forward pass and twice in the
    backward pass: 6. The embedding table is only indexed and does not count; `lm_head` does (tied,
    they are one matrix that is multiplied once). Attention multiplies each query with the keys, and
    its weights with the values: 2 * 2 * d_model per layer and pair of positions, three times in a
    step. The causal mask leaves an average query `keys` = context_length / 2 positions; a window
    of w tokens leaves it w - w**2 / (2 * context_length). Recomputation, which saves memory, does
    not count.

    Source:  Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B, which counts the
             masked half of attention, too.
    """
    layer = sum(prod(shape) for shape in _layer_shapes(params).values() if len(shape) == 2)
    matrices = params.num_layers * layer + vocab_size * params.d_model
    context = params.context_length
    window = min(params.attention_window or context, context)
    pairs = window * (2 * context - window)  # twice those of a query and a key that it sees
    attention = 6 * params.num_layers * params.d_model * pairs // context
    return 6 * matrices + attention


def model_bytes(params: ModelParams, vocab_size: int) -> int:
    """Return the memory of the weights and of RoPE's tables, in float32."""
    tables = params.context_length * params.d_head if params.position == "rope" else 0
    return 4 * (count_weights(params, vocab_size) + tables)
