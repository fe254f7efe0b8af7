"""Settings that do not fit each other, the data, the machine or the number of processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmlib.data import TokenDataset
from lmlib.model import ModelParams
from lmlib.optim import OptimParams
from lmlib.params import load_params
from lmlib.training import Datasets, Settings, TrainParams, require_trainable
from tests.training.test_loop import NOISE, ON_NOISE, OPTIM, TRAIN, settings_of

PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_params_yaml_makes_settings() -> None:
    settings = Settings(
        model=load_params(PARAMS, "model", ModelParams),
        optim=load_params(PARAMS, "optim", OptimParams),
        train=load_params(PARAMS, "train", TrainParams),
    )
    assert settings.train.sequences_at_a_time(1) == settings.train.batch_size


def test_rejects_a_warm_up_that_never_ends() -> None:
    message = r"^optim\.warmup_steps is 20, not below train\.num_steps, 20: the learning rate would"
    with pytest.raises(ValueError, match=message):
        settings_of(optim=replace(OPTIM, warmup_steps=20))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_rejects_graphs_of_several_processes(parallel: Any) -> None:
    params = replace(TRAIN, compile="graphs", parallel=parallel)
    with pytest.raises(ValueError, match=r"^train\.compile is graphs, which records the step of a"):
        require_trainable(settings_of(params), ON_NOISE, num_processes=2)
    require_trainable(settings_of(params), ON_NOISE, num_processes=1)


def test_rejects_parts_of_unequal_size() -> None:
    message = "^batch_size is 4, 4 in each process: not divisible by micro_batch_size 3; the parts"
    with pytest.raises(ValueError, match=message):
        replace(TRAIN, micro_batch_size=3)


def test_rejects_texts_of_two_tokenizers() -> None:
    info = replace(NOISE.info, tokenizer_sha256="another")
    other = TokenDataset(NOISE.tokens, info, "valid.npy")
    with pytest.raises(ValueError, match=r"^tokens and valid\.npy were made with different"):
        Datasets(NOISE, other)


def test_checks_before_it_asks_the_gpu_for_its_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that only starts the others must not take memory on their GPUs."""
    monkeypatch.setattr(
        "lmlib.training.settings.resolve_dtype", lambda *_: pytest.fail("asked for a dtype")
    )
    require_trainable(settings_of(replace(TRAIN, dtype="auto")), ON_NOISE)


@pytest.mark.parametrize(
    "name", ["num_steps", "batch_size", "log_every", "valid_every", "valid_batches"]
)
def test_rejects_counts_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is 0; it must be from 1 to 10"):
        replace(TRAIN, **{name: 0})


@pytest.mark.parametrize(
    "name", ["seed", "micro_batch_size", "checkpoint_minutes", "patience", "profile_steps"]
)
def test_rejects_numbers_below_zero(name: str) -> None:
    value = type(getattr(TRAIN, name))(-1)
    with pytest.raises(ValueError, match=rf"^{name} is {value}; it must be (0, or )?from "):
        replace(TRAIN, **{name: value})
