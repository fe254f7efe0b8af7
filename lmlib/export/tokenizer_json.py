"""Read a tokenizer.json of the `tokenizers` package."""

import json
from collections.abc import Mapping
from typing import Any

from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.files import from_symbols, huggingface_json
from lmlib.tokenizer.patterns import PATTERNS

# `gpt2` is built into the package: its expression, if written out, counts as a custom pattern
_NAME_OF_SPLIT = {pattern.split: name for name, pattern in PATTERNS.items() if name != "gpt2"}


def parse_tokenizer_json(document: Mapping[str, Any], where: str) -> Tokenizer:
    """Return the tokenizer that a tokenizer.json describes; error messages begin with `where`.

    Writing the result again must give the same settings, so that none goes unnoticed. Raises
    ValueError, naming the setting, for one that this project's byte-level BPE does not support.
    """
    try:
        theirs = _settings(document)
        special_ids = {token["content"]: token["id"] for token in theirs["added_tokens"]}
        vocab = {token_id: from_symbols(token) for token, token_id in theirs["vocab"].items()}
        vocab |= {token_id: token.encode() for token, token_id in special_ids.items()}
        pairs = (merge.split(" ") for merge in theirs["merges"])
        merges = [(from_symbols(left), from_symbols(right)) for left, right in pairs]
        pattern = _pattern(theirs["pre_tokenizer"])
        tokenizer = Tokenizer(
            dict(sorted(vocab.items())), merges, list(special_ids), pattern=pattern
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: not a byte-level BPE tokenizer: {error!r}") from error
    written = huggingface_json(tokenizer.vocab, merges, tokenizer.special_ids, pattern)
    for name, ours in _settings(json.loads(written)).items():
        if theirs.get(name, ours) != ours:
            raise ValueError(
                f"{where}: {name} is {theirs[name]!r:.200}, which this project cannot express; "
                f"it must be {ours!r:.200}"
            )
    return tokenizer


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that affect ids, in one flat table, in the form that we write."""
    settings = {**document, **document["model"]}
    # the last two are settings of calls, not of the vocabulary
    for name in ("model", "truncation", "padding"):
        settings.pop(name, None)
    # newer writers give each merge as a list, and a template even if it adds nothing
    settings["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in settings["merges"]
    ]
    template = settings.get("post_processor") or {}
    if template.get("type") == "TemplateProcessing" and not template.get("special_tokens"):
        settings["post_processor"] = None
    return settings


def _pattern(pre_tokenizer: Mapping[str, Any]) -> str:
    """Return the name of the pattern, or the expression itself."""
    if pre_tokenizer["type"] == "ByteLevel":
        return "gpt2"
    split: str = pre_tokenizer["pretokenizers"][0]["pattern"]["Regex"]
    return _NAME_OF_SPLIT.get(split, split)
