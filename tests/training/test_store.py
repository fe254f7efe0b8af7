"""The states that a run resumes from, and the folder that holds them."""

import copy
import hashlib
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lmlib.checkpoint import serialise
from lmlib.states import discard, mark_finished
from lmlib.training import ResumeStore
from lmlib.training.store import Environment, Rows
from tests.test_checkpoint import assert_same_bits, empty, take_step, trained, truncate

ROWS: Rows = {"train": [{"step": 1, "loss": 0.1}], "valid": []}


def test_store_is_empty_at_first(tmp_path: Path) -> None:
    assert ResumeStore(tmp_path / "none").load(*trained(seed=1)) is None


def test_store_restores_the_newest_state(tmp_path: Path) -> None:
    store = ResumeStore(tmp_path)
    store.save(*trained(seed=1), 9, {"train": [], "valid": []})
    model, optimizer = trained(seed=2)
    store.save(model, optimizer, 10, ROWS)
    other, other_optimizer = trained(seed=3, steps=0)
    assert store.load(other, other_optimizer) == (10, ROWS)
    assert_same_bits(other.state_dict(), model.state_dict())
    assert_same_bits(other_optimizer.state_dict(), optimizer.state_dict())


class Counter:
    """A part of a run whose state is a number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_store_restores_the_other_parts_by_their_names(tmp_path: Path) -> None:
    store = ResumeStore(tmp_path)
    store.save(*trained(seed=1), 1, ROWS, a=Counter(1), b=Counter(2))
    a, b = Counter(0), Counter(0)
    assert store.load(*trained(seed=1), b=b, a=a) == (1, ROWS)
    assert (a.count, b.count) == (1, 2)


def test_store_keeps_the_newest_two(tmp_path: Path) -> None:
    """Ordered as numbers, not as text: 10 is newer than 9. Torn writes are removed, too."""
    store = ResumeStore(tmp_path)
    (tmp_path / ".step-000000005.pt.0123abcd.part").mkdir()
    (tmp_path / ".step-000000005.pt.0123abcd.part" / "step-000000005.pt").write_bytes(b"half")
    model, optimizer = trained(seed=1)
    for step in (8, 9, 10, 11):
        store.save(model, optimizer, step, ROWS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000010.pt", "step-000000011.pt"]


def test_store_writes_in_the_background_what_was_when_it_was_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training continues while the state waits to be written, here until everything has changed."""
    changed = threading.Event()

    def wait_and_serialise(state: dict[str, Any], room: int) -> Any:
        assert changed.wait(timeout=60)
        return serialise(state, room)

    monkeypatch.setattr("lmlib.training.store.serialise", wait_and_serialise)
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    expected = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    rows = copy.deepcopy(ROWS)
    with store.in_background():
        store.save(model, optimizer, 1, rows)
        take_step(model, optimizer)
        rows["train"].clear()
        changed.set()
    other, other_optimizer = trained(seed=3, steps=0)
    assert store.load(other, other_optimizer) == (1, ROWS)
    assert_same_bits((other.state_dict(), other_optimizer.state_dict()), expected)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_a_state_that_cannot_be_written_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """At the next state, and again at the end; earlier states stay, later ones are written."""
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS)

    def fail(_path: Path, _content: bytes) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("lmlib.training.store.write_atomically", fail)
        with store.in_background():
            store.save(model, optimizer, 2, ROWS)
            assert not store.is_saved()
        store.save(model, optimizer, 3, ROWS)
        assert not store.is_saved()
    first, last, without_thread = caplog.messages
    assert first.startswith("the state after step 2 was not saved; training continues: ")
    assert last.startswith("the last state of the run is not saved")
    assert without_thread.startswith("the state after step 3 was not saved")
    assert store.load(model, optimizer) == (1, ROWS)
    store.save(model, optimizer, 4, ROWS)
    assert store.is_saved()
    assert store.load(model, optimizer) == (4, ROWS)


def test_a_state_that_memory_cannot_hold_twice_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyTorch has its own error for that; any other RuntimeError is raised."""
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)

    def fail(_state: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("lmlib.training.store._snapshot", fail)
    with store.in_background():
        text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
        store.save(model, optimizer, 1, ROWS)
        assert not store.is_saved()
        assert "the state after step 1 was not saved" in caplog.text
        text = "a mistake"
        with pytest.raises(RuntimeError, match=text):
            store.save(model, optimizer, 2, ROWS)


@pytest.mark.parametrize("body", [b"", b"PK", b"no state" * 100])
def test_what_is_no_state_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """Even with the right digest."""
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS)
    digest = hashlib.sha256(body).hexdigest().encode()
    (tmp_path / "step-000000002.pt").write_bytes(digest + body)
    assert store.load(model, optimizer) == (1, ROWS)
    assert "step-000000002.pt: holds no state" in caplog.text


@pytest.mark.parametrize("lost", ["model", "optimizer", "parts", "iteration", "rows"])
def test_a_state_of_another_run_is_named(tmp_path: Path, lost: str) -> None:
    """With the right digest; nothing is trained from a half-restored model."""
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS, part=Counter(1))
    path = tmp_path / "step-000000001.pt"
    state = torch.load(io.BytesIO(path.read_bytes()[64:]), weights_only=True)
    del state[lost]
    torch.save(state, body := io.BytesIO())
    digest = hashlib.sha256(body.getvalue()).hexdigest().encode()
    path.write_bytes(digest + body.getvalue())
    with pytest.raises(ValueError, match=rf"step-000000001\.pt: not a state of this run.*{lost}"):
        store.load(model, optimizer, part=Counter(0))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_state_that_cannot_be_read_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]
) -> None:
    """A pipe would wait for a writer."""
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS)
    make(tmp_path / "step-000000002.pt")
    assert store.load(model, optimizer) == (1, ROWS)
    assert "step-000000002.pt: not a regular file; " in caplog.text


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def flip_the_digest(content: bytes) -> bytes:
    return b"x" + content[1:]


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, flip_the_digest, empty])
def test_store_falls_back_from_a_damaged_state(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS)
    store.save(*trained(seed=2), 2, ROWS)
    newest = tmp_path / "step-000000002.pt"
    newest.write_bytes(damage(newest.read_bytes()))

    other, other_optimizer = trained(seed=3)
    with caplog.at_level(logging.WARNING):
        assert store.load(other, other_optimizer) == (1, ROWS)
    assert f"{newest}: damaged, so it is removed" in caplog.text
    assert_same_bits(other.state_dict(), model.state_dict())


def test_damaged_state_takes_no_place_among_the_newest_two(tmp_path: Path) -> None:
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 10, ROWS)
    store.save(model, optimizer, 20, ROWS)
    (tmp_path / "step-000000020.pt").write_bytes(b"")
    assert store.load(model, optimizer) == (10, ROWS)
    store.save(model, optimizer, 12, ROWS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000010.pt", "step-000000012.pt"]


def test_store_with_nothing_but_damage_starts_from_scratch(tmp_path: Path) -> None:
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS)
    (tmp_path / "step-000000001.pt").write_bytes(b"")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert store.load(model, optimizer) is None
    assert_same_bits(model.state_dict(), before)


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from lmlib.training import ResumeStore\n"
        "with ResumeStore(sys.argv[1]).lock():\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield holder
        holder.kill()


def test_lock_waits_for_the_other_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is free when the holder has gone, even killed."""
    folder = tmp_path / "resume"
    with held_by_another_process(folder) as holder, caplog.at_level(logging.INFO):
        entered = threading.Event()

        def wait_for_it() -> None:
            with ResumeStore(folder).lock():
                entered.set()

        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        assert not entered.wait(0.5)
        holder.kill()
        waiting.join(timeout=30)
        assert entered.is_set()
    assert "waiting for another process that trains the same model" in caplog.text


def test_discard_leaves_the_states_of_a_running_training(tmp_path: Path) -> None:
    """Two experiments that differ only in sampling train the same model."""
    store = ResumeStore(tmp_path / "resume")
    store.save(*trained(seed=1), 1, ROWS)
    discard(store.folder)  # of a run that has not ended
    mark_finished(store.folder)
    with held_by_another_process(store.folder):
        discard(store.folder)
        assert len(list(store.folder.glob("*.pt"))) == 1
    discard(store.folder)
    assert not store.folder.exists()
    discard(store.folder)  # nothing to remove


# -- where a state was saved


def test_environment_warns_of_what_changed(caplog: pytest.LogCaptureFixture) -> None:
    saved = Environment({"dtype": "float32", "torch": "1.0"}).state_dict()
    Environment(dict(saved)).load_state_dict(saved)
    assert caplog.text == ""
    Environment({"dtype": "bfloat16", "torch": "2.0"}).load_state_dict(saved)
    assert "resuming with dtype bfloat16 from a state saved with float32: sums" in caplog.text
    assert "from a state saved with 1.0: sums may be added in another order" in caplog.text
    assert len(caplog.records) == 2
