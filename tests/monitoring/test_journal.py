"""lmlib/monitoring/tracking/journal.py: what is written, without MLflow."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmlib.monitoring.tracking import (
    DAMAGED,
    Dataset,
    Run,
    journal,
    open_run,
    replay,
    without_proxy,
)

Events = list[dict[str, Any]]
ADDRESS = "https://me:PW-1@host/a.txt?token=PW-2#PW-3"


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool whose journals nobody sends."""

    def start_nothing(*_: object, **__: object) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", ""], stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(journal, "_start_shipper", start_nothing)
    return tmp_path / "spool"


def record(spool: Path, work: Callable[[Run], None], **options: Any) -> Events:
    """Open a run, do `work`, and return the events of its journal."""
    before = set(spool.glob("*.jsonl"))
    with open_run("train", "a" * 32, root=spool.parent, spool=spool, **options) as run:
        work(run)
    (path,) = set(spool.glob("*.jsonl")) - before
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def nothing(run: Run) -> None:
    pass


def test_a_journal_is_seen_once_it_is_locked(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another shipper would remove one that is empty and that nobody holds."""
    flock = fcntl.flock
    seen: list[Path] = []

    def look_and_lock(descriptor: int, operation: int) -> None:
        seen.extend(spool.glob("*.jsonl"))
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", look_and_lock)
    assert record(spool, nothing)[0]["kind"] == "open"
    assert not seen


def test_numbers_of_journals_grow_whatever_the_clock_says(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged one counts too, since it may be tried again."""
    spool.mkdir()
    (spool / f"8-{'a' * 16}-1.jsonl{DAMAGED}").touch()
    for now in (5_000_000_000, 4_000_000_000):
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        record(spool, nothing)
    names = sorted(path.name for path in spool.glob("*.jsonl"))
    assert names == [f"{n:06d}-{'a' * 16}-{os.getpid()}.jsonl" for n in (9, 10)]


def test_a_journal_is_no_program(spool: Path) -> None:
    record(spool, nothing)
    (path,) = spool.glob("*.jsonl")
    assert not stat.S_IMODE(path.stat().st_mode) & 0o111


def test_points_are_on_the_disk_before_a_state_is_saved(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            (path,) = spool.glob("*.jsonl")
            assert os.path.samestat(os.fstat(fd), path.stat())
            synced.append(path.read_bytes().splitlines()[-1])

    monkeypatch.setattr("os.fsync", fsync)

    def work(run: Run) -> None:
        run.log(7, {"x": 1.0})
        run.sync()

    record(spool, work)
    assert [json.loads(line)["kind"] for line in synced] == ["log", "end"]


def test_a_disk_that_is_full_for_a_while_costs_no_event(
    spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Part of a line may have been written; the rest of it comes first, once there is space."""
    write = os.write

    def fill(fd: int, content: bytes) -> int:
        if b'"step": 2' not in content:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(fd, content[:10]) if content.startswith(b'{"kind": "') else fill(fd, b"")

    def work(run: Run) -> None:
        run.log(1, {"x": 1.0})
        with monkeypatch.context() as full:
            full.setattr("os.write", fill)
            run.log(2, {"x": 2.0})
            run.log(3, {"x": 3.0})
        run.log(4, {"x": 4.0})

    events = record(spool, work)
    assert [event["step"] for event in events if event["kind"] == "log"] == [1, 2, 3, 4]
    (message,) = [record.message for record in caplog.records]
    assert "no space left on device" in message


def test_addresses_are_recorded_without_their_secrets(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In params, tags, the data's source, settings of the model, params.yaml and warnings."""
    monkeypatch.setenv("DVC_EXP_NAME", ADDRESS)
    params = tmp_path / "params.yaml"
    params.write_text(f"corpus:\n  train:\n  - {ADDRESS}  # é\n", encoding="utf-8")
    model = tmp_path / "lm"
    model.mkdir()

    def work(run: Run) -> None:
        run.artifact(params)
        run.model(model, model, {"prompts": [ADDRESS]})
        run.log(1, {"x": ADDRESS})

    record(
        spool,
        work,
        params={"corpus.train": [ADDRESS]},
        tags={"corpus": ADDRESS},
        dataset=Dataset("x", "d" * 32, ADDRESS),
    )
    files = [path for path in spool.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert "PW-" not in path.read_text(encoding="utf-8")
    (copy,) = spool.rglob("params.yaml")
    assert copy.read_text(encoding="utf-8") == (
        "corpus:\n  train:\n  - https://***@host/a.txt?token=***#***  # é\n"
    )
    assert "is not a number" in caplog.text
    assert "PW-" not in caplog.text


def test_a_replay_tries_damaged_journals_again(spool: Path, tmp_path: Path) -> None:
    spool.mkdir()
    (spool / f"x.jsonl{DAMAGED}").mkdir()
    assert replay(spool, tmp_path) == 0
    assert [path.name for path in spool.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, ""), ({"NO_PROXY": "corp"}, "corp,"), ({"no_proxy": "a", "NO_PROXY": "b"}, "a,")],
)
def test_this_machine_is_exempt_from_the_proxy(given: dict[str, str], expected: str) -> None:
    from requests.utils import should_bypass_proxies

    environment = without_proxy({"http_proxy": "http://proxy:1", **given})
    assert environment["http_proxy"] == "http://proxy:1"
    assert environment["no_proxy"] == environment["NO_PROXY"]
    assert environment["no_proxy"].startswith(expected)
    for host in ("localhost", "127.0.0.1", "127.0.1.1", "[::1]"):
        assert should_bypass_proxies(f"http://{host}:5000", environment["no_proxy"]), host
    assert not should_bypass_proxies("http://example.org", environment["no_proxy"])
