"""Tokenizer files: GPT-2's vocab.json and merges.txt, and Hugging Face's tokenizer.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmlib.files import write_atomically
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


def read_json(path: Path) -> dict:
    """Return the JSON object in a file; raise FileNotFoundError or ValueError, naming the file."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); train the tokenizer again") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: holds a {type(value).__name__}, not an object; see Tokenizer.save"
        )
    return value


def read_text(path: Path) -> str:
    """Return the text of a file without newline translation."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give the path of a saved tokenizer, or train one first"
        )
    return path.read_bytes().decode("utf-8")


def read_vocab(path: Path) -> dict[int, bytes]:
    """Return id -> bytes from a vocab.json, in the order of ids."""
    by_token = read_json(path)
    if not all(type(token_id) is int and token_id >= 0 for token_id in by_token.values()):
        raise ValueError(f"{path}: every value should be a token id, an integer from 0 up")
    vocab = {token_id: from_symbols(token) for token, token_id in by_token.items()}
    if len(vocab) < len(by_token):
        raise ValueError(f"{path}: two tokens have the same id; give each its own")
    return dict(sorted(vocab.items()))


def read_merges(path: Path) -> list[tuple[bytes, bytes]]:
    """Return the merges from a merges.txt: one pair per line, the highest priority first."""
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
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
    config = read_json(path)
    pattern, special_ids = config.get("pattern"), config.get("special_tokens")
    if not isinstance(pattern, str) or not isinstance(special_ids, dict):
        raise ValueError(
            f"{path}: needs a string `pattern` ({', '.join(PATTERNS)} or an expression) and an "
            "object `special_tokens`; write it with Tokenizer.save"
        )
    return pattern, special_ids
