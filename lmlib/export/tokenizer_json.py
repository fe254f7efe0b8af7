"""Read a tokenizer.json of the `tokenizers` package."""

import json
from collections.abc import Mapping
from typing import Any

from lmlib.params import shown
from lmlib.tokenizer import Tokenizer
from lmlib.tokenizer.files import SYMBOL_OF_BYTE, check_id, from_symbols, huggingface_json
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
        for token in theirs["added_tokens"]:
            check_id(token["id"], f"token {token['content']!r:.80}")
        for token, token_id in theirs["vocab"].items():
            check_id(token_id, f"token {token!r:.80}")
        special_ids = {token["content"]: token["id"] for token in theirs["added_tokens"]}
        vocab = {token_id: from_symbols(token) for token, token_id in theirs["vocab"].items()}
        vocab |= {token_id: token.encode() for token, token_id in special_ids.items()}
        pairs = (merge.split(" ") for merge in theirs["merges"])
        merges = [(from_symbols(left), from_symbols(right)) for left, right in pairs]
        pattern = _pattern(theirs["pre_tokenizer"])
        tokenizer = Tokenizer(
            dict(sorted(vocab.items())), merges, list(special_ids), pattern=pattern
        )
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{where}: not a byte-level BPE tokenizer: {reason:.300}") from error
    written = huggingface_json(tokenizer.vocab, merges, tokenizer.special_ids, pattern)
    for name, ours in _settings(json.loads(written)).items():
        if theirs.get(name, ours) != ours:
            raise ValueError(
                f"{where}: {name} is {shown(theirs[name])}, which this project cannot express; "
                f"it must be {shown(ours)}"
            )
    return tokenizer


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that affect ids, in one flat table, in the form that we write."""
    settings = {**document, **document["model"]}
    # of calls and not of the vocabulary, or of the text that ids give
    dropped = ["model", "version", "truncation", "padding", "decoder"]
    if settings["vocab"].keys() >= set(SYMBOL_OF_BYTE):  # no byte is without a token
        dropped += ["unk_token", "fuse_unk", "byte_fallback"]
    for name in dropped:
        settings.pop(name, None)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        settings[name] = settings.get(name) or None
    # newer writers give each merge as a list
    settings["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in settings["merges"]
    ]
    settings["added_tokens"] = [
        # without a normalizer, nothing is normalized; `special` is for decoding
        {**token, "normalized": False, "special": True}
        for token in sorted(settings["added_tokens"], key=lambda token: token["id"])
    ]
    settings["pre_tokenizer"] = _pre_tokenizer(settings["pre_tokenizer"])
    if not _steps(settings.get("normalizer"), "normalizers"):
        settings["normalizer"] = None
    if not any(map(_adds_tokens, _steps(settings.get("post_processor"), "processors"))):
        settings["post_processor"] = None
    return settings


def _steps(step: Mapping[str, Any] | None, parts: str) -> list[Mapping[str, Any]]:
    """Return a step, or the parts of a sequence of steps."""
    if not step:
        return []
    return list(step[parts]) if step.get("type") == "Sequence" else [step]


def _adds_tokens(processor: Mapping[str, Any]) -> bool:
    """Return False for a template that adds nothing, and for one that only moves offsets."""
    if processor.get("type") == "TemplateProcessing":
        return bool(processor.get("special_tokens"))
    return processor.get("type") != "ByteLevel"


def _pre_tokenizer(step: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the steps in the form that we write, without what only moves offsets."""
    steps = [
        {"use_regex": True, **part, "trim_offsets": True} if part["type"] == "ByteLevel" else part
        for part in _steps(step, "pretokenizers")
    ]
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _pattern(pre_tokenizer: Mapping[str, Any]) -> str:
    """Return the name of the pattern, or the expression itself."""
    if pre_tokenizer["type"] == "ByteLevel":
        return "gpt2"
    split: str = pre_tokenizer["pretokenizers"][0]["pattern"]["Regex"]
    return _NAME_OF_SPLIT.get(split, split)
