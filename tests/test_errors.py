"""lmlib/errors.py: errors as sentences."""

import errno
import os

import pytest

from lmlib.errors import ADVICE, describe


@pytest.mark.parametrize("number", sorted(ADVICE))
def test_an_error_of_the_system(number: int) -> None:
    reason = os.strerror(number)
    end = f"{reason[0].lower()}{reason[1:]}; {ADVICE[number]}"
    assert describe(OSError(number, reason, "models/lm")) == f"models/lm: {end}"
    assert describe(OSError(number, reason)) == end


def test_other_errors() -> None:
    assert describe(OSError("the server is gone")) == "the server is gone"
    assert describe(OSError(errno.EPIPE, "Broken pipe")) == "[Errno 32] Broken pipe"
    no_folder = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert describe(no_folder).endswith("in ['/tmp']; set TMPDIR to a folder with free space")
    assert describe(MemoryError()) == "out of memory"
    assert describe(OSError()) == "OSError"
    assert describe(ValueError("d_model is 0")) == "d_model is 0"
    assert describe(RuntimeError("can't start new thread")).startswith("no thread can be started;")
