"""Write lmlib/tokenizer/characters.bin: the class of every character in UNICODE_VERSION.

Run:     python -m tests.tokenizer.make_characters
Source:  the Unicode Character Database in Python's `unicodedata`, or, where Python has another
         version, in the package `unicodedata2`, whose version is that of Unicode.

To change the version, set UNICODE_VERSION, install that version of `unicodedata2`, and run this.
"""

import unicodedata
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from lmlib.tokenizer import characters
from lmlib.tokenizer.characters import (
    CLASS_BITS,
    NUM_CODE_POINTS,
    UNICODE_VERSION,
)
from lmlib.tokenizer.kernels.records import (
    CASELESS,
    LOWER,
    MARK,
    NUMBER,
    OTHER,
    SPACE,
    UPPER,
)

FILE = Path(characters.__file__).with_suffix(".bin")

# by general category, or by its first letter
CLASS_OF = {
    "M": MARK,
    "N": NUMBER,
    "Z": SPACE,
    "Lu": UPPER,
    "Lt": UPPER,
    "Ll": LOWER,
    "Lm": CASELESS,
    "Lo": CASELESS,
}
# White_Space is category Z and these control characters.
WHITE_CONTROLS = "\t\n\v\f\r\x85"


def find_database() -> ModuleType:
    """Return a module like `unicodedata` of UNICODE_VERSION; raise ImportError if there is none."""
    if unicodedata.unidata_version == UNICODE_VERSION:
        return unicodedata
    database = import_module("unicodedata2")
    if database.unidata_version != UNICODE_VERSION:
        raise ImportError(
            f"unicodedata2 has Unicode {database.unidata_version}, needed is {UNICODE_VERSION}: "
            f"pip install 'unicodedata2=={UNICODE_VERSION}'"
        )
    return database


def make_characters(database: ModuleType) -> bytes:
    """Return the contents of characters.bin."""

    def class_of(character: str) -> int:
        if character in WHITE_CONTROLS:
            return SPACE
        category = database.category(character)
        return CLASS_OF.get(category, CLASS_OF.get(category[0], OTHER))

    classes = np.array([class_of(chr(code)) for code in range(NUM_CODE_POINTS)])
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    return (starts << CLASS_BITS | classes[starts]).astype("<u4").tobytes()


if __name__ == "__main__":
    FILE.write_bytes(make_characters(find_database()))
