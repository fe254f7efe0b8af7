"""The workers of train_tokenizer and encode: a cluster's, or processes of this machine.

They change no result, so this is no dependency of a stage, and `cluster.scheduler` no param of one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager

from lmlib.cluster import ClusterParams, connected
from lmlib.corpus import Text
from lmlib.corpus.texts import stored_bytes
from lmlib.memory import available_bytes
from lmlib.params import load_params
from lmlib.threads import num_cores
from lmlib.tokenizer.workers import ProcessExecutor
from stages.paths import PARAMS, partial_folder

LEAST_BYTES = 1 << 26  # of files: a process repays its start
PROCESS_BYTES = 1 << 30  # of memory for each process


@contextmanager
def cluster_workers() -> Iterator[Executor | None]:
    """Yield an executor of the cluster's workers, or None; raise what `connected` raises."""
    scheduler = load_params(PARAMS, "cluster", ClusterParams).scheduler
    with connected(scheduler, partial_folder()) as executor:
        yield executor


@contextmanager
def workers_for(texts: Sequence[Text], cluster: Executor | None) -> Iterator[Executor | None]:
    """Yield what works on texts: the cluster, processes of this machine, or None, its threads.

    Threads share the work on one file after the other. Unpacking a file, as of parquet, is work of
    a single thread, so several such files go to a process each.
    """
    packed = [text for text in texts if not text.is_in_place]
    number = min(num_cores(), len(packed), available_bytes() // PROCESS_BYTES)
    if cluster is not None or number < 2 or stored_bytes(packed) < LEAST_BYTES:
        yield cluster
        return
    with ProcessExecutor(number) as executor:
        yield executor
