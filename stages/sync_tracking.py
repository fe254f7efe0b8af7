"""Send to MLflow what it missed while it was unreachable; the next stage to run does so, too.

Reads:  models/.tracking/, where the events wait.
Run:    python -m stages.sync_tracking   (from the root; MLFLOW_TRACKING_URI: the destination)
"""

import sys

from lmlib.monitoring.tracking import replay, tracking_uri
from stages.cli import run_stage
from stages.paths import root, spool_folder


def main() -> None:
    """Print how many events were sent; raise OSError if some are left."""
    spool = spool_folder()
    sent = replay(spool, root())
    left = len(list(spool.glob("*.jsonl")))
    sys.stdout.write(f"{sent} events sent to {tracking_uri(root())}\n")
    if left:
        raise OSError(
            f"{spool}: {left} runs are still there, because the tracker does not accept them (see "
            "above) or their processes are still running; try again later"
        )


if __name__ == "__main__":
    run_stage(main)
