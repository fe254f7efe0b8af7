"""Standard streams of a stage that are closed, full, or pipes without a reader."""

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def secure_streams() -> None:
    """Open those that are closed, and let nothing that stderr does not take end this process.

    Progress is not worth a training: without this, `2>&1 | tee log` ends it when tee ends, and a
    full disk under `2> log` does. A closed stream becomes the null device, since the next file that
    is opened would get its number, and what a library writes to stderr would go there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lenient(2, "w", closefd=False)),
        encoding=sys.stderr.encoding if sys.stderr else None,
        errors="backslashreplace",
        line_buffering=True,
    )


class _Lenient(io.FileIO):
    """A file that drops what it cannot take."""

    def write(self, data: "Buffer", /) -> int:
        """Write data, as much as is possible, and call it all."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
