"""Progress bars on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

LOG_EVERY_S = 10.0  # for log files; terminals redraw the bar more often
DRAW_EVERY_S = 0.2

OnBytes = Callable[[int], None]  # (number of bytes since the last call)
OnProgress = Callable[[str, int, int], None]  # (kind of work, amount done, total amount)


def _bar(title: str, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """Return a bar; bytes ("B") show as MB and MB/s."""
    return tqdm(
        desc=title,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        mininterval=DRAW_EVERY_S if sys.stderr.isatty() else LOG_EVERY_S,
    )


@contextmanager
def byte_bar(title: str, total: int | None, initial: int = 0) -> Iterator[OnBytes]:
    """Show bytes and bytes/s; yield the function to call with each number of bytes."""
    with _bar(title, total, "B", initial) as bar:

        def on_bytes(count: int) -> None:
            bar.update(count)

        yield on_bytes


@contextmanager
def progress_bars(units: dict[str, str]) -> Iterator[OnProgress]:
    """Yield a function that draws a bar for each kind of work, one after the other.

    `units` maps each kind to its unit.
    """
    bar: tqdm | None = None
    shown = ""  # the kind of work that `bar` shows

    def on_progress(kind: str, done: int, total: int) -> None:
        nonlocal bar, shown
        if bar is None or kind != shown:
            if bar is not None:
                bar.close()
            bar, shown = _bar(kind, total, units[kind]), kind
        bar.update(done - bar.n)

    try:
        yield on_progress
    finally:
        if bar is not None:
            bar.close()
