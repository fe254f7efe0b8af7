"""Checkpoints, the states a training resumes from, and finished models: whole or not at all."""

import copy
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmlib.checkpoint import (
    ResumeStore,
    Rows,
    load_checkpoint,
    load_model,
    plain_state_dict,
    save_checkpoint,
    save_model,
)
from lmlib.files import write_atomically
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW

PARAMS = ModelParams(context_length=8, d_model=8, num_layers=2, num_heads=2, d_ff=16)
VOCAB_SIZE = 11
ROWS: Rows = {"train": [{"step": 1, "loss": 0.1}], "valid": []}


def trained(seed: int, steps: int = 3) -> tuple[TransformerLM, AdamW]:
    """Return a model after a few steps, and its optimizer, whose state is then not empty."""
    model = TransformerLM(PARAMS, VOCAB_SIZE, seed=seed)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        take_step(model, optimizer)
    return model, optimizer


def take_step(model: TransformerLM, optimizer: AdamW) -> None:
    model(torch.arange(8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def assert_same_bits(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("as_text", [True, False])
def test_checkpoint_to_a_path(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    model, optimizer = trained(seed=1)
    save_checkpoint(model, optimizer, 3, str(path) if as_text else path)
    other, other_optimizer = trained(seed=2, steps=0)
    assert load_checkpoint(str(path) if as_text else path, other, other_optimizer) == 3
    assert_same_bits(other.state_dict(), model.state_dict())
    assert_same_bits(other_optimizer.state_dict(), optimizer.state_dict())


def test_checkpoint_to_a_file_object() -> None:
    model, optimizer = trained(seed=1)
    buffer = io.BytesIO()
    save_checkpoint(model, optimizer, 3, buffer)
    buffer.seek(0)
    other, other_optimizer = trained(seed=2, steps=0)
    assert load_checkpoint(buffer, other, other_optimizer) == 3
    assert_same_bits(other.state_dict(), model.state_dict())


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    """5 steps equal 3 steps, save, load, 2 steps: the moments and the step count are restored."""
    whole, _ = trained(seed=1, steps=5)
    model, optimizer = trained(seed=1, steps=3)
    buffer = io.BytesIO()
    save_checkpoint(model, optimizer, 3, buffer)
    buffer.seek(0)
    resumed, optimizer = trained(seed=2, steps=1)
    load_checkpoint(buffer, resumed, optimizer)
    for _ in range(2):
        resumed(torch.arange(8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same_bits(resumed.state_dict(), whole.state_dict())


def test_checkpoint_has_the_same_bytes_under_every_name(tmp_path: Path) -> None:
    """torch.save alone would write the file's name into it."""
    model, optimizer = trained(seed=1)
    save_checkpoint(model, optimizer, 3, tmp_path / "a.pt")
    save_checkpoint(model, optimizer, 3, tmp_path / "another.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_checkpoint_of_a_compiled_model_fits_the_plain_one(tmp_path: Path) -> None:
    """Both ways: neither writing nor reading knows that a model is compiled."""

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

    plain = network()
    compiled: Any = torch.compile(plain, backend="eager")
    assert "_orig_mod.0.weight" in compiled.state_dict()
    assert list(plain_state_dict(compiled)) == ["0.weight", "0.bias", "1.weight", "1.bias"]

    optimizer = AdamW(compiled.parameters())
    save_checkpoint(compiled, optimizer, 0, tmp_path / "compiled.pt")
    other = network()
    load_checkpoint(tmp_path / "compiled.pt", other, AdamW(other.parameters()))
    assert_same_bits(other.state_dict(), plain.state_dict())

    save_checkpoint(network(), optimizer, 0, tmp_path / "plain.pt")
    load_checkpoint(tmp_path / "plain.pt", compiled, optimizer)
    expected = torch.load(tmp_path / "plain.pt", weights_only=True)["model"]
    assert_same_bits(plain.state_dict(), expected)


# -- ResumeStore


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
    """A part of a training whose state is a number."""

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
    """Counted by number, not by text: 10 is newer than 9. A torn write of a kill goes, too."""
    store = ResumeStore(tmp_path)
    (tmp_path / "step-000000005.pt.tmp").write_bytes(b"half")
    model, optimizer = trained(seed=1)
    for step in (8, 9, 10, 11):
        store.save(model, optimizer, step, ROWS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000010.pt", "step-000000011.pt"]


def test_store_writes_in_the_background_what_was_when_it_was_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training goes on while the state waits to be written: here until it has changed all."""
    changed = threading.Event()

    def wait_and_write(path: Path, content: bytes) -> None:
        assert changed.wait(timeout=60)
        write_atomically(path, content)

    monkeypatch.setattr("lmlib.checkpoint.write_atomically", wait_and_write)
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


def test_store_tells_when_a_state_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next state or at the end; what was written before stays."""
    store = ResumeStore(tmp_path)
    model, optimizer = trained(seed=1)
    store.save(model, optimizer, 1, ROWS)

    def fail(_path: Path, _content: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lmlib.checkpoint.write_atomically", fail)
    with pytest.raises(OSError, match="No space left"), store.in_background():
        store.save(model, optimizer, 2, ROWS)
    with store.in_background():
        store.save(model, optimizer, 2, ROWS)
        with pytest.raises(OSError, match="No space left"):
            store.save(model, optimizer, 3, ROWS)
    assert store.load(model, optimizer) == (1, ROWS)


def truncate(content: bytes) -> bytes:
    return content[:-1]


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def flip_the_digest(content: bytes) -> bytes:
    return b"x" + content[1:]


def empty(_content: bytes) -> bytes:
    return b""


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
    assert f"{newest}: damaged; removed, going back" in caplog.text
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


def test_store_with_nothing_but_damage_starts_anew(tmp_path: Path) -> None:
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
        "import sys; from lmlib.checkpoint import ResumeStore\n"
        "with ResumeStore(sys.argv[1]).lock():\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parent.parent,
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
    assert "waiting for another process that trains this very model" in caplog.text


def test_discard_leaves_the_states_of_a_running_training(tmp_path: Path) -> None:
    """Two experiments that differ in sampling alone train the same model."""
    store = ResumeStore(tmp_path / "resume")
    store.save(*trained(seed=1), 1, ROWS)
    with held_by_another_process(store.folder):
        store.discard()
        assert len(list(store.folder.iterdir())) == 1
    store.discard()
    assert not store.folder.exists()
    store.discard()  # nothing is there: nothing to do


def test_saving_a_model_does_not_write_into_the_old_file(tmp_path: Path) -> None:
    """DVC's cache holds a hard link to it."""
    sizes = ModelParams(context_length=4, d_model=8, num_layers=1, num_heads=2, d_ff=8)
    old = TransformerLM(sizes, 11, seed=1)
    save_model(tmp_path / "lm", old)
    cached = tmp_path / "cached"
    cached.hardlink_to(tmp_path / "lm" / "model.safetensors")
    before = cached.read_bytes()
    save_model(tmp_path / "lm", TransformerLM(sizes, 11, seed=2))
    assert cached.read_bytes() == before
    assert (tmp_path / "lm" / "model.safetensors").read_bytes() != before


# -- models


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_model_round_trip(tmp_path: Path, tie_embeddings: bool) -> None:
    params = replace(PARAMS, tie_embeddings=tie_embeddings, norm="post", rope_theta=500.0)
    model = TransformerLM(params, VOCAB_SIZE, seed=5)
    save_model(tmp_path / "lm", model)
    loaded = load_model(tmp_path / "lm")
    assert loaded.params == params
    assert loaded.vocab_size == VOCAB_SIZE
    assert not loaded.training
    assert_same_bits(loaded.state_dict(), model.state_dict())
    assert_same_bits(loaded(torch.arange(8)), model(torch.arange(8)))
    assert (loaded.lm_head.weight is loaded.token_embeddings.weight) == tie_embeddings


def test_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    save_model(tmp_path, TransformerLM(replace(PARAMS, tie_embeddings=True), VOCAB_SIZE))
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_bfloat16_weights_load_as_float32(tmp_path: Path) -> None:
    """Each bfloat16 is also a float32: no value changes."""
    model = TransformerLM(PARAMS, VOCAB_SIZE).to(torch.bfloat16)
    save_model(tmp_path, model)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    loaded = load_model(tmp_path)
    assert loaded.lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight.float(), rtol=0, atol=0)


def test_same_model_same_bytes(tmp_path: Path) -> None:
    """DVC hashes them: a rerun must not look like a change."""
    for name in ("a", "b"):
        save_model(tmp_path / name, TransformerLM(PARAMS, VOCAB_SIZE, seed=1))
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file_of_a_model(tmp_path: Path, missing: str) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing}: no model here; run `dvc repro train"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "config", ["{", "[1]", "3", "{}", '{"vocab_size": "many"}', '{"vocab_size": null}']
)
def test_foreign_config(tmp_path: Path, config: str) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json: not the configuration of a model"):
        load_model(tmp_path)


def test_config_without_a_key(tmp_path: Path) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["norm"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json\.norm is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", [truncate, empty])
def test_damaged_weights(tmp_path: Path, damage: Any) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or not the weights of"):
        load_model(tmp_path)


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_model(tmp_path, TransformerLM(PARAMS, VOCAB_SIZE))
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["ln_final.weight"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or not (.|\n)*ln_final"):
        load_model(tmp_path)
