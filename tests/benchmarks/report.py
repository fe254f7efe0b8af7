"""The result of a benchmark: on what it was measured, and rows of one Markdown table."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lmlib.threads import num_cores
from tests.benchmarks.contest import ROOT
from tests.benchmarks.timing import Spread

Row = Mapping[str, object]  # column -> a text, a number, or the Spread of one


def machine() -> dict[str, str]:
    """Return hardware, system, versions, commit and date."""
    return {
        "processor": processor(),
        "cores": str(num_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "load": f"{os.getloadavg()[0]:.1f} when it began",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def processor() -> str:
    """Return the name that the processor gives itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit, marked if files under version control were changed since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown, for want of git"
    return described.stdout.strip() or "not in a git repository"


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table whose columns line up; columns come as first seen."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    lines = [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def cell(value: object) -> str:
    """Return a value as text, a spread as `median (lowest to highest)`."""
    if isinstance(value, Spread):
        return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
