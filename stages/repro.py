"""Run `dvc repro`; if `make` starts two in one folder, the second waits.

Without this, DVC ends the second one with an error: a running stage locks its files.

Run:    make repro
"""

import os
import sys
from pathlib import Path

from stages.install import lock


def main() -> None:
    """Become `dvc repro`, which keeps the lock until it ends."""
    file = lock(Path("dvc.yaml"), "another `make` is building here")
    os.set_inheritable(file.fileno(), True)
    os.execvp("dvc", ["dvc", "repro", *sys.argv[1:]])


if __name__ == "__main__":
    main()
