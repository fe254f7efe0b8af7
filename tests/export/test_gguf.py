"""The GGUF in `transformers`, and in the reader of the `gguf` package."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lmlib.export import gguf_obstacle, save_pretrained, write_gguf
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.patterns import PATTERNS
from tests.export.conftest import SPECIAL, TEXT, make_model, make_tokenizer

Pair = tuple[TransformerLM, Tokenizer]


def test_logits_equal_ours_and_the_safetensors(pair: Pair, tmp_path: Path) -> None:
    model, _ = pair
    (tmp_path / "gguf").mkdir()
    write_gguf(tmp_path / "gguf" / "model.gguf", *pair, "tiny")
    save_pretrained(tmp_path / "hf", *pair)
    # transformers does not read a qwen3's size of heads from a GGUF
    config = AutoConfig.from_pretrained(tmp_path / "hf") if model.params.qk_norm else None
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "gguf", gguf_file="model.gguf", config=config
    )
    safetensors = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    found = theirs.state_dict()
    assert found.keys() == safetensors.keys()
    for name, weight in found.items():
        assert weight.equal(safetensors[name]), name
    ids = torch.arange(32)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_ids_equal_transformers(pattern: str, qk_norm: bool, tmp_path: Path) -> None:
    """Except for white space at the very end of a text in cl100k; see lmlib/export/gguf.py."""
    special = [token for token in SPECIAL if " " not in token]  # transformers leaves those out
    ours = make_tokenizer(pattern, special)
    model = make_model(ours.vocab_size, qk_norm=qk_norm)
    write_gguf(tmp_path / "model.gguf", model, ours, "tiny")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (TEXT, f"{SEPARATOR}a<pad>b{SEPARATOR}"):
        assert theirs(text)["input_ids"] == ours.encode(text)


def read(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def test_metadata_by_hand(tmp_path: Path) -> None:
    """What llama.cpp needs; ids 256 and 257 are a gap, 258 and 259 the token and its end."""
    vocab = {byte: bytes([byte]) for byte in range(256)} | {258: b" t", 259: SEPARATOR.encode()}
    tokenizer = Tokenizer(vocab, [(b" ", b"t")], [SEPARATOR])
    write_gguf(tmp_path / "a.gguf", make_model(260), tokenizer, "tiny")
    fields = read(tmp_path / "a.gguf")
    expected = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": 32,
        "llama.embedding_length": 24,
        "llama.block_count": 2,
        "llama.feed_forward_length": 40,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 12,
        "llama.rope.freq_base": 500.0,
        "llama.vocab_size": 260,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["Ġ t"],
        "tokenizer.ggml.bos_token_id": 259,
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: fields[name] for name in expected} == expected
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-3)
    assert fields["tokenizer.ggml.tokens"][256:] == ["[PAD256]", "[PAD257]", "Ġt", SEPARATOR]
    assert fields["tokenizer.ggml.token_type"][255:] == [1, 5, 5, 1, 3]


def test_metadata_of_groups(tmp_path: Path) -> None:
    """A window of the whole context hides nothing, and the Mistral is a `llama` in a GGUF."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.vocab_size, num_heads=4, num_kv_heads=2, window=32)
    write_gguf(tmp_path / "a.gguf", model, tokenizer, "tiny")
    fields = read(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "llama"
    heads = [fields[f"llama.attention.head_count{kind}"] for kind in ("", "_kv")]
    assert heads == [4, 2]
    assert fields["llama.rope.dimension_count"] == 6


@pytest.mark.parametrize(("qk_norm", "kind"), [(False, "llama"), (True, "qwen3")])
def test_a_window_is_refused_by_name(qk_norm: bool, kind: str) -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.vocab_size, window=31, qk_norm=qk_norm)
    message = f"model.attention_window is 31, and llama.cpp gives its architecture `{kind}` no"
    assert str(gguf_obstacle(model, tokenizer)).startswith(message)


def test_metadata_of_a_qwen3(tmp_path: Path) -> None:
    """The keys of llama.cpp's qwen3; its RoPE rotates the pairs (0, 6), (1, 7), ..."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.vocab_size, num_kv_heads=1, qk_norm=True)
    write_gguf(tmp_path / "a.gguf", model, tokenizer, "tiny")
    fields = read(tmp_path / "a.gguf")
    expected = {
        "general.architecture": "qwen3",
        "qwen3.attention.head_count": 2,
        "qwen3.attention.head_count_kv": 1,
        "qwen3.attention.key_length": 12,
        "qwen3.attention.value_length": 12,
        "qwen3.rope.freq_base": 500.0,
    }
    assert {name: fields[name] for name in expected} == expected
    assert not [name for name in fields if name.startswith("llama.")]
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    gains = model.state_dict()["layers.1.attn.k_norm.weight"].tolist()
    assert tensors["blk.1.attn_k_norm.weight"].tolist() == gains[::2] + gains[1::2]
    assert {"blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"} < set(tensors)


def test_writing_twice_writes_the_same_bytes(pair: Pair, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_gguf(tmp_path / name, *pair, "tiny")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (make_tokenizer(r"\w+|\W"), "tokenizer.pattern is a custom expression"),
        (make_tokenizer(special=()), "tokenizer.special_tokens lacks '<|endoftext|>'"),
        (make_tokenizer(special=(SEPARATOR, "!")), "tokenizer.special_tokens holds '!'"),
    ],
)
def test_what_a_gguf_cannot_hold_is_refused_by_name(
    tokenizer: Tokenizer, message: str, tmp_path: Path
) -> None:
    model = make_model(tokenizer.vocab_size)
    assert str(gguf_obstacle(model, tokenizer)).startswith(message)
    with pytest.raises(ValueError, match=r"tokenizer\."):
        write_gguf(tmp_path / "model.gguf", model, tokenizer, "tiny")
    assert not list(tmp_path.iterdir())
