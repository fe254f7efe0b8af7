"""Serve the MLflow UI over the runs of this repository, until Ctrl-C.

Run:    make ui   (by hand, from the repository root: python -m stages.ui --port 5001)
"""

import argparse
import os
import sys

from lmlib.tracking import tracking_uri
from stages.cli import run_stage


def main() -> None:
    """Become the server: MLFLOW_TRACKING_URI, or the database of this repository."""
    parser = argparse.ArgumentParser(prog="python -m stages.ui", description="Serve the MLflow UI.")
    parser.add_argument("--port", default="5000")
    port = parser.parse_args().port
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        sys.stdout.write(f"the runs are on a tracking server: open {uri}\n")
        return
    # without job execution the server starts in a third of the time
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    sys.stdout.write(f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    os.execv(command[0], [*command, "--backend-store-uri", uri])


if __name__ == "__main__":
    run_stage(main)
