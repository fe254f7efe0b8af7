"""Start the shipper: python -m lmlib.monitoring.tracking SPOOL [--journal NAME --trainer PID]."""

import gc
import os


def main() -> None:
    """Load MLflow and run `lmlib.monitoring.tracking.shipper`."""
    # MLflow creates a million long-lived objects: collecting garbage as often as Python does by
    # default would take a quarter of the time until the first event is sent
    gc.set_threshold(100_000)
    from lmlib.monitoring.tracking import shipper

    shipper.main()
    os._exit(0)  # Python would take a second to free them, and a stage waits for this process


if __name__ == "__main__":
    main()
