"""Send to MLflow what it missed while it was unreachable; the next stage to run does so, too.

Reads:  models/.tracking/, where the events wait.
Run:    python -m stages.sync_tracking   (from the root; MLFLOW_TRACKING_URI: the destination)
"""

from lmlib.monitoring.tracking import DAMAGED, RETRY, replay, tracking_uri
from lmlib.redaction import redact
from stages.cli import run_stage, say
from stages.paths import root, spool_folder


def main() -> None:
    """Print how many events were sent; raise OSError if some are left."""
    spool = spool_folder()
    sent = replay(spool, root())
    say(f"{sent} events sent to {redact(tracking_uri(root()))}\n")
    if left := len(list(spool.glob("*.jsonl"))):
        raise OSError(
            f"{spool}: {left} runs are still there, because the tracker does not accept them (see "
            "above) or their processes are still running; try again later"
        )
    if damaged := len(list(spool.glob(f"*{DAMAGED}"))):
        raise OSError(
            f"{spool}: {damaged} runs are damaged (see above); repair or delete them, then run "
            f"`{RETRY}`"
        )


if __name__ == "__main__":
    run_stage(main)
