"""The workers that `cluster.scheduler` names.

They change no result, so this is no dependency of a stage, and `cluster.scheduler` no param of one.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from lmlib.cluster import ClusterParams, connected
from lmlib.params import load_params
from stages.paths import PARAMS, partial_folder


@contextmanager
def cluster_workers() -> Iterator[Executor | None]:
    """Yield an executor of the cluster's workers, or None; raise what `connected` raises."""
    scheduler = load_params(PARAMS, "cluster", ClusterParams).scheduler
    with connected(scheduler, partial_folder()) as executor:
        yield executor
