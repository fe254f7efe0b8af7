"""Write and read the folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lmlib.export.llama import from_llama, llama_config, llama_params, llama_state_dict
from lmlib.export.tokenizer_json import parse_tokenizer_json
from lmlib.files import read_json, write_atomically, write_json
from lmlib.model import TransformerLM
from lmlib.separator import SEPARATOR, separator_id
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.files import huggingface_json, write_text

_ADVICE = "no such file; name a folder with config.json, tokenizer.json and model.safetensors"


def save_pretrained(folder: Path, model: TransformerLM, tokenizer: Tokenizer) -> None:
    """Write config.json, model.safetensors, and the files of the tokenizer and of generation.

    Raises ValueError, naming the parameter, for a model that Llama cannot express, and if model
    and tokenizer differ in vocabulary size.
    """
    if model.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the model knows {model.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}; "
            "export the two that were trained together"
        )
    end_id = separator_id(tokenizer.special_ids)
    config = llama_config(model.params, model.vocab_size, end_id)
    # transformers 4 rejects a file that does not name its framework
    weights = save(llama_state_dict(model), metadata={"format": "pt"})
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
    missing file, and ValueError, naming the setting, for what this project cannot express.
    """
    config_path, tokenizer_path = folder / "config.json", folder / "tokenizer.json"
    params, vocab_size = llama_params(read_json(config_path, missing=_ADVICE), str(config_path))
    tokenizer = parse_tokenizer_json(
        read_json(tokenizer_path, missing=_ADVICE), str(tokenizer_path)
    )
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"{config_path}: vocab_size is {vocab_size}, but {tokenizer_path.name} has "
            f"{tokenizer.vocab_size} tokens; the two must be equal here"
        )
    model = TransformerLM(params, vocab_size)
    try:
        model.load_state_dict(from_llama(_load_weights(folder), params))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{folder}: damaged, or not the weights of config.json: {error}"
        ) from error
    return model.eval(), tokenizer


def _load_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the single file, or of all files that the index names."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(read_json(index, missing=_ADVICE)["weight_map"].values()))
    weights: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: {_ADVICE}")
        weights |= load_file(folder / name)
    return weights
