"""GGUF, the single-file format of llama.cpp and tools built on it (ollama, LM Studio)."""

from pathlib import Path

from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map

from lmlib.checkpoint import plain_state_dict
from lmlib.export.hf import QWEN3, architecture, hf_names, hf_obstacle, hf_state_dict
from lmlib.files import replacing
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.files import to_symbols

# llama.cpp names patterns after the models that use them. DBRX uses cl100k; there, white space at
# the very end of a text is split after its last newline, while here it is one token.
PRE_TOKENIZERS = {"gpt2": "gpt-2", "cl100k": "dbrx", "o200k": "gpt-4o"}


def gguf_obstacle(model: TransformerLM, tokenizer: Tokenizer) -> str | None:
    """Return, in a sentence, why a GGUF cannot hold the two, or None."""
    if obstacle := hf_obstacle(model.params):
        return obstacle
    if 0 < model.params.attention_window < model.params.context_length:
        return (
            f"model.attention_window is {model.params.attention_window}, and llama.cpp gives its "
            f"architecture `{architecture(model.params).gguf}` no window; a model for it needs "
            "model.attention_window: 0"
        )
    if tokenizer.pattern not in PRE_TOKENIZERS:
        return (
            "tokenizer.pattern is a custom expression, and llama.cpp knows patterns only by "
            f"name; choose one of {', '.join(PRE_TOKENIZERS)}"
        )
    if SEPARATOR not in tokenizer.special_ids:
        return (
            f"tokenizer.special_tokens lacks {SEPARATOR!r}, and without a token that ends a text, "
            "llama.cpp takes the one with id 11"
        )
    learnt = {left + right for left, right in tokenizer.merges}
    for token in map(str.encode, tokenizer.special_tokens):
        if len(token) == 1 or token in learnt:
            return (
                f"tokenizer.special_tokens holds {token.decode()!r}, which is an ordinary token "
                "too; in a GGUF a token is one or the other"
            )
    return None


def write_gguf(path: Path, model: TransformerLM, tokenizer: Tokenizer, name: str) -> None:
    """Write the weights, in float32, and the tokenizer, with architecture `llama` or `qwen3`.

    In a `llama`, RoPE rotates neighbouring rows, as here, so no rows move; in a `qwen3` it rotates
    the same pairs as in transformers. Raises ValueError for what a GGUF cannot hold.
    """
    if obstacle := gguf_obstacle(model, tokenizer):
        raise ValueError(obstacle)
    with replacing(path) as (part,):
        _write(GGUFWriter(part, architecture(model.params).gguf), model, tokenizer, name)


def _write(writer: GGUFWriter, model: TransformerLM, tokenizer: Tokenizer, name: str) -> None:
    params, kind = model.params, architecture(model.params)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(params.context_length)
    writer.add_embedding_length(params.d_model)
    writer.add_block_count(params.num_layers)
    writer.add_feed_forward_length(params.d_ff)
    writer.add_head_count(params.num_heads)
    writer.add_head_count_kv(params.kv_heads)
    if kind is QWEN3:
        writer.add_key_length(params.d_head)
        writer.add_value_length(params.d_head)
    writer.add_rope_dimension_count(params.d_head)
    writer.add_rope_freq_base(params.rope_theta)
    writer.add_layer_norm_rms_eps(params.norm_eps)
    _add_tokenizer(writer, tokenizer)
    state, moved = plain_state_dict(model), hf_state_dict(model)
    gguf_names = get_tensor_name_map(MODEL_ARCH[kind.gguf.upper()], params.num_layers)
    for ours, theirs in hf_names(params).items():
        gguf_name = gguf_names.get_name(theirs, try_suffixes=(".weight",))
        assert gguf_name is not None
        weight = moved[theirs] if kind is QWEN3 else state[ours]
        writer.add_tensor(gguf_name, weight.detach().cpu().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    """Add tokens by id, in GPT-2's visible characters, and merges; ids may have gaps."""
    special = {token_id: token for token, token_id in tokenizer.special_ids.items()}
    tokens, types = [], []
    for token_id in range(tokenizer.vocab_size):
        if token_id in special:
            tokens.append(special[token_id])
            types.append(TokenType.CONTROL)
        elif token_id in tokenizer.vocab:
            tokens.append(to_symbols(tokenizer.vocab[token_id]))
            types.append(TokenType.NORMAL)
        else:
            tokens.append(f"[PAD{token_id}]")
            types.append(TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[tokenizer.pattern])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{to_symbols(a)} {to_symbols(b)}" for a, b in tokenizer.merges])
    end_id = tokenizer.special_ids[SEPARATOR]
    writer.add_bos_token_id(end_id)
    writer.add_eos_token_id(end_id)
    writer.add_add_bos_token(False)
