"""What every stage does around its work: logging, progress, one clear sentence for bad input."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from lmlib.files import write_atomically
from lmlib.tracking import root
from stages.parent import terminate_with_parent

SETTLED_AFTER_S = 60.0

OnProgress = Callable[[str, int, int], None]  # (what is done, how much of it, of how much)


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
    tqdm.monitor_interval = 0  # no thread that looks after bars: under a limit its start could hang
    try:
        take_compiled_kernels(root())
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        logging.getLogger("stages").debug("traceback of the error below", exc_info=True)
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def take_compiled_kernels(project: Path) -> None:
    """Copy what Numba has compiled in `project` to here: a temporary copy of it (DVC's --temp).

    Nothing happens in the project itself. To compile everything anew takes half a minute. Numba
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


@contextlib.contextmanager
def progress_bars(units: dict[str, str]) -> Iterator[OnProgress]:
    """Give a function that draws a bar for each kind of work, one after the other.

    `units` maps the kind to its unit; bytes ("B") show as MB and MB/s.
    """
    bar: tqdm | None = None

    def on_progress(what: str, done: int, total: int) -> None:
        nonlocal bar
        if bar is None or bar.desc.removesuffix(": ") != what:
            if bar is not None:
                bar.close()
            unit = units[what]
            bar = tqdm(desc=what, total=total, unit=unit, unit_scale=unit == "B")
        bar.update(done - bar.n)

    try:
        yield on_progress
    finally:
        if bar is not None:
            bar.close()
