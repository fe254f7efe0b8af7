"""Write and read the folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save

from lmlib.checkpoint import build_model, read_weights
from lmlib.digests import check_digests
from lmlib.export.hf import from_hf, hf_config, hf_params, hf_shapes, hf_state_dict
from lmlib.export.tokenizer_json import parse_tokenizer_json
from lmlib.files import read_json, write_atomically, write_json
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR, separator_id
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.files import huggingface_json, write_text

_ADVICE = "no such file; name a folder with config.json, tokenizer.json and model.safetensors"


def save_pretrained(folder: Path, model: TransformerLM, tokenizer: Tokenizer) -> None:
    """Write config.json, model.safetensors, and the files of the tokenizer and of generation.

    Raises ValueError, naming the parameter, for a model that cannot be expressed, and if model
    and tokenizer differ in vocabulary size.
    """
    if model.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the model knows {model.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}; "
            "export the two that were trained together"
        )
    end_id = separator_id(tokenizer.special_ids)
    config = hf_config(model.params, model.vocab_size, end_id)
    # transformers 4 rejects a file that does not name its framework
    weights = save(hf_state_dict(model), metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    write_atomically(folder / "model.safetensors", weights)
    write_json(
        folder / "generation_config.json",
        {f"{use}_token_id": end_id for use in ("bos", "eos", "pad")},
    )
    document = huggingface_json(
        tokenizer.vocab, tokenizer.merges, tokenizer.special_ids, tokenizer.pattern
    )
    write_text(folder / "tokenizer.json", document)
    special = _special_tokens(tokenizer)
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "model_max_length": model.params.context_length,
            "padding_side": "left",  # prompts of different lengths are continued at their ends
            "clean_up_tokenization_spaces": False,
        },
    )


def _special_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the token for each use; the separator of texts has three uses, as in GPT-2."""
    special: dict[str, Any] = {}
    if SEPARATOR in tokenizer.special_ids:
        special |= {f"{use}_token": SEPARATOR for use in ("bos", "eos", "pad")}
    if others := [token for token in tokenizer.special_tokens if token != SEPARATOR]:
        special["additional_special_tokens"] = others
    return special


def load_pretrained(folder: Path) -> tuple[TransformerLM, Tokenizer]:
    """Return the model and the tokenizer of a folder that `save_pretrained` or transformers wrote.

    The weights may be in one file, or in several with an index. Raises FileNotFoundError for a
    missing file, and ValueError, naming the setting, for what this project cannot express, or
    naming the file, where SHA256SUMS has another digest of it.
    """
    config_path, tokenizer_path = _member(folder, "config.json"), _member(folder, "tokenizer.json")
    weight_paths = _weight_files(folder)
    check_digests(folder, config_path.name, tokenizer_path.name, *(p.name for p in weight_paths))
    params, vocab_size = hf_params(read_json(config_path, missing=_ADVICE), str(config_path))
    tokenizer = parse_tokenizer_json(
        read_json(tokenizer_path, missing=_ADVICE), str(tokenizer_path)
    )
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"{config_path}: vocab_size is {vocab_size}, but {tokenizer_path.name} has "
            f"{tokenizer.vocab_size} tokens; the two must be equal here"
        )

    def ignores(name: str) -> bool:
        """Tell a tied matrix that is stored twice, and the angles that old versions stored."""
        is_tied = params.tie_embeddings and name == "lm_head.weight"
        return is_tied or name.endswith("rotary_emb.inv_freq")

    weights = read_weights(weight_paths, hf_shapes(params, vocab_size), config_path, ignores)
    return build_model(params, vocab_size, from_hf(weights, params), config_path), tokenizer


def _weight_files(folder: Path) -> list[Path]:
    """Return the single file of weights, or all files that the index names."""
    index = _member(folder, "model.safetensors.index.json")
    if not index.exists():
        return [_member(folder, "model.safetensors")]
    files = read_json(index).get("weight_map")
    names = set(files.values()) if isinstance(files, dict) and _are_names(files.values()) else ()
    if not names:
        raise ValueError(
            f"{index}: has no `weight_map` from weights to the names of their files; download it "
            "again"
        )
    return [_member(folder, name) for name in sorted(names)]


def _are_names(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) and value and "\0" not in value for value in values)


def _member(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; raise ValueError if it leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path}: is outside of {folder}, the only place that is read; copy the file into it "
            "(`cp -rL` copies a folder with what its links point to)"
        )
    return path
