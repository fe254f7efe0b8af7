"""bench_learning.py: what its runs are made of, and that each kind of them learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lmlib.evaluation import evaluate
from lmlib.model import ModelParams
from tests.benchmarks import bench_learning
from tests.benchmarks.bench_learning import Outcome, Run, carry_out, prepare, rows_of

TEXT = "".join(f"The cat number {i} sat on the mat and saw the dog. " for i in range(20_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of a text in which much repeats itself."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "corpus.txt").write_text(TEXT.replace("dog. ", "dog.\n"), encoding="utf-8")
    assert prepare(folder / "corpus.txt", folder) > 100_000
    return folder


@pytest.mark.parametrize(
    "spec",
    [
        "adamw optim.warmup_steps=0",
        "muon optim.warmup_steps=0",
        "llama warmup=0 lr=4e-3",
        "nanogpt warmup=0 lr=4e-3",
    ],
)
def test_runs_learn(folder: Path, spec: str) -> None:
    """In 12 steps from the loss of a guess to one that a repeated sentence explains."""
    run = Run(f"{spec} model.context_length=256", 1, 12 * 1024, folder, 1)
    vocab_size = run.dataset("train").info.vocab_size
    outcome = carry_out(run)
    assert outcome.loss < math.log(vocab_size) - 1
    assert outcome.tokens == 12 * 1024


@pytest.mark.parametrize("name", ["muon", "llama"])
def test_a_run_takes_the_time_it_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By a clock that a step moves by half a second, 5 seconds are 10 steps."""
    steps = 0

    def moved() -> float:
        return steps / 2

    def counted(take: Any, num_steps: int, only_rate: bool) -> tuple[float, float]:
        def take_one(step: int) -> None:
            nonlocal steps
            take(step)
            steps += 1

        return take_steps(take_one, num_steps, only_rate)

    take_steps = bench_learning.take_steps
    monkeypatch.setattr(bench_learning.time, "perf_counter", moved)
    monkeypatch.setattr(bench_learning, "take_steps", counted)
    spec = f"{name} model.context_length=32 model.d_model=16 model.d_ff=16 train.batch_size=2"
    settings = "optim.warmup_steps=0" if name == "muon" else "warmup=0"
    outcome = carry_out(Run(f"{spec} {settings}", 1, 100_000, folder, 1, 5.0))
    assert outcome.tokens == 10 * 2 * 32
    assert outcome.seconds == 5
    assert steps == bench_learning.WARM_STEPS + bench_learning.RATE_STEPS + 10


@pytest.mark.parametrize("name", ["llama", "nanogpt"])
def test_a_peer_is_scored_by_its_logits(name: str) -> None:
    """Two documents of 4 tokens after their separator 0: the mean loss is that of each alone."""
    params = ModelParams(context_length=5, d_model=8, num_layers=1, num_heads=2, d_ff=8)
    model = bench_learning.PeerLM(name, params, 11, seed=1).eval()
    documents = torch.tensor([[0, 3, 4, 5, 6, 0], [0, 7, 8, 9, 10, 0]])
    with torch.no_grad():
        expected = model(documents[:, :-1], documents[:, 1:]).item()
    text = documents.numpy()[:, 1:].ravel()
    scores = evaluate(model, text, 99, context_length=5, windows="documents", start_id=0)
    assert scores.loss == pytest.approx(expected, rel=1e-5)


def test_settings_change_params_yaml(folder: Path) -> None:
    run = Run("muon optim.muon_lr=1e-2 optim.betas=[0.8,0.9] model.d_ff=96", 7, 10_240, folder, 1)
    params = run.params()
    assert (params.optim.name, params.optim.muon_lr) == ("muon", 0.01)
    assert (params.optim.betas, params.model.d_ff) == ((0.8, 0.9), 96)
    assert params.train.seed == 7
    per_step = params.train.batch_size * params.model.context_length
    assert params.train.num_steps == 10_240 // per_step


def test_an_unknown_setting_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"optim\.learning_rate is unknown"):
        Run("adamw optim.learning_rate=1", 1, 10_240, folder, 1).params()


def test_an_unknown_setting_of_a_llama_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="learning_rate is unknown; the settings are lr, betas"):
        Run("llama learning_rate=1", 1, 10_240, folder, 1).params()


def test_the_table_compares_with_the_first() -> None:
    """Means 2 and 1.5; the sample deviation of 1 and 3 is the root of 2."""
    first, second = rows_of(
        {
            "a": [Outcome(1.0, 0.5, 3, 10), Outcome(3.0, 0.5, 4, 10)],
            "b": [Outcome(1.5, 0.2, 3, 10), Outcome(1.5, 0.2, 3, 10)],
        }
    )
    assert (first["loss"], first["loss: deviation"]) == ("2.0000", "1.4142")
    assert "loss: to the first" not in first
    assert (second["loss: deviation"], second["loss: to the first"]) == ("0.0000", "-0.5000")
    assert second["bits per byte: to the first"] == "-0.3000"
    assert (first["s"], first["tokens"]) == ("4", "10")
