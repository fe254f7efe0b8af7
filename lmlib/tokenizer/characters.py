r"""The class of every character in one version of Unicode, whichever version is installed.

Every release of Unicode adds letters, and `regex` follows the newest one: a tokenizer that relied
on it would split the same text differently after an upgrade. The named patterns take their classes
from characters.bin, which has the Unicode version of tiktoken 0.14 and tokenizers 0.23, so that
ids equal theirs. The kernels read the whole table. Plain Python runs `regex`, and first replaces
the characters that the installed `regex` classifies differently (`for_regex`). Custom patterns
follow the installed `regex`.

Source: general categories of the Unicode Character Database; `\s` is its property White_Space.
tests/tokenizer/make_characters.py writes characters.bin.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import regex
from numpy.typing import NDArray

from lmlib.tokenizer.kernels.records import OTHER

UNICODE_VERSION = "16.0.0"
NUM_CODE_POINTS = 0x110000

# One non-ASCII character of each class. It has that class in every version of Unicode, is not named
# in a pattern, and is not part of a contraction when case is ignored.
STAND_INS = "\u00a7\u0300\u0660\u3000\u00c0\u00e0\u05d0"

CLASS_BITS = 3  # the lowest bits of a run in characters.bin
CLASS_MASK = (1 << CLASS_BITS) - 1

# Characters seen so far that the installed `regex` puts into the same class; emptied when full.
MAX_AGREED = 1 << 16
_agreed: set[str] = set()

# The number of the group that matches is the class.
_CLASSES = regex.compile(r"(\p{M})|(\p{N})|(\s)|([\p{Lu}\p{Lt}])|(\p{Ll})|([\p{Lm}\p{Lo}])")


@lru_cache(maxsize=1)
def _runs() -> NDArray[np.uint32]:
    """Return the runs of characters of one class: start << CLASS_BITS | class, ascending."""
    return np.fromfile(Path(__file__).with_suffix(".bin"), dtype="<u4")


@lru_cache(maxsize=1)
def char_classes() -> NDArray[np.uint8]:
    """Return the class of every code point, (NUM_CODE_POINTS,) uint8."""
    runs = _runs()
    lengths = np.diff(runs >> CLASS_BITS, append=np.uint32(NUM_CODE_POINTS))
    return np.repeat((runs & CLASS_MASK).astype(np.uint8), lengths)


def char_class(character: str) -> int:
    """Return the class of one character without building the megabyte of `char_classes`."""
    runs = _runs()
    last = ord(character) << CLASS_BITS | CLASS_MASK
    return int(runs[runs.searchsorted(np.uint32(last), side="right") - 1]) & CLASS_MASK


def regex_class(character: str) -> int:
    """Return the class of one character in the installed `regex`."""
    match = _CLASSES.match(character)
    return (match and match.lastindex) or OTHER


def for_regex(text: str) -> str:
    """Return a text of the same length that `regex` splits as `text` under UNICODE_VERSION.

    Each character that the installed `regex` puts into another class is replaced by one of
    STAND_INS. Lone surrogates, which represent bytes of invalid UTF-8, stay as they are.
    """
    if text.isascii():
        return text
    changed: dict[int, str] = {}
    for character in set(text) - _agreed:
        right = char_class(character)
        if regex_class(character) == right:
            _agreed.add(character)
        else:
            changed[ord(character)] = STAND_INS[right]
    if len(_agreed) > MAX_AGREED:
        _agreed.clear()
    return text.translate(changed) if changed else text
