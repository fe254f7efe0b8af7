"""The fast path: when to use the kernels, and how a text is passed to them.

The kernels are compiled once per machine; from then on lmlib.native loads them in milliseconds.
"""

import logging
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlib import native
from lmlib.tokenizer.characters import char_classes
from lmlib.tokenizer.kernels.records import (
    CL100K,
    EDGE,
    FILTER_BITS,
    GPT2,
    O200K,
    PADDING,
    SPECIAL,
)
from lmlib.tokenizer.splitting import Splitter

logger = logging.getLogger(__name__)

KERNELS = "lmlib.tokenizer.kernels"
# Smaller texts are done in plain Python sooner than the kernels are loaded, or compiled.
ENGINE_MIN_BYTES, COMPILING_MIN_BYTES = 1 << 18, 1 << 22
MAX_BYTES = 1 << 30  # of a text, or of the long words of one counter: offsets are 32 bits wide
ENGINE_MAX_ID = (1 << 20) - 1  # tables have a row for each id
ENGINE_PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K}

# Address space, in bytes, that it takes to compile the kernels with Numba and LLVM, to load them,
# and to hold the tables and the cache of one tokenizer.
COMPILING_BYTES, LOADING_BYTES, TABLES_BYTES = 1 << 30, 1 << 28, 1 << 26


# -- loading the kernels

_cannot_load = False


def is_loaded() -> bool:
    """Return whether the kernels are loaded, so that a short text can use them too."""
    return native.is_loaded(KERNELS)


def pays(num_bytes: int) -> bool:
    """Return whether the kernels are loaded; load them first if a text of this size repays it."""
    if is_loaded():
        return True
    return num_bytes >= ENGINE_MIN_BYTES and try_load(compiling=num_bytes >= COMPILING_MIN_BYTES)


def try_load(*, compiling: bool = True) -> bool:
    """Load the kernels unless they are loaded; return False if they cannot be loaded.

    Unless `compiling`, kernels that would have to be compiled count as such.
    It does not try when too little memory is allowed: LLVM ends the process when it gets none,
    and plain Python gives the same results with little memory.
    """
    global _cannot_load
    if is_loaded():
        return True
    if _cannot_load or not fits(LOADING_BYTES):
        return False
    try:
        if not (compiling and fits(COMPILING_BYTES)) and not native.is_compiled(KERNELS):
            return False
        load()
    except (MemoryError, ImportError, OSError, SystemError) as error:
        _cannot_load = True  # half-imported packages would fail in other ways next time
        logger.warning("the tokenizer's kernels cannot be loaded (%r); using plain Python", error)
        return False
    return True


def fits(num_bytes: int) -> bool:
    """Return whether the limits of this process leave room for `num_bytes` (Linux; else True)."""
    if sys.platform != "linux":
        return True
    import resource  # exists on Unix only

    try:
        # in pages: total size, ..., data and stack
        whole, *_, data, _ = map(int, Path("/proc/self/statm").read_text().split())
    except (MemoryError, OSError):
        return False
    for limit, used in ((resource.RLIMIT_AS, whole), (resource.RLIMIT_DATA, data)):
        most, _ = resource.getrlimit(limit)
        free = most - used * resource.getpagesize()
        if most != resource.RLIM_INFINITY and free < num_bytes:
            return False
    return True


def load() -> Any:
    """Return the kernels; they are compiled the first time on a machine."""
    return native.load_kernels(KERNELS)


def padded(data: bytes) -> NDArray[np.uint8]:
    """Return the bytes and PADDING bytes after them; raise ValueError above MAX_BYTES."""
    check_size(len(data))
    array = np.empty(len(data) + PADDING, dtype=np.uint8)
    array[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return array


def check_size(num_bytes: int) -> None:
    """Raise ValueError for a text whose offsets do not fit into 32 bits."""
    if num_bytes > MAX_BYTES:
        raise ValueError(
            f"{num_bytes:,} bytes of text in one piece, the limit is {MAX_BYTES:,}; cut it up, or "
            "use smaller chunks, encode_file or encode_iterable (a file is never cut inside a "
            "pre-token, such as a run of spaces)"
        )


@dataclass(frozen=True)
class TextRules:
    """How the kernels split a text; the addresses are valid while this object lives.

    classes   address of the table with the class of every character
    special   address of a SPECIAL
    """

    pattern: int
    classes: int
    special: int
    arrays: tuple[NDArray[Any], ...]

    @staticmethod
    def of(splitter: Splitter) -> "TextRules":
        """Return the rules of a splitter; equal splitters share them."""
        return _text_rules(splitter)


@lru_cache(maxsize=32)
def _text_rules(splitter: Splitter) -> TextRules:
    tokens = splitter.special_bytes
    sizes = [len(token) for token in tokens]
    arrays = {
        "data": padded(b"".join(tokens)),
        "starts": np.cumsum([0, *sizes], dtype=np.int64),
        "heads": np.array(sorted({token[0] for token in tokens}), dtype=np.uint8),
        "masks": np.zeros(256, dtype=np.uint64),
        "filter": np.zeros(FILTER_BITS // 64, dtype=np.uint64),
        "edges": np.full((1 << (2 * sum(sizes)).bit_length(), EDGE.itemsize), 0xFF, dtype=np.uint8),
    }
    counts = {f"num_{name}": len(arrays[name]) for name in ("heads", "edges")}
    special = native.record(
        SPECIAL, num_tokens=len(tokens), longest=max(sizes, default=0), **counts, **arrays
    )
    load().fill_special(native.address_of(special))
    classes = char_classes()
    return TextRules(
        ENGINE_PATTERNS[splitter.pattern],
        native.address_of(classes),
        native.address_of(special),
        (*arrays.values(), special, classes),
    )


def find_cut(splitter: Splitter, data: bytes, first: int, last: int) -> int:
    """Return the cut that `splitter.find_cut(data, first, last)` finds, or another valid one."""
    text, rules = padded(data), TextRules.of(splitter)
    return load().find_cut(
        native.address_of(text),
        first,
        last,
        len(data),
        rules.classes,
        rules.pattern,
        rules.special,
    )
