"""Progress bars that count bytes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

OnBytes = Callable[[int], None]


@contextmanager
def byte_bar(title: str, total: int | None, initial: int = 0) -> Iterator[OnBytes]:
    """Show bytes and bytes/s on stderr; yield the function to call with each number of bytes."""
    seconds = 0.2 if sys.stderr.isatty() else 10.0  # a log file gets a line now and then
    with tqdm(
        desc=title, total=total, initial=initial, unit="B", unit_scale=True, mininterval=seconds
    ) as bar:

        def on_bytes(count: int) -> None:
            bar.update(count)

        yield on_bytes
