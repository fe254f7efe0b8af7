"""What every stage needs around its work: logging, and one clear sentence for bad input."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from lmlib.errors import describe, is_about_threads
from lmlib.memory import out_of_memory
from lmlib.redaction import RedactingFormatter, redact
from lmlib.visible import visible


def run_stage(main: Callable[[], None], *, lower: str = "") -> None:
    """Run `main`; bad input ends it with one sentence on stderr and exit status 1.

    So does a lack of memory; `lower` names the parameters that then need lower values.
    LMLIB_DEBUG=1 in the environment shows the traceback as well. Ctrl-C ends it with status 130 and
    no traceback.
    """
    level = logging.DEBUG if os.environ.get("LMLIB_DEBUG") else logging.INFO
    handler = _AboveBars()
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    for name in ("lmlib", "stages", "__main__"):  # the last is the stage itself
        logging.getLogger(name).setLevel(level)
    tqdm.monitor_interval = 0  # no monitor thread: under a limit on threads its start could hang
    try:
        main()
    except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        advice = f"lower {lower}" if lower else "end other programs, or take a larger machine"
        sentence = out_of_memory(error, advice)
        if isinstance(error, RuntimeError) and sentence is None and not is_about_threads(error):
            raise
        logging.getLogger("stages").debug("traceback of the error below", exc_info=True)
        sys.exit(visible(redact(f"error: {sentence or describe(error)}")))
    except KeyboardInterrupt:
        sys.exit(130)


class _AboveBars(logging.StreamHandler):
    """Writes log lines to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; as in any handler, an error is shown and ends nothing."""
        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:  # noqa: BLE001  # what `logging` does in its own handlers
            self.handleError(record)


def say(text: str, *, ours: bool = False) -> None:
    """Show a text on stdout at once; a terminal shows control characters and does not obey them.

    It does obey those in a text that is all `ours`.
    A character that stdout's encoding lacks is spelt out, as on stderr. Raises ValueError if stdout
    is closed, and OSError, which names it, if it takes no more.
    """
    if sys.stdout is None:
        raise ValueError("stdout is closed, where the result should go; give a file or a terminal")
    if sys.stdout.isatty() and not ours:
        text = visible(text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        error.filename = error.filename or "stdout"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest when it ends
        raise


@contextlib.contextmanager
def remedy() -> Iterator[None]:
    """Add, to an error about an out of the pipeline, the commands that rebuild it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run `dvc repro`") from error
    except ValueError as error:
        raise ValueError(f"{error}; run `make verify`, then `dvc repro`") from error
