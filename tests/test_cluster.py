"""The section `cluster`, and how a cluster is reached."""

import os
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from lmlib import cluster
from lmlib.cluster import ClusterParams, connected
from tests.clusters import dask_cluster


@pytest.mark.parametrize(
    ("scheduler", "store"),
    [("", ""), ("local:2", "s3://b/f"), ("tcp://h:8786", "memory://f"), ("tls://[::1]:1", "")],
)
def test_valid_params(scheduler: str, store: str) -> None:
    ClusterParams(scheduler, store)


@pytest.mark.parametrize(
    ("scheduler", "store", "message"),
    [
        ("host:8786", "", "write tcp://HOST:8786, or local:4"),
        ("local:0", "", "write tcp://HOST:8786, or local:4"),
        ("tcp://host", "", "write tcp://HOST:8786, or local:4"),
        ("tcp://me:pw@host:8786", "", "^scheduler is an address with a user name, a password"),
        ("", "data/tokens", "write an address, as in s3://bucket/folder"),
        ("", "s3://key:pw@bucket/f", "^store is an address with a user name, a password"),
        ("", "s3://bucket/f?token=pw", "^store is an address with a user name, a password"),
    ],
)
def test_params_that_are_refused(scheduler: str, store: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ClusterParams(scheduler, store)
    assert "pw" not in str(caught.value)


def test_no_scheduler_is_no_executor() -> None:
    with connected("") as executor:
        assert executor is None


def test_without_dask_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    message = r"needs Dask: install it with .*\[dask\]"
    with pytest.raises(ValueError, match=message), connected("local:2"):
        pass


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    message = "no scheduler answers at tcp://127[.]0[.]0[.]1:1; start"
    with pytest.raises(ConnectionError, match=message), connected("tcp://127.0.0.1:1"):
        pass


def test_processes_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    with connected("local:2", tmp_path_factory.mktemp("workers")) as executor:
        assert executor is not None
        pids = {executor.submit(_pid, number).result() for number in range(8)}
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.slow
def test_a_task_submitted_after_the_scheduler_died_fails(tmp_path: Path) -> None:
    """Dask alone would let it wait for ever."""
    with dask_cluster(tmp_path, 1) as running, connected(running.address) as executor:
        assert executor is not None
        assert executor.submit(_pid, 0).result() > 0
        running.scheduler.kill()
        running.scheduler.wait()
        time.sleep(1)
        with pytest.raises((ConnectionError, CancelledError)):
            executor.submit(_pid, 1).result(timeout=30)


def _pid(_number: int) -> int:
    return os.getpid()
