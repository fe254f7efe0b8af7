"""Run `dvc repro`; of two that `make` starts in one folder the second waits.

Alone, DVC ends the second one with an error: the files of a stage that runs are locked.

Run:    make repro
"""

import os
import sys
from pathlib import Path

from stages.install import lock


def main() -> None:
    """Become `dvc repro`, which keeps the lock until it ends."""
    file = lock(Path("dvc.yaml"), "another `make` builds here")
    os.set_inheritable(file.fileno(), True)
    os.execvp("dvc", ["dvc", "repro", *sys.argv[1:]])


if __name__ == "__main__":
    main()
