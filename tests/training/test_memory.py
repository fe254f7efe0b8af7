"""Trainings that cannot fit are refused before anything is built."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from lmlib.training import require_training_memory
from lmlib.training.memory import training_bytes
from tests.pipeline.imports import ROOT
from tests.training.test_loop import TRAIN, settings_of

CPU = torch.device("cpu")
GB = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 20 GB to spare."""
    monkeypatch.setattr("lmlib.memory.available_bytes", lambda _: 20 * GB)


@pytest.mark.parametrize(
    ("model", "train", "named"),
    [
        ({"d_model": 10**12}, {}, "model.d_model"),
        ({"d_ff": 10**12}, {}, "model.d_ff"),
        ({"num_layers": 10**12}, {}, "model.num_layers"),
        ({"context_length": 10**10}, {"batch_size": 1}, "model.context_length"),
        ({}, {"batch_size": 10**9}, "train.micro_batch_size"),
        ({}, {"batch_size": 10**12, "micro_batch_size": 1}, "train.batch_size"),
        ({"attention": "plain", "context_length": 10**6}, {}, "model.context_length"),
    ],
)
def test_the_parameters_to_lower_are_named(
    model: dict[str, Any], train: dict[str, Any], named: str
) -> None:
    settings = settings_of(replace(TRAIN, **train))
    settings = replace(settings, model=replace(settings.model, **model))
    message = rf"^a training step needs at least .* GB are available on cpu; lower .*{named}"
    with pytest.raises(MemoryError, match=message):
        require_training_memory(settings, 300, 1, CPU)


def test_a_vocabulary_is_named() -> None:
    with pytest.raises(MemoryError, match=r"lower .* or tokenizer\.vocab_size$"):
        require_training_memory(settings_of(), 10**10, 1, CPU)


def test_too_many_processes_are_named() -> None:
    settings = settings_of(replace(TRAIN, batch_size=1024, num_processes=1024))
    with pytest.raises(MemoryError, match=r"lower train\.num_processes$"):
        require_training_memory(settings, 300, 1024, CPU)


def test_processes_share_the_memory_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(replace(TRAIN, batch_size=10**6))
    needed = sum(training_bytes(settings, 300, 1, CPU).values())
    monkeypatch.setattr("lmlib.memory.available_bytes", lambda _: needed)
    require_training_memory(settings, 300, 1, CPU)
    with pytest.raises(MemoryError, match=r"^a training step needs at least"):
        require_training_memory(settings, 300, 4, CPU)  # each of them holds all token ids


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"num_kv_heads": 1}, marks=pytest.mark.slow),
        pytest.param({"qk_norm": True, "ffn": "relu2"}, marks=pytest.mark.slow),
        pytest.param(
            {"qk_norm": True, "num_kv_heads": 1, "attention_window": 16}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_the_estimate_is_below_the_need_and_not_far(changes: dict[str, Any]) -> None:
    """Measured in a process of its own: a step may need more, never less."""
    code = f"""
import re
import torch
def peak():
    # not ru_maxrss, which a process takes over from the one that started it
    return 1024 * int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM
model = TransformerLM(ModelParams(128, 64, 4, 2, 176, **{changes}), 300)
loss, ids = NextTokenLoss(model), torch.zeros(128, 129, dtype=torch.int64)
loss(ids[:1, :-1], ids[:1, 1:])[0].backward()
before = peak()
loss(ids[:, :-1], ids[:, 1:])[0].backward()
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    settings = settings_of(replace(TRAIN, batch_size=128, dtype="float32"))
    sizes = {"context_length": 128, "d_model": 64, "num_layers": 4, "num_heads": 2, "d_ff": 176}
    settings = replace(settings, model=replace(settings.model, **sizes, **changes))
    estimate = training_bytes(settings, 300, 1, CPU)["activations"]
    assert estimate < int(done.stdout) < 4 * estimate
