"""Tokenizer files: GPT-2's vocab.json and merges.txt, and Hugging Face's tokenizer.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmlib.files import read_json, read_text, write_atomically
from lmlib.params import shown
from lmlib.tokenizer.patterns import PATTERNS, find_pattern

Merges = Sequence[tuple[bytes, bytes]]


def byte_symbols() -> list[str]:
    """Return GPT-2's visible character for each byte: itself if printable, else from U+0100 up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(hidden)) for byte in range(256)]


SYMBOL_OF_BYTE = byte_symbols()
BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in enumerate(SYMBOL_OF_BYTE)}


def to_symbols(token: bytes) -> str:
    """Return the token in GPT-2's visible characters."""
    return "".join(SYMBOL_OF_BYTE[byte] for byte in token)


def from_symbols(text: str) -> bytes:
    """Return the bytes of a token; one written in other characters is taken as plain UTF-8."""
    try:
        return bytes(BYTE_OF_SYMBOL[symbol] for symbol in text)
    except KeyError:
        return text.encode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, text.encode("utf-8"))


MISSING = "no such file; give the path of a saved tokenizer, or train one first"
MAX_ID = (1 << 31) - 2  # so that the size of a vocabulary fits int32


def check_id(value: Any, whose: str) -> int:
    """Return a token id; raise ValueError, which begins with `whose`, if the value is not one."""
    if type(value) is not int or not 0 <= value <= MAX_ID:
        raise ValueError(
            f"{whose} has the id {shown(value)}; an id is a whole number from 0 to {MAX_ID}"
        )
    return value


def read_vocab(path: Path) -> dict[int, bytes]:
    """Return id -> bytes from a vocab.json, in the order of ids."""
    by_token = read_json(path, missing=MISSING)
    names: dict[bytes, str] = {}
    vocab: dict[int, bytes] = {}
    for token, value in by_token.items():
        token_id = check_id(value, f"{path}: token {token!r:.80}")
        token_bytes = from_symbols(token)
        if token_bytes in names:
            raise ValueError(
                f"{path}: {names[token_bytes]!r:.80} and {token!r:.80} are the same bytes; keep one"
            )
        if token_id in vocab:
            raise ValueError(
                f"{path}: {names[vocab[token_id]]!r:.80} and {token!r:.80}, two tokens, have the "
                f"same id, {token_id}; give each its own"
            )
        names[token_bytes], vocab[token_id] = token, token_bytes
    return dict(sorted(vocab.items()))


def read_merges(path: Path) -> list[tuple[bytes, bytes]]:
    """Return the merges from a merges.txt: one pair per line, the highest priority first."""
    merges = []
    for number, line in enumerate(read_text(path, missing=MISSING).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(
                f"{path}, line {number}: {line!r} should be two tokens with one space between"
            )
        merges.append((from_symbols(pair[0]), from_symbols(pair[1])))
    return merges


def write_vocab_and_merges(folder: Path, vocab: Mapping[int, bytes], merges: Merges) -> None:
    """Write vocab.json and merges.txt in GPT-2's format."""
    by_token = {to_symbols(token): token_id for token_id, token in sorted(vocab.items())}
    if len(by_token) < len(vocab):
        raise ValueError(
            f"{folder}: the vocabulary has the same bytes under two ids, which vocab.json cannot "
            "hold; keep one of them"
        )
    write_text(folder / "vocab.json", json.dumps(by_token, ensure_ascii=False, indent=0) + "\n")
    lines = [f"{to_symbols(left)} {to_symbols(right)}" for left, right in merges]
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *lines]) + "\n")


def huggingface_json(
    vocab: Mapping[int, bytes], merges: Merges, special_ids: Mapping[str, int], pattern: str
) -> str:
    """Return a tokenizer.json that gives the same ids in the `tokenizers` package.

    The model's vocabulary lists the special tokens as plain text, since the package looks up
    their ids there.
    """
    by_bytes = {token: token_id for token_id, token in sorted(vocab.items(), reverse=True)}
    model_tokens = {left + right for left, right in merges}
    only_special = {token.encode() for token in special_ids} - model_tokens
    by_token = {
        to_symbols(token): token_id
        for token, token_id in sorted(by_bytes.items(), key=lambda item: item[1])
        if token not in only_special or len(token) == 1
    }
    for token, token_id in special_ids.items():
        if by_token.setdefault(token, token_id) != token_id:
            raise ValueError(
                f"special token {token!r} has the same spelling in tokenizer.json as byte-level "
                f"token {by_token[token]}; use ASCII characters only, as in '<|endoftext|>'"
            )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pattern == "gpt2":
        pre_tokenizer: dict = {**byte_level, "use_regex": True}
    else:
        split = {
            "type": "Split",
            "pattern": {"Regex": find_pattern(pattern).split},
            "behavior": "Isolated",
            "invert": False,
        }
        pre_tokenizer = {
            "type": "Sequence",
            "pretokenizers": [split, {**byte_level, "use_regex": False}],
        }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, token_id in sorted(special_ids.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": by_token,
            "merges": [f"{to_symbols(left)} {to_symbols(right)}" for left, right in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


CONFIG = "bpe.json"
NAMES = "vocab.json", "merges.txt", CONFIG  # of the files that a tokenizer is read from


def write_config(folder: Path, pattern: str, special_ids: Mapping[str, int]) -> None:
    """Write what vocab.json and merges.txt do not contain: the pattern and the special tokens."""
    config = {"pattern": pattern, "special_tokens": dict(special_ids)}
    write_text(folder / CONFIG, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def read_config(folder: Path) -> tuple[str, dict[str, int]]:
    """Return the pattern and the special tokens with their ids."""
    path = folder / CONFIG
    config = read_json(path, missing=MISSING)
    pattern, special_ids = config.get("pattern"), config.get("special_tokens")
    if not isinstance(pattern, str) or not isinstance(special_ids, dict):
        raise ValueError(
            f"{path}: needs a string `pattern` ({', '.join(PATTERNS)} or an expression) and an "
            "object `special_tokens`; write it with Tokenizer.save"
        )
    for token, token_id in special_ids.items():
        check_id(token_id, f"{path}: special token {token!r:.80}")
    return pattern, special_ids
