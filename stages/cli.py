"""What every stage needs around its work: logging, and one clear sentence for bad input."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from lmlib.redaction import RedactingFormatter, redact

ADVICE = {
    errno.ENOSPC: "free some space, for example with `make prune`, and run again",
    errno.EDQUOT: "free some of this user's space, for example with `make prune`, and run again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EACCES: "allow this user to read and write there",
    errno.EPERM: "allow this user to read and write there",
    errno.EROFS: "make it possible to write there, or work in a copy elsewhere",
    errno.EISDIR: "move the folder away, since a file is needed there",
    errno.ENOTDIR: "move the file away, since a folder is needed there",
    errno.EEXIST: "move what is there away",
    errno.ENOENT: "check the name",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "close other programs: the system has no more open files to give",
    errno.EIO: "the disk failed; copy what you need from it",
    errno.EAGAIN: "raise the limit on processes and threads (`ulimit -u`), or close other programs",
}


def sentence(error: BaseException) -> str:
    """Return what is wrong, where, and what to do, without the secrets in addresses."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in ADVICE:
        where = f"{error.filename}: " if error.filename else ""
        what = f"{error.strerror}"
        text = f"{where}{what[:1].lower()}{what[1:]}; {ADVICE[error.errno]}"
    elif isinstance(error, RuntimeError):
        text = f"no thread can be started; {ADVICE[errno.EAGAIN]}"
    return redact(text)


def run_stage(main: Callable[[], None]) -> None:
    """Run `main`; bad input ends it with one sentence on stderr and exit status 1.

    LMLIB_DEBUG=1 in the environment shows the traceback as well. Ctrl-C ends it with status 130 and
    no traceback.
    """
    level = logging.DEBUG if os.environ.get("LMLIB_DEBUG") else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    for name in ("lmlib", "stages", "__main__"):  # the last is the stage itself
        logging.getLogger(name).setLevel(level)
    tqdm.monitor_interval = 0  # no monitor thread: under a limit on threads its start could hang
    try:
        main()
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't start new thread" not in str(error):
            raise
        logging.getLogger("stages").debug("traceback of the error below", exc_info=True)
        sys.exit(f"error: {sentence(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def remedy() -> Iterator[None]:
    """Add, to an error about an out of the pipeline, the commands that rebuild it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run `dvc repro`") from error
    except ValueError as error:
        raise ValueError(f"{error}; run `make verify`, then `dvc repro`") from error
