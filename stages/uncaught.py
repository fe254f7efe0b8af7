"""Errors before `run_stage`: a library that finds no memory to be loaded into is one sentence."""

import os
import sys
from types import TracebackType

from lmlib.memory import out_of_memory


def explain(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Show an uncaught error: a lack of memory in one sentence, any other with its traceback."""
    sentence = out_of_memory(error, "end other programs, or raise the limit (`ulimit -v`)")
    if sentence and not os.environ.get("LMLIB_DEBUG"):
        sys.stderr.write(f"error: {sentence}\n")
    else:
        sys.__excepthook__(kind, error, traceback)
