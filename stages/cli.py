"""What every stage does around its work: logging, one clear sentence for bad input."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from lmlib.files import write_atomically
from lmlib.signals import terminate_with_parent
from stages.paths import root

SETTLED_AFTER_S = 60.0


def run_stage(main: Callable[[], None]) -> None:
    """Run `main`; bad input ends it with one sentence on stderr and exit status 1.

    LMLIB_DEBUG=1 in the environment shows the traceback behind the sentence. Ctrl-C ends it
    with 130 and no traceback.
    """
    level = logging.DEBUG if os.environ.get("LMLIB_DEBUG") else logging.INFO
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in ("lmlib", "stages", "__main__"):  # the last is the stage itself
        logging.getLogger(name).setLevel(level)
    terminate_with_parent()
    tqdm.monitor_interval = 0  # no monitor thread for the bars: under a limit its start could hang
    try:
        take_compiled_kernels(root())
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        logging.getLogger("stages").debug("traceback of the error below", exc_info=True)
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def remedy(command: str) -> Iterator[None]:
    """Add to an error about a file the command that makes the file again."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run `{command}`") from error
    except ValueError as error:
        raise ValueError(f"{error}; run `{command}`") from error


def take_compiled_kernels(project: Path) -> None:
    """Copy what Numba has compiled in `project` to here: a temporary copy of it (DVC's --temp).

    Nothing happens in the project itself. To compile everything again takes half a minute. Numba
    takes what it finds where the source of the module is the same, by its hash in the index (.nbi).
    """
    if project == Path.cwd():
        return
    for index in project.glob("lmlib/**/__pycache__/*.nbi"):
        here = index.relative_to(project)
        before = index.stat().st_mtime
        # Numba writes an index before the code (.nbc) it names: this one may be of another source
        if here.exists() or time.time() - before < SETTLED_AFTER_S:
            continue
        for code in index.parent.glob(f"{index.stem}.*.nbc"):
            write_atomically(code.relative_to(project), code.read_bytes())
        content = index.read_bytes()
        if index.stat().st_mtime == before:
            write_atomically(here, content)
