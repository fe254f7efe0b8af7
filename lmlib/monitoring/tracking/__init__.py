"""Tracking: one MLflow run per trained model, fed through a journal that no tracker can block.

    training process                      a second process, only while a run is open
    run.log(...) ──> journal (JSON lines) ──> shipper ──> MLflow
       microseconds      on disk, in the spool     batches, retries, patience

The trainer appends to a file and never imports mlflow (3 s), so it does not stop, slow down or fail
when a tracking server is down or slow, hangs or rejects requests. What a shipper could not send
stays in the spool; the next `open_run`, or `replay`, sends it. Sending twice is harmless: a run is
found by the tag of its fingerprint, and steps it already holds are skipped. A journal with damaged
lines is set aside, under a name that ends in DAMAGED, once the rest of it was sent.
"""

from lmlib.monitoring.tracking.events import DAMAGED, RETRY
from lmlib.monitoring.tracking.journal import (
    LOCAL_URI,
    Dataset,
    Run,
    experiment_name,
    flatten,
    open_run,
    replay,
    tracking_uri,
    without_proxy,
)

__all__ = [
    "DAMAGED",
    "LOCAL_URI",
    "RETRY",
    "Dataset",
    "Run",
    "experiment_name",
    "flatten",
    "open_run",
    "replay",
    "tracking_uri",
    "without_proxy",
]
