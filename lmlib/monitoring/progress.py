"""Progress bars on stderr, if that is a terminal: a log file gets none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

DRAW_EVERY_S = 0.2
# few fields, so that they and the bar fit 80 columns
KNOWN_TOTAL = (
    "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit}, {remaining} left{postfix}"
)
NO_TOTAL = "{desc} {n_fmt}{unit}, {elapsed}"

OnBytes = Callable[[int], None]  # (number of bytes since the last call)
OnProgress = Callable[[str, int, int], None]  # (kind of work, amount done, total amount)


def progress_bar(
    title: str, total: int | None, unit: str, initial: int = 0, *, shown: bool = True
) -> tqdm:
    """Return a bar; its attribute `disable` is true if it is not shown, as in log files.

    unit:  in the plural; "B" is bytes, which show as MB
    """
    return tqdm(
        desc=title,
        total=total,
        initial=initial,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        mininterval=DRAW_EVERY_S,
        dynamic_ncols=True,
        leave=None,  # it stays, unless it was below another bar
        bar_format=NO_TOTAL if total is None else KNOWN_TOTAL,
        disable=None if shown else True,  # None: if stderr is not a terminal
    )


@contextmanager
def byte_bar(title: str, total: int | None, initial: int = 0) -> Iterator[OnBytes]:
    """Show bytes; yield the function to call with each number of bytes."""
    with progress_bar(title, total, "B", initial) as bar:

        def on_bytes(count: int) -> None:
            bar.update(count)

        yield on_bytes


@contextmanager
def progress_bars(units: dict[str, str]) -> Iterator[OnProgress]:
    """Yield a function that draws a bar for each kind of work, one after the other.

    `units` maps each kind to its unit. A total of 0 is one that is not known.
    """
    bar: tqdm | None = None
    shown = ""  # the kind of work that `bar` shows

    def on_progress(kind: str, done: int, total: int) -> None:
        nonlocal bar, shown
        if bar is None or kind != shown:
            if bar is not None:
                bar.close()
            bar, shown = progress_bar(kind, total or None, units[kind]), kind
        bar.update(done - bar.n)

    try:
        yield on_progress
    finally:
        if bar is not None:
            bar.close()
