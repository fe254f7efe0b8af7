"""The trained model in the formats of other projects, and back."""

from lmlib.export.card import model_card, no_model_card
from lmlib.export.gguf import gguf_obstacle, write_gguf
from lmlib.export.hf import hf_config, hf_obstacle, hf_state_dict
from lmlib.export.pretrained import load_pretrained, save_pretrained
from lmlib.export.tiktoken import tiktoken_bpe

__all__ = [
    "gguf_obstacle",
    "hf_config",
    "hf_obstacle",
    "hf_state_dict",
    "load_pretrained",
    "model_card",
    "no_model_card",
    "save_pretrained",
    "tiktoken_bpe",
    "write_gguf",
]
