"""The training loop; above all that an interrupted training ends like an undisturbed one."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmlib.checkpoint import ResumeStore
from lmlib.data import Batch, TokenDataset
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW, OptimParams
from lmlib.signals import Interrupted
from lmlib.tokens import TokenInfo
from lmlib.training import TrainParams, TrainResult, train

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
)
TRAIN = TrainParams(
    seed=1,
    num_steps=20,
    batch_size=4,
    device="cpu",
    dtype="float32",
    compile="off",
    log_every=1,
    valid_every=5,
    valid_batches=2,
    checkpoint_every=7,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of 16 x 16 gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dataset(tokens: np.ndarray, name: str = "tokens") -> TokenDataset:
    info = TokenInfo(
        tokens=len(tokens),
        vocab_size=VOCAB_SIZE,
        tokenizer_sha256="",
        source_bytes=len(tokens),
        documents=1,
    )
    return TokenDataset(tokens.astype(np.uint16), info, name)


NOISE = dataset(np.random.default_rng(0).integers(0, VOCAB_SIZE, 200))
CYCLE = dataset(np.arange(200) % VOCAB_SIZE)  # each token has one successor


def run(
    folder: Path,
    params: TrainParams = TRAIN,
    optim: OptimParams = OPTIM,
    data: TokenDataset = NOISE,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> tuple[TransformerLM, TrainResult]:
    model = TransformerLM(MODEL, VOCAB_SIZE, seed=params.seed)
    return model, train(model, data, data, params, optim, ResumeStore(folder), on_step)


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


def assert_same_bits(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_interrupted_training_equals_an_uninterrupted_one(
    tmp_path: Path, dtype: Any, schedule: Any
) -> None:
    """20 steps equal 10 steps, SIGTERM between two checkpoints, and 10 more steps, bit for bit."""
    params, optim = replace(TRAIN, dtype=dtype), replace(OPTIM, schedule=schedule)
    model, result = run(tmp_path / "whole", params, optim)

    with pytest.raises(Interrupted) as interrupted:
        run(tmp_path / "halves", params, optim, on_step=send(signal.SIGTERM, at_step=10))
    assert interrupted.value.code == 128 + signal.SIGTERM
    assert saved_steps(tmp_path / "halves") == [7, 10]

    resumed_steps: list[int] = []
    resumed, resumed_result = run(
        tmp_path / "halves", params, optim, on_step=lambda step, _: resumed_steps.append(step)
    )
    assert resumed_steps == list(range(11, 21))
    assert_same_bits(resumed.state_dict(), model.state_dict())
    assert_same_bits(saved_state(tmp_path / "halves", 20), saved_state(tmp_path / "whole", 20))
    assert resumed_result == result


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as interrupted:
        run(tmp_path, on_step=send(signal.SIGINT, at_step=3))
    assert interrupted.value.code == 130
    assert saved_steps(tmp_path) == [3]


def test_signal_at_the_last_step_lets_the_training_end(tmp_path: Path) -> None:
    _, result = run(tmp_path, on_step=send(signal.SIGTERM, at_step=20))
    assert [row["step"] for row in result.train] == list(range(1, 21))


class InterruptingDataset(TokenDataset):
    """Sends SIGTERM whenever a batch is taken: a training on it ends after one step."""

    def batch(self, step: int, **settings: int) -> Batch:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, **settings)


def test_every_step_may_be_the_last_before_an_interruption(tmp_path: Path) -> None:
    """Stopped after each single step, also where nothing is logged, the rows are the same."""
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


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Killed five times, the training ends with the bits of one that was left alone."""
    code = "import sys; from tests import test_training; test_training.survive_kills(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout)
    assert killed > 0
    assert_same_bits(saved_state(tmp_path / "killed", 40), saved_state(tmp_path / "whole", 40))


def survive_kills(folder: str) -> None:
    """Train in child processes, five of which are killed; print how many did not get to the end.

    The children are forks of a process that has imported torch but never computed with it: that
    takes milliseconds, where a new process takes seconds to import.
    """
    params = replace(TRAIN, num_steps=40, checkpoint_every=2)
    rng = random.Random(0)
    # an optimizer's first call imports a compiler, for a second: here once, not in each child
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

    killed = [train_in_fork("killed", rng.uniform(0, 0.02)) for _ in range(5)]
    if train_in_fork("killed", None) or train_in_fork("whole", None):
        sys.exit("a training that nobody killed failed")
    print(killed.count(-signal.SIGKILL))  # noqa: T201  # read by the test


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
    """Each token has one successor, so 0 nats are within reach; guessing costs ln 16 = 2.77."""
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
    """log_every 3, valid_every 4: those steps and the last one, each once."""
    calls: dict[int, dict[str, float]] = {}
    params = replace(TRAIN, num_steps=num_steps, log_every=3, valid_every=4)
    optim = replace(OPTIM, warmup_steps=0)
    _, result = run(tmp_path, params, optim, on_step=calls.__setitem__)

    assert [row["step"] for row in result.train] == train_steps
    assert [row["step"] for row in result.valid] == valid_steps
    assert list(calls) == sorted({*train_steps, *valid_steps})
    for row in result.train:
        metrics = calls[int(row["step"])]
        assert metrics["train/loss"] == row["loss"]
        assert metrics["optim/lr"] == row["lr"] == optim.lr_at(int(row["step"]), num_steps)
        assert metrics["optim/grad_norm"] == row["grad_norm"] > 0
        assert metrics["train/tokens_per_s"] > 0
    for row in result.valid:
        assert calls[int(row["step"])]["valid/loss"] == row["loss"]


def test_keeps_the_last_good_state_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    """A weight becomes NaN in step 3; the state of step 2 stays the newest."""
    model = TransformerLM(MODEL, VOCAB_SIZE)

    def poison(step: int, _metrics: dict[str, float]) -> None:
        if step == 3:
            torch.nn.init.constant_(model.lm_head.weight, torch.nan)

    params = replace(TRAIN, checkpoint_every=2)
    with pytest.raises(FloatingPointError, match=r"^step 4: loss is nan; the states saved before"):
        train(model, NOISE, NOISE, params, OPTIM, ResumeStore(tmp_path), poison)
    assert saved_steps(tmp_path) == [2]
    assert saved_state(tmp_path, 2)["model"]["lm_head.weight"].isfinite().all()


def test_steps_with_the_learning_rate_of_the_schedule(tmp_path: Path) -> None:
    """Adam's first update of a weight is lr * g / (|g| + eps): lr, here a tenth of the highest."""
    optim = replace(OPTIM, weight_decay=0.0, warmup_steps=10)
    start = TransformerLM(MODEL, VOCAB_SIZE, seed=TRAIN.seed).lm_head.weight
    with pytest.raises(Interrupted):
        run(tmp_path, optim=optim, on_step=send(signal.SIGTERM, at_step=1))
    end = saved_state(tmp_path, 1)["model"]["lm_head.weight"]
    assert (end - start).abs().max().item() == pytest.approx(OPTIM.lr / 10, rel=1e-3)


def test_rejects_a_warm_up_that_never_ends(tmp_path: Path) -> None:
    message = r"^optim\.warmup_steps is 20, not below train\.num_steps, 20: the learning rate would"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, optim=replace(OPTIM, warmup_steps=20))


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
    # lr * norm / eps, but for the rounding of weights around 1 to float32
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
        train(model, data["train"], data["valid"], TRAIN, OPTIM, ResumeStore(tmp_path))


def test_nine_tokens_are_enough_for_context_8(tmp_path: Path) -> None:
    _, result = run(tmp_path, replace(TRAIN, num_steps=4), data=dataset(np.zeros(9)))
    assert len(result.train) == 4


def test_trains_uncompiled_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.compile", lambda _: pytest.fail("torch.compile was called"))
    model, _ = run(tmp_path / "on", replace(TRAIN, compile="on"))
    assert "none of g++, clang++ found; training uncompiled" in caplog.text
    expected, _ = run(tmp_path / "off", replace(TRAIN, compile="off"))
    assert_same_bits(model.state_dict(), expected.state_dict())


class Compiled(torch.nn.Module):
    """What torch.compile returns, without the compiler: the model as its part `_orig_mod`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self._orig_mod(token_ids)


def test_compiled_training_keeps_the_names_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compile: on` trains what torch.compile returns; neither bits nor names change."""
    monkeypatch.setattr("torch.compile", Compiled)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    params = replace(TRAIN, num_steps=4)
    compiled, _ = run(tmp_path / "on", replace(params, compile="on"))
    plain, _ = run(tmp_path / "off", params)
    assert_same_bits(compiled.state_dict(), plain.state_dict())
    assert set(saved_state(tmp_path / "on", 4)["model"]) == set(plain.state_dict())


@pytest.mark.parametrize(
    "name", ["num_steps", "batch_size", "log_every", "valid_every", "valid_batches"]
)
def test_rejects_counts_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is 0; it must be at least 1$"):
        replace(TRAIN, **{name: 0})


def test_rejects_a_negative_seed() -> None:
    with pytest.raises(ValueError, match=r"^seed is -1; it must be at least 0$"):
        replace(TRAIN, seed=-1)
