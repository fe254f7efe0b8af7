"""Workers on other machines, or other processes of this one: the section `cluster`.

What they compute has the same bits as without them, so nothing here can change a result.
"""

import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlib.redaction import has_secret
from lmlib.threads import num_cores, start_thread

CONNECT_S = 30  # to wait for a scheduler, and for its first worker
WATCH_S = 0.5  # between looks at the connection
FAILURES = 3  # workers that may die at a task before it is given up
GONE = (
    "cluster.scheduler: the scheduler at {scheduler} is gone; start it and its workers, and run "
    "again: what is finished is kept"
)
MISSING = (
    "cluster.scheduler is {scheduler}, which needs Dask: install it with "
    "pip install -c constraints.txt -e '.[dask]', or set cluster.scheduler to \"\""
)


@dataclass(frozen=True)
class ClusterParams:
    """The section `cluster` of params.yaml.

    scheduler:  "" (this process), tcp://HOST:PORT or tls://HOST:PORT (Dask's scheduler), or local:N
                (N worker processes on this machine)
    store:      "" (data/tokens, in a folder that all machines see), or the address of a folder that
                fsspec knows, as in s3://BUCKET/FOLDER

    Raises ValueError for another form, and for an address with a secret: params are kept in
    dvc.lock, in DVC's caches and in MLflow.
    """

    scheduler: str
    store: str

    def __post_init__(self) -> None:
        for key, value in (("scheduler", self.scheduler), ("store", self.store)):
            if has_secret(value) or "@" in value.partition("://")[2].partition("/")[0]:
                raise ValueError(
                    f"{key} is an address with a user name, a password, a query or a fragment, "
                    "which dvc.lock and MLflow would keep; write it without, and give a login in "
                    "the environment (AWS_PROFILE, ...) or in the configuration of fsspec or Dask"
                )
        if self.scheduler and not re.fullmatch(
            r"local:[1-9][0-9]{0,3}|(tcp|tls)://[^\s/]+:[0-9]{1,5}", self.scheduler, re.ASCII
        ):
            raise ValueError(
                f"scheduler is {self.scheduler!r:.80}; write tcp://HOST:8786, or local:4 for four "
                'processes of this machine, or ""'
            )
        if self.store and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s:]+", self.store, re.ASCII):
            raise ValueError(
                f'store is {self.store!r:.80}; write an address, as in s3://bucket/folder, or ""'
            )


@contextmanager
def connected(scheduler: str, folder: Path | None = None) -> Iterator[Executor | None]:
    """Yield an executor of the workers that `ClusterParams.scheduler` names; None for "".

    Workers of this machine have their temporary files in `folder`, by default in that of Dask.
    Raises ValueError if Dask is missing, ConnectionError if there is no scheduler or no worker, or
    if the scheduler is lost in the `with` block.
    """
    if not scheduler:
        yield None
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError(MISSING.format(scheduler=scheduler)) from error

    for name in ("distributed", "distributed.client"):  # what matters here becomes an error
        logging.getLogger(name).setLevel(logging.CRITICAL)
    kind, _, count = scheduler.partition(":")
    if kind != "local":
        with _client(scheduler, lambda: Client(scheduler, timeout=CONNECT_S)) as executor:
            yield executor
        return
    with (
        LocalCluster(
            n_workers=min(int(count), 4 * num_cores()),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # any free port; the default may be taken
            host="127.0.0.1",
            memory_limit=0,
            local_directory=None if folder is None else str(folder.absolute()),
        ) as cluster,
        _client(scheduler, lambda: Client(cluster)) as executor,
    ):
        yield executor


def use_own_folder(dask_worker: Any) -> None:
    """Let tasks put temporary files into the worker's folder, which Dask removes if it dies."""
    tempfile.tempdir = dask_worker.local_directory


@contextmanager
def _client(scheduler: str, connect: Any) -> Iterator[Executor]:
    """Yield an executor of a client, with errors of one sentence."""
    from distributed import KilledWorker

    try:
        client = connect()
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"cluster.scheduler: no scheduler answers at {scheduler}; start one with "
            '`dask scheduler`, correct the address, or set it to "" for this machine'
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise ConnectionError(
                f"cluster.scheduler: {scheduler} has no workers; start some with "
                f"`dask worker {scheduler}`"
            ) from error
        client.register_worker_callbacks(use_own_folder)
        try:
            with _watched(client, scheduler) as executor:
                yield executor
        except KilledWorker as error:
            raise MemoryError(
                f"a task was given up: the workers that ran it died, {FAILURES + 1} in a row, most "
                "likely for lack of memory"
            ) from error
        except RuntimeError as error:
            if client.status == "running" and "scheduler is gone" not in str(error):
                raise
            raise ConnectionError(GONE.format(scheduler=scheduler)) from error


class _Workers(Executor):
    """Dask's executor, which knows the tasks under way."""

    def __init__(self, client: Any) -> None:
        self._client = client  # `count_workers` asks it
        self._executor = client.get_executor(pure=False)
        self.waiting: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule fn(*args, **kwargs) on a worker."""
        future = self._executor.submit(fn, *args, **kwargs)
        self.waiting.add(future)
        future.add_done_callback(self.waiting.discard)
        return future


@contextmanager
def _watched(client: Any, scheduler: str) -> Iterator[Executor]:
    """Yield an executor whose tasks fail with ConnectionError once the scheduler is gone.

    Dask itself cancels those that were submitted before it notices, and never ends later ones.
    """
    workers = _Workers(client)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(WATCH_S):
            if client.status != "running":
                for future in list(workers.waiting):
                    with suppress(InvalidStateError):  # it has just ended
                        future.set_exception(ConnectionError(GONE.format(scheduler=scheduler)))

    start_thread(watch)
    try:
        yield workers
    finally:
        is_over.set()
