"""The training loop: above all, an interrupted run ends like an uninterrupted one."""

import io
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch.amp import GradScaler
from torch.nn.utils import get_total_norm

from lmlib.data import Batch, TokenDataset
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM, documents_of, flops_per_token
from lmlib.optim import AdamW, OptimParams
from lmlib.sampling import SamplingParams, generate
from lmlib.tokens import TokenInfo
from lmlib.training import (
    Datasets,
    Hooks,
    Interrupted,
    ResumeStore,
    Settings,
    TrainParams,
    TrainResult,
    train,
)
from lmlib.training.copying import CopyWeights
from lmlib.training.samples import Samples
from lmlib.training.validation import sampled_loss

VOCAB_SIZE = 16
MODEL = ModelParams(context_length=8, d_model=16, num_layers=1, num_heads=2, d_ff=32)
OPTIM = OptimParams(
    name="adamw",
    lr=1e-2,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    schedule="cosine",
    warmup_steps=3,
    min_lr_fraction=0.1,
    decay_fraction=0.5,
    max_grad_norm=1.0,
    muon_lr=8e-3,
    muon_momentum=0.95,
)
TRAIN = TrainParams(
    seed=1,
    num_steps=20,
    batch_size=4,
    micro_batch_size=0,
    num_processes=1,
    parallel="ddp",
    windows="any",
    order="random",
    copy_weight=1.0,
    copy_fraction=0.0,
    overfit_one_batch=False,
    device="cpu",
    dtype="float32",
    residual="float32",
    compile="off",
    deterministic=True,
    log_every=1,
    valid_every=5,
    valid_batches=2,
    checkpoint_every=7,
    checkpoint_minutes=0.0,
    sample_every=0,
    patience=0,
    profile_steps=0,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads would not speed up matrices of 16 x 16."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dataset(
    tokens: np.ndarray, name: str = "tokens", separator_id: int | None = None
) -> TokenDataset:
    info = TokenInfo(
        tokens=len(tokens),
        vocab_size=VOCAB_SIZE,
        tokenizer_sha256="",
        source_bytes=len(tokens),
        documents=1,
        separator_id=separator_id,
    )
    return TokenDataset(tokens.astype(np.uint16), info, name)


NOISE = dataset(np.random.default_rng(0).integers(0, VOCAB_SIZE, 200))
CYCLE = dataset(np.arange(200) % VOCAB_SIZE)  # each token has one successor
# documents of at most four tokens: each window holds several
DOCUMENTS = dataset(np.where(np.arange(200) % 6 % 4 == 0, 0, NOISE.tokens[:]), separator_id=0)
ON_NOISE = Datasets(NOISE, NOISE)


def settings_of(params: TrainParams = TRAIN, optim: OptimParams = OPTIM) -> Settings:
    return Settings(MODEL, optim, params)


def run(
    folder: Path,
    params: TrainParams = TRAIN,
    optim: OptimParams = OPTIM,
    data: TokenDataset = NOISE,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> tuple[TransformerLM, TrainResult]:
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
    store = ResumeStore(folder)
    return model, train(
        model, settings_of(params, optim), Datasets(data, data), store, Hooks(on_step)
    )


def send(signum: int, at_step: int) -> Callable[[int, dict[str, float]], None]:
    def on_step(step: int, _metrics: dict[str, float]) -> None:
        if step == at_step:
            os.kill(os.getpid(), signum)

    return on_step


def saved_state(folder: Path, step: int) -> dict[str, Any]:
    content = (folder / f"step-{step:09d}.pt").read_bytes()
    return torch.load(io.BytesIO(content[64:]), weights_only=True)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Compare tensors, and containers of tensors and plain values."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    elif isinstance(expected, Mapping):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same_bits(actual[key], value)
    elif isinstance(expected, list | tuple):
        for mine, yours in zip(actual, expected, strict=True):
            assert_same_bits(mine, yours)
    else:  # NaN is a value, too: the norm of gradients that overflow in float16
        assert actual == expected or (actual != actual and expected != expected)


def assert_resumes_to_the_bit(
    folder: Path, params: TrainParams, optim: OptimParams = OPTIM, data: TokenDataset = NOISE
) -> None:
    """20 steps equal 10 steps, SIGTERM between two checkpoints, and 10 more steps, bit for bit."""
    model, result = run(folder / "whole", params, optim, data)

    with pytest.raises(Interrupted) as interrupted:
        run(folder / "halves", params, optim, data, on_step=send(signal.SIGTERM, at_step=10))
    assert interrupted.value.code == 128 + signal.SIGTERM
    assert saved_steps(folder / "halves") == [7, 10]

    resumed_steps: list[int] = []
    resumed, resumed_result = run(
        folder / "halves", params, optim, data, on_step=lambda step, _: resumed_steps.append(step)
    )
    assert resumed_steps == list(range(11, 21))
    assert_same_bits(resumed.state_dict(), model.state_dict())
    assert_same_bits(saved_state(folder / "halves", 20), saved_state(folder / "whole", 20))
    assert_same_bits(asdict(resumed_result), asdict(result))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_interrupted_training_equals_an_uninterrupted_one(
    tmp_path: Path, dtype: Any, schedule: Any
) -> None:
    params, optim = replace(TRAIN, dtype=dtype), replace(OPTIM, schedule=schedule)
    assert_resumes_to_the_bit(tmp_path, params, optim)


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "epochs"},  # 24 windows: the interruption falls into the second epoch
        {"micro_batch_size": 2},
        {"windows": "documents", "copy_weight": 9.0, "copy_fraction": 0.8},
        {"windows": "isolated"},
        {"windows": "isolated", "micro_batch_size": 2, "copy_weight": 9.0, "copy_fraction": 0.8},
        {"overfit_one_batch": True},
        {"patience": 100},
        {"order": "epochs", "micro_batch_size": 1, "patience": 100, "checkpoint_minutes": 1e-9},
    ],
)
def test_every_kind_of_training_resumes(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmlib.training.copying.RARE", 1.0)  # in so short a text no token is rare
    params = replace(TRAIN, **settings)
    data = NOISE if params.windows == "any" else DOCUMENTS
    if params.checkpoint_minutes:  # a state after each step: 9 replaces 7
        model, _ = run(tmp_path / "whole", params)
        with pytest.raises(Interrupted):
            run(tmp_path / "halves", params, on_step=send(signal.SIGTERM, at_step=10))
        assert saved_steps(tmp_path / "halves") == [9, 10]
        resumed, _ = run(tmp_path / "halves", params)
        assert_same_bits(resumed.state_dict(), model.state_dict())
    else:
        assert_resumes_to_the_bit(tmp_path, params, data=data)


def test_copies_weigh_more_until_their_share_of_the_steps_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight of 9 changes the gradient of the first step; after its share of the steps, none.

    It does not change the first step's loss, which is reported without weights.
    """
    monkeypatch.setattr("lmlib.training.copying.RARE", 1.0)
    plain, weighted = (
        run(tmp_path / str(weight), params)[1].train
        for weight in (1.0, 9.0)
        for params in [replace(TRAIN, copy_weight=weight, copy_fraction=0.5)]
    )
    assert weighted[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-6)
    assert weighted[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-2)
    over = replace(TRAIN, copy_weight=9.0, copy_fraction=0.0)
    losses = [row["loss"] for row in run(tmp_path / "over", over)[1].train]
    assert losses == pytest.approx([row["loss"] for row in plain], rel=1e-5)


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as interrupted:
        run(tmp_path, on_step=send(signal.SIGINT, at_step=3))
    assert interrupted.value.code == 130
    assert saved_steps(tmp_path) == [3]


def test_signal_at_the_last_step_lets_the_training_end(tmp_path: Path) -> None:
    _, result = run(tmp_path, on_step=send(signal.SIGTERM, at_step=20))
    assert [row["step"] for row in result.train] == list(range(1, 21))


class InterruptingDataset(TokenDataset):
    """Sends SIGTERM whenever a batch is read, so that a run ends after one step."""

    def batch(self, step: int, **settings: Any) -> Batch:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, **settings)


def test_every_step_may_be_the_last_before_an_interruption(tmp_path: Path) -> None:
    """A run stopped after every single step, logged or not, has the same rows."""
    params = replace(TRAIN, num_steps=6, log_every=2, valid_every=3)
    model, result = run(tmp_path / "whole", params)

    interrupting = InterruptingDataset(NOISE.tokens, NOISE.info)
    for step in range(1, 6):
        with pytest.raises(Interrupted):
            run(tmp_path / "steps", params, data=interrupting)
        assert saved_steps(tmp_path / "steps")[-1] == step
    resumed, resumed_result = run(tmp_path / "steps", params)
    assert_same_bits(resumed.state_dict(), model.state_dict())
    assert resumed_result == result


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment(tmp_path: Path, kills: int) -> None:
    """A run that is killed several times ends with the bits of an undisturbed one."""
    code = (
        "import sys; from tests.training import test_loop; test_loop.survive_kills(*sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(kills)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert_same_bits(saved_state(tmp_path / "killed", 400), saved_state(tmp_path / "whole", 400))


def survive_kills(folder: str, kills: str) -> None:
    """Train in child processes; the first `kills` of them are killed before they finish.

    The children are forks of a process that has imported torch but never computed with it: this
    takes milliseconds, while a new process would need seconds to import it.
    """
    params = replace(TRAIN, num_steps=400, checkpoint_every=2)
    rng = random.Random(0)
    # an optimizer's first call imports a compiler, which takes a second: once here, not per child
    AdamW([torch.nn.Parameter(torch.zeros(1))]).zero_grad()

    def train_in_fork(name: str, seconds_to_live: float | None) -> int:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
        torch.set_num_threads(1)
        armed = False

        def die_later(_step: int, _metrics: dict[str, float]) -> None:
            nonlocal armed
            if seconds_to_live is not None and not armed:
                threading.Timer(seconds_to_live, os.kill, (os.getpid(), signal.SIGKILL)).start()
                armed = True

        run(Path(folder) / name, params, on_step=die_later)
        os._exit(0)

    for _ in range(int(kills)):
        if train_in_fork("killed", rng.uniform(0, 0.02)) != -signal.SIGKILL:
            sys.exit("a run ended, or failed, before it was killed")
    if train_in_fork("killed", None) or train_in_fork("whole", None):
        sys.exit("a run that nobody killed failed")


def test_finished_training_takes_no_more_steps(tmp_path: Path) -> None:
    model, result = run(tmp_path)

    def fail(step: int, _metrics: dict[str, float]) -> None:
        pytest.fail(f"took step {step} again")

    again, result_again = run(tmp_path, on_step=fail)
    assert_same_bits(again.state_dict(), model.state_dict())
    assert result_again == result


def test_another_seed_gives_another_training(tmp_path: Path) -> None:
    _, first = run(tmp_path / "1")
    _, second = run(tmp_path / "2", replace(TRAIN, seed=2))
    assert first.train != second.train


def test_tiny_model_learns_a_tiny_text(tmp_path: Path) -> None:
    """Each token has one successor, so 0 nats are possible; guessing costs ln 16 = 2.77."""
    _, result = run(tmp_path, replace(TRAIN, num_steps=150, valid_every=150), data=CYCLE)
    assert result.train[0]["loss"] > 2.5
    assert result.train[-1]["loss"] < 0.05
    assert result.valid[-1]["loss"] < 0.05


@pytest.mark.parametrize(
    ("num_steps", "train_steps", "valid_steps"),
    [(10, [3, 6, 9, 10], [4, 8, 10]), (2, [2], [2]), (12, [3, 6, 9, 12], [4, 8, 12])],
)
def test_rows_and_calls_follow_the_rhythm(
    tmp_path: Path, num_steps: int, train_steps: list[int], valid_steps: list[int]
) -> None:
    """log_every 3, valid_every 4: these steps and the last one, once each."""
    calls: dict[int, dict[str, float]] = {}
    params = replace(TRAIN, num_steps=num_steps, log_every=3, valid_every=4)
    optim = replace(OPTIM, warmup_steps=0)
    _, result = run(tmp_path, params, optim, on_step=calls.__setitem__)

    assert [row["step"] for row in result.train] == train_steps
    assert [row["step"] for row in result.valid] == valid_steps
    assert list(calls) == sorted({*train_steps, *valid_steps})
    for row in result.train:
        metrics = calls[int(row["step"])]
        assert metrics["loss/train"] == row["loss"]
        assert metrics["optim/lr"] == row["lr"] == optim.lr_at(int(row["step"]), num_steps)
        assert metrics["optim/grad_norm"] == row["grad_norm"] > 0
        assert metrics["performance/tokens_per_s"] > 0
    for row in result.valid:
        assert calls[int(row["step"])]["loss/valid"] == row["loss"]


def test_keeps_the_last_good_state_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    """A weight becomes NaN in step 3; the state of step 2 stays the newest."""
    model = TransformerLM(MODEL, VOCAB_SIZE)

    def poison(step: int, _metrics: dict[str, float]) -> None:
        if step == 3:
            torch.nn.init.constant_(model.lm_head.weight, torch.nan)

    params = replace(TRAIN, checkpoint_every=2)
    with pytest.raises(FloatingPointError, match=r"^step 4: loss is nan; the states saved before"):
        train(model, settings_of(params), ON_NOISE, ResumeStore(tmp_path), Hooks(poison))
    assert saved_steps(tmp_path) == [2]
    assert saved_state(tmp_path, 2)["model"]["lm_head.weight"].isfinite().all()


def test_a_validation_loss_that_is_not_finite_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last update can break the model although its loss and gradients were finite."""
    monkeypatch.setattr("lmlib.training.trainer.sampled_loss", lambda *args, **kwargs: math.nan)
    with pytest.raises(FloatingPointError, match="step 5: the validation loss is nan"):
        run(tmp_path, replace(TRAIN, checkpoint_every=3))
    assert [path.name for path in sorted(tmp_path.glob("step-*.pt"))] == ["step-000000003.pt"]


def test_steps_with_the_learning_rate_of_the_schedule(tmp_path: Path) -> None:
    """Adam's first update of a weight is lr * g / (|g| + eps): lr, here a tenth of the peak."""
    optim = replace(OPTIM, weight_decay=0.0, warmup_steps=10)
    start = TransformerLM(MODEL, VOCAB_SIZE, seed=TRAIN.seed).lm_head.weight
    with pytest.raises(Interrupted):
        run(tmp_path, optim=optim, on_step=send(signal.SIGTERM, at_step=1))
    end = saved_state(tmp_path, 1)["model"]["lm_head.weight"]
    assert (end - start).abs().max().item() == pytest.approx(OPTIM.lr / 10, rel=1e-3)


def test_muon_steps_with_a_rate_of_its_own(tmp_path: Path) -> None:
    """It has the schedule's shape: after one of ten steps of warm-up a tenth of muon_lr."""
    optim = replace(OPTIM, name="muon", warmup_steps=10)
    with pytest.raises(Interrupted):
        run(tmp_path, optim=optim, on_step=send(signal.SIGTERM, at_step=1))
    groups = saved_state(tmp_path, 1)["optimizer"]["param_groups"]
    rates = {group["momentum"]: pytest.approx(group["lr"]) for group in groups}
    assert rates == {None: OPTIM.lr / 10, OPTIM.muon_momentum: OPTIM.muon_lr / 10}


def test_clips_to_max_grad_norm(tmp_path: Path) -> None:
    """Tiny gradients and a large eps: then an update is proportional to the clipped gradient."""
    params = replace(TRAIN, num_steps=1)
    optim = replace(
        OPTIM, eps=1e3, weight_decay=0.0, schedule="constant", warmup_steps=0, max_grad_norm=1e-3
    )
    start = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed).state_dict()
    end, result = run(tmp_path, params, optim)
    moved = sum((end.state_dict()[key] - start[key]).square().sum().item() for key in start) ** 0.5
    assert result.train[0]["grad_norm"] > 0.1  # before clipping
    # lr * norm / eps, up to the rounding of weights around 1 to float32
    assert moved < 10 * OPTIM.lr * 1e-3 / 1e3 + 1e-5


def test_rejects_an_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^train\.device is 'gpu'; choose auto, cpu, cuda"):
        run(tmp_path, replace(TRAIN, device="gpu"))


@pytest.mark.parametrize("short", ["train", "valid"])
def test_rejects_a_text_without_room_for_one_sequence(tmp_path: Path, short: str) -> None:
    """Eight inputs and the target of the last need nine tokens."""
    data = {"train": NOISE, "valid": NOISE} | {short: dataset(np.zeros(8), short)}
    model = TransformerLM(MODEL, VOCAB_SIZE)
    with pytest.raises(ValueError, match=rf"{short}.*: 8 tokens are too few .*context_length=8"):
        train(model, settings_of(), Datasets(**data), ResumeStore(tmp_path))


def test_nine_tokens_are_enough_for_context_8(tmp_path: Path) -> None:
    _, result = run(tmp_path, replace(TRAIN, num_steps=4), data=dataset(np.zeros(9)))
    assert len(result.train) == 4


def test_trains_uncompiled_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("torch.compile was called"))
    model, _ = run(tmp_path / "on", replace(TRAIN, compile="on"))
    assert "none of g++, clang++ found; the model runs uncompiled" in caplog.text
    expected, _ = run(tmp_path / "off", replace(TRAIN, compile="off"))
    assert_same_bits(model.state_dict(), expected.state_dict())


class FailingCompiler(torch.nn.Module):
    """What torch.compile returns if its backend does not work."""

    def forward(self, **_: torch.Tensor) -> torch.Tensor:
        raise BackendCompilerFailed(lambda: None, RuntimeError("no such backend"), None)


def test_trains_uncompiled_when_the_compiler_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.compile", lambda *_, **__: FailingCompiler())
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    model, _ = run(tmp_path / "on", replace(TRAIN, compile="on"))
    assert "the compiler failed" in caplog.text
    expected, _ = run(tmp_path / "off", replace(TRAIN, compile="off"))
    assert_same_bits(model.state_dict(), expected.state_dict())


class Compiled(torch.nn.Module):
    """What torch.compile returns, without the compiler: the model as its part `_orig_mod`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._orig_mod(inputs, targets)


def test_compiled_training_keeps_the_names_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compile: on` trains what torch.compile returns; neither bits nor names change."""
    monkeypatch.setattr("torch.compile", lambda module, **_: Compiled(module))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    params = replace(TRAIN, num_steps=4)
    compiled, _ = run(tmp_path / "on", replace(params, compile="on"))
    plain, _ = run(tmp_path / "off", params)
    assert_same_bits(compiled.state_dict(), plain.state_dict())
    assert set(saved_state(tmp_path / "on", 4)["model"]) == set(plain.state_dict())


# -- the residual stream


def test_a_narrow_residual_stream_learns_the_same(tmp_path: Path) -> None:
    """Sums of the blocks rounded to bfloat16: the loss differs, by the rounding alone."""
    params = replace(TRAIN, dtype="bfloat16")
    _, wide = run(tmp_path / "wide", params)
    dtypes: list[torch.dtype] = []

    def notice(_model: Any, _inputs: Any, output: torch.Tensor) -> None:
        dtypes.append(output.dtype)

    model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
    model.layers[0].register_forward_hook(notice)
    settings = settings_of(replace(params, residual="dtype"))
    narrow = train(model, settings, Datasets(NOISE, NOISE), ResumeStore(tmp_path / "narrow"))
    assert set(dtypes) == {torch.bfloat16}
    losses = [[row["loss"] for row in result.train] for result in (wide, narrow)]
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert model(torch.zeros(1, 8, dtype=torch.int64)).dtype == torch.float32  # again


# -- parts of a batch


@pytest.mark.parametrize("windows", ["any", "isolated"])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(
    tmp_path: Path, micro_batch_size: int, windows: Any
) -> None:
    """Equal up to the order of sums in float32, over 20 steps."""
    params = replace(TRAIN, windows=windows)
    whole, expected = run(tmp_path / "whole", params, data=DOCUMENTS)
    params = replace(params, micro_batch_size=micro_batch_size)
    model, result = run(tmp_path / "parts", params, data=DOCUMENTS)
    for curve in ("train", "valid"):
        for row, other in zip(getattr(result, curve), getattr(expected, curve), strict=True):
            assert row == pytest.approx(other, rel=1e-4)
    torch.testing.assert_close(model.state_dict(), whole.state_dict(), rtol=1e-3, atol=1e-4)


def test_isolated_documents_in_training_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step and the last validation: documents isolated, and copies within them alone.

    The weights are in the gradients, not in the loss that is reported.
    """
    monkeypatch.setattr("lmlib.training.copying.RARE", 1.0)  # in so short a text no token is rare
    params = replace(TRAIN, seed=2, windows="isolated", copy_weight=9.0, copy_fraction=0.5)
    model, result = run(tmp_path, params, data=DOCUMENTS)

    inputs, targets = DOCUMENTS.batch(
        1, seed=2, batch_size=4, context_length=8, windows="documents"
    )
    weigh = CopyWeights.of(DOCUMENTS, torch.device("cpu"))
    weights = weigh(inputs, targets, 1 + 8 * 0.9, separator_id=0)
    assert weights.std() > 1
    assert not torch.equal(weights, weigh(inputs, targets, 1 + 8 * 0.9))
    untrained = NextTokenLoss(TransformerLM(MODEL, VOCAB_SIZE, seed=2))
    weighted, expected = untrained(inputs, targets, weights, documents_of(inputs, 0))
    weighted.backward()
    norm = get_total_norm([p.grad for p in untrained.parameters() if p.grad is not None])
    assert result.train[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert result.train[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert weighted.item() != pytest.approx(expected.item(), rel=1e-3)

    sizes: dict[str, Any] = {"context_length": 8, "batch_size": 4, "batches": 2}
    starts = DOCUMENTS.starts(8, "documents")
    tokens, final = DOCUMENTS.tokens, NextTokenLoss(model)
    loss = sampled_loss(final, tokens, starts=starts, separator_id=0, **sizes)
    assert result.valid_loss == pytest.approx(loss, rel=1e-6)
    assert result.valid_loss != pytest.approx(sampled_loss(final, tokens, starts=starts, **sizes))


def test_without_a_separator_nothing_is_isolated(tmp_path: Path) -> None:
    """The text is one document."""
    kinds = [replace(TRAIN, windows=windows) for windows in ("documents", "isolated")]
    (_, expected), (_, found) = (run(tmp_path / kind.windows, kind) for kind in kinds)
    assert found == expected


def test_no_more_than_a_part_passes_through_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    hidden = TransformerLM.hidden

    def spy(self: TransformerLM, token_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(len(token_ids))
        return hidden(self, token_ids, **options)

    monkeypatch.setattr(TransformerLM, "hidden", spy)
    run(tmp_path, replace(TRAIN, num_steps=5, micro_batch_size=2))
    assert sizes == [2] * (5 * 2 + 2 * 2)  # five steps, and one validation of two batches


# -- float16


@pytest.fixture
def float16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs support float16 too; slowly, but enough to test the loop."""
    monkeypatch.setattr("lmlib.training.settings.resolve_dtype", lambda *_: torch.float16)


@pytest.mark.usefixtures("float16_on_cpu")
def test_float16_resumes_with_the_scale_of_its_loss(tmp_path: Path) -> None:
    """The first steps overflow, are skipped and halve the scale, which the state holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lmlib.training.trainer.GradScaler",
            lambda device, enabled: GradScaler(
                device, init_scale=2.0**40, growth_interval=3, enabled=enabled
            ),
        )
        assert_resumes_to_the_bit(tmp_path, TRAIN)
    assert 1 < saved_state(tmp_path / "whole", 20)["parts"]["scaler"]["scale"] < 2**40


@pytest.mark.usefixtures("float16_on_cpu")
def test_float16_clips_the_gradients_without_their_scale(tmp_path: Path) -> None:
    params = replace(TRAIN, num_steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlib.training.settings.resolve_dtype", lambda *_: torch.float32)
        _, expected = run(tmp_path / "float32", params)
    with pytest.MonkeyPatch.context() as patch:
        small = partial(GradScaler, init_scale=2.0**8)  # the first step does not overflow
        patch.setattr("lmlib.training.trainer.GradScaler", small)
        _, found = run(tmp_path / "float16", params)
    assert found.train[0]["grad_norm"] == pytest.approx(expected.train[0]["grad_norm"], rel=1e-2)


@pytest.mark.usefixtures("float16_on_cpu")
def test_float16_learns(tmp_path: Path) -> None:
    _, result = run(tmp_path, replace(TRAIN, num_steps=150, valid_every=150), data=CYCLE)
    assert result.valid[-1]["loss"] < 0.05


@pytest.mark.usefixtures("float16_on_cpu")
def test_float16_learns_with_a_narrow_residual_stream(tmp_path: Path) -> None:
    """Small gradients vanish in float16: they are scaled before they are rounded."""
    params = replace(TRAIN, num_steps=150, valid_every=150, residual="dtype")
    _, result = run(tmp_path, params, data=CYCLE)
    assert result.valid[-1]["loss"] < 0.05


def infinite_gradients(model: TransformerLM, from_call: int) -> None:
    calls = 0

    def to_infinity(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * torch.inf if calls >= from_call else gradient

    model.lm_head.weight.register_hook(to_infinity)


@pytest.mark.usefixtures("float16_on_cpu")
def test_float16_gives_up_when_no_scale_helps(tmp_path: Path) -> None:
    """65,536 is 2**16: the scale is 1 after 16 steps that overflow."""
    model = TransformerLM(MODEL, VOCAB_SIZE)
    infinite_gradients(model, from_call=1)
    with pytest.raises(FloatingPointError, match=r"^step 17: grad_norm is (inf|nan)"):
        train(model, settings_of(), ON_NOISE, ResumeStore(tmp_path))


def test_float16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^train\.dtype is float16, which trains on CUDA only"):
        run(tmp_path, replace(TRAIN, dtype="float16"))


# -- what is not read from a GPU at each step


def test_names_the_step_of_a_late_check_and_saves_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, values are read when a state is due, at 4 and 8; step 5 has failed."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    model = TransformerLM(MODEL, VOCAB_SIZE)
    infinite_gradients(model, from_call=5)
    params = replace(TRAIN, log_every=100, valid_every=100, checkpoint_every=4)
    with pytest.raises(FloatingPointError, match=r"^step 5: grad_norm is (inf|nan); the states"):
        train(model, settings_of(params), ON_NOISE, ResumeStore(tmp_path))
    assert saved_steps(tmp_path) == [4]
    assert saved_state(tmp_path, 4)["model"]["lm_head.weight"].isfinite().all()


def test_names_an_infinite_gradient_at_once_on_a_cpu(tmp_path: Path) -> None:
    model = TransformerLM(MODEL, VOCAB_SIZE)
    infinite_gradients(model, from_call=5)
    with pytest.raises(FloatingPointError, match=r"^step 5: grad_norm is (inf|nan)"):
        train(model, settings_of(), ON_NOISE, ResumeStore(tmp_path))
    assert model.lm_head.weight.isfinite().all()


# -- checkpoints by the clock


def test_saves_when_the_minutes_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that advances one minute per reading: two minutes pass every few steps."""
    minutes = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 60.0 * next(minutes))
    monkeypatch.setattr("lmlib.training.trainer.time", clock)
    saved: list[int] = []

    class NotingStore(ResumeStore):
        def save(self, model: Any, optimizer: Any, step: int, rows: Any, **parts: Any) -> None:
            saved.append(step)

    model = TransformerLM(MODEL, VOCAB_SIZE)
    params = replace(TRAIN, checkpoint_minutes=3.0, checkpoint_every=1000)
    train(model, settings_of(params), ON_NOISE, NotingStore(tmp_path))
    assert saved == [3, 6, 9, 12, 15, 18, 20]


# -- early stopping


def overfitting(**settings: Any) -> TrainParams:
    """Learning a cycle increases the loss on noise at every validation."""
    return replace(TRAIN, num_steps=400, valid_every=2, log_every=100, **settings)


def run_into_overfitting(
    folder: Path,
    params: TrainParams,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> tuple[TransformerLM, TrainResult]:
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
    data = Datasets(CYCLE, NOISE)
    return model, train(model, settings_of(params), data, ResumeStore(folder), Hooks(on_step))


def test_stops_when_patience_ends_with_the_best_weights(tmp_path: Path) -> None:
    model, result = run_into_overfitting(tmp_path, overfitting(patience=3))
    losses = [row["loss"] for row in result.valid]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3
    assert result.train[-1]["step"] == result.valid[-1]["step"] == 2 * len(losses) < 400
    assert result.valid_loss == losses[best]
    held = sampled_loss(
        NextTokenLoss(model),
        NOISE.tokens,
        context_length=8,
        batch_size=4,
        batches=2,
        starts=NOISE.starts(8),
    )
    assert held == losses[best]
    assert saved_steps(tmp_path)[-1] == 2 * len(losses)


def test_stopping_early_resumes_to_the_bit(tmp_path: Path) -> None:
    """Interrupted after each validation, and restarted after it has stopped."""
    params = overfitting(patience=3)
    model, result = run_into_overfitting(tmp_path / "whole", params)
    for row in result.valid[:-1]:
        with pytest.raises(Interrupted):
            run_into_overfitting(tmp_path / "parts", params, send(signal.SIGTERM, int(row["step"])))
    for _ in range(2):
        resumed, resumed_result = run_into_overfitting(tmp_path / "parts", params)
        assert_same_bits(resumed.state_dict(), model.state_dict())
        assert resumed_result == result


def test_without_patience_the_last_weights_are_kept(tmp_path: Path) -> None:
    _, result = run_into_overfitting(tmp_path, replace(overfitting(), num_steps=60))
    losses = [row["loss"] for row in result.valid]
    assert len(losses) == 30
    assert result.valid_loss == losses[-1] > min(losses)


# -- looking into a run


def test_overfits_one_batch(tmp_path: Path) -> None:
    """The loss of random tokens falls only when they are the same at every step."""
    params = replace(TRAIN, num_steps=100, overfit_one_batch=True)
    _, result = run(tmp_path / "one", params)
    assert result.train[-1]["loss"] < 0.5
    _, result = run(tmp_path / "all", replace(params, overfit_one_batch=False, num_steps=20))
    assert result.train[-1]["loss"] > 1.5


def test_logs_what_a_step_did(tmp_path: Path) -> None:
    metrics: dict[int, dict[str, float]] = {}
    model, _ = run(tmp_path, on_step=metrics.__setitem__)
    squares = sum(p.detach().double().square().sum().item() for p in model.parameters())
    assert metrics[20]["optim/param_norm"] == pytest.approx(squares**0.5, rel=1e-5)
    assert metrics[20]["performance/memory_mb"] > 10  # PyTorch alone takes more
    assert "performance/mfu" not in metrics[20]  # the peak of a CPU is not known


def test_logs_mfu_on_a_known_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmlib.monitoring.throughput.peak_flops", lambda *_: 1e9)
    metrics: dict[int, dict[str, float]] = {}
    model, _ = run(tmp_path, on_step=metrics.__setitem__)
    rate = metrics[20]["performance/tokens_per_s"]
    assert metrics[20]["performance/mfu"] == pytest.approx(
        rate * flops_per_token(model.params, model.vocab_size) / 1e9
    )


SAMPLING = SamplingParams(
    prompts=(), max_tokens=6, temperature=1.0, top_k=0, top_p=0.9, seed=3, num_samples=1
)


def write_ids(model: TransformerLM) -> str:
    """Continue token 1, as text: what `Hooks.write` does in the pipeline."""
    ((ids,),) = generate(model, [[1]], SAMPLING)
    return " ".join(map(str, ids))


def run_sampled(
    folder: Path,
    params: TrainParams,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
    on_sample: Callable[[list[tuple[int, str]]], None] = lambda texts: None,
) -> TransformerLM:
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
    hooks = Hooks(on_step, write=write_ids, on_sample=on_sample)
    train(model, settings_of(params), ON_NOISE, ResumeStore(folder), hooks)
    return model


@pytest.mark.parametrize(
    "changes", [{}, {"dtype": "bfloat16", "residual": "dtype"}, {"micro_batch_size": 1}]
)
def test_samples_leave_the_bits_of_a_run_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Weights, optimizer and curves; the samples are those of the model after each step."""
    params = replace(TRAIN, sample_every=4, **changes)
    shown: list[list[tuple[int, str]]] = []
    model = run_sampled(tmp_path / "sampled", params, on_sample=shown.append)
    plain, _ = run(tmp_path / "plain", replace(params, sample_every=0))
    assert_same_bits(model.state_dict(), plain.state_dict())
    with_samples, without = (saved_state(tmp_path / x, 20) for x in ("sampled", "plain"))
    assert with_samples["parts"].pop("samples") == {"texts": shown[-1]}
    assert without["parts"].pop("samples") == {"texts": []}
    assert_same_bits(with_samples, without)
    assert [[step for step, _ in texts] for texts in shown] == [
        list(range(4, last + 1, 4)) for last in (4, 8, 12, 16, 20)
    ]
    assert shown[-1][-1] == (20, write_ids(model))
    assert len({text for _, text in shown[-1]}) > 1


def test_a_resumed_run_has_each_sample_once(tmp_path: Path) -> None:
    """One that is stopped at a sample's step, and one that dies before it saves that step."""
    params = replace(TRAIN, sample_every=4)
    whole: list[list[tuple[int, str]]] = []
    model = run_sampled(tmp_path / "whole", params, on_sample=whole.append)

    steps: list[int] = []

    def note(texts: list[tuple[int, str]]) -> None:
        steps.append(texts[-1][0])

    stop = send(signal.SIGTERM, at_step=8)
    with pytest.raises(Interrupted):
        run_sampled(tmp_path / "stopped", params, stop, note)
    resumed = run_sampled(tmp_path / "stopped", params, on_sample=note)
    assert steps == [4, 8, 12, 16, 20]

    class Dies(Exception):
        pass

    def die(texts: list[tuple[int, str]]) -> None:
        if texts[-1][0] == 12:
            raise Dies

    with pytest.raises(Dies):  # after the state of step 7
        run_sampled(tmp_path / "died", params, on_sample=die)
    again: list[list[tuple[int, str]]] = []
    survived = run_sampled(tmp_path / "died", params, on_sample=again.append)
    assert again == whole[1:]  # that of step 4 is in the state, and is not written again
    for other, folder in (resumed, "stopped"), (survived, "died"):
        assert_same_bits(other.state_dict(), model.state_dict())
        assert_same_bits(saved_state(tmp_path / folder, 20), saved_state(tmp_path / "whole", 20))


def test_a_state_holds_the_newest_samples() -> None:
    samples = Samples()
    for step in range(1, 61):
        samples.add(step, f"text {step}")
    assert [step for step, _ in samples.texts] == list(range(11, 61))


@pytest.mark.parametrize("error", [MemoryError(), FloatingPointError("logits are not finite")])
def test_a_sample_that_fails_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(_model: TransformerLM) -> str:
        raise error

    model = TransformerLM(MODEL, VOCAB_SIZE, seed=TRAIN.seed)
    settings = settings_of(replace(TRAIN, sample_every=20))
    train(model, settings, ON_NOISE, ResumeStore(tmp_path / "1"), Hooks(write=fail))
    assert "no sample after step 20: " in caplog.text
    expected, _ = run(tmp_path / "2")
    assert_same_bits(model.state_dict(), expected.state_dict())


def test_without_a_bar_each_validation_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a log file, where a bar would be many lines."""
    with caplog.at_level("INFO", "lmlib"):
        _, result = run(tmp_path, replace(TRAIN, num_steps=10))
    for train_row, valid_row in (
        (result.train[4], result.valid[0]),
        (result.train[9], result.valid[1]),
    ):
        assert (
            f"step {valid_row['step']} of 10: loss {train_row['loss']:.3f}, "
            f"valid {valid_row['loss']:.3f}"
        ) in caplog.messages


def test_profiles_some_steps(tmp_path: Path) -> None:
    """The same bits; the trace names each step it holds."""
    trace = tmp_path / "new" / "trace.json"
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=TRAIN.seed)
    params = replace(TRAIN, profile_steps=4)
    store = ResumeStore(tmp_path / "1")
    train(model, settings_of(params), ON_NOISE, store, Hooks(trace=trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    steps = {name for e in events if (name := e.get("name", "")).startswith("ProfilerStep#")}
    assert len(steps) == 4
    expected, _ = run(tmp_path / "2")
    assert_same_bits(model.state_dict(), expected.state_dict())


def test_a_profile_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=TRAIN.seed)
    settings = settings_of(replace(TRAIN, profile_steps=4))
    hooks = Hooks(trace=tmp_path / "file" / "trace.json")
    result = train(model, settings, ON_NOISE, ResumeStore(tmp_path / "1"), hooks)
    assert result.train[-1]["step"] == TRAIN.num_steps
    assert "the profile was not written; training continues: " in caplog.text


def test_says_when_a_state_is_about_to_be_saved(tmp_path: Path) -> None:
    """After the points of the steps in it, so that these can be brought to the disk first."""
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=TRAIN.seed)
    params = replace(TRAIN, num_steps=4, log_every=1, checkpoint_every=2, valid_every=4)
    seen: list[object] = []
    hooks = Hooks(
        on_step=lambda step, _: seen.append(step), on_save=lambda: seen.append("about to save")
    )

    class Store(ResumeStore):
        def save(self, *args: Any, **parts: Any) -> None:
            seen.append("save")
            super().save(*args, **parts)

    train(model, settings_of(params), ON_NOISE, Store(tmp_path), hooks)
    assert seen == [1, 2, "about to save", "save", 3, 4, "about to save", "save"]


def test_warns_when_it_goes_on_in_another_dtype(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, on_step=send(signal.SIGTERM, at_step=10))
    run(tmp_path, replace(TRAIN, dtype="bfloat16"))
    assert "resuming with dtype bfloat16 from a state saved with float32" in caplog.text
