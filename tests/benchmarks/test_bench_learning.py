"""bench_learning.py: what its runs are made of, and that each kind of them learns."""

import math
from pathlib import Path

import pytest

from tests.benchmarks.bench_learning import Run, carry_out, prepare, rows_of

TEXT = "".join(f"The cat number {i} sat on the mat and saw the dog. " for i in range(20_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of a text in which much repeats itself."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "corpus.txt").write_text(TEXT.replace("dog. ", "dog.\n"), encoding="utf-8")
    assert prepare(folder / "corpus.txt", folder) > 100_000
    return folder


@pytest.mark.parametrize(
    "spec", ["adamw optim.warmup_steps=0", "muon optim.warmup_steps=0", "llama warmup=0"]
)
def test_runs_learn(folder: Path, spec: str) -> None:
    """In 12 steps from the loss of a guess to one that a repeated sentence explains."""
    run = Run(spec, 1, 12 * 1024, folder, 1)
    vocab_size = run.dataset("train").info.vocab_size
    assert carry_out(run) < math.log(vocab_size) - 1


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
    with pytest.raises(ValueError, match="learning_rate is unknown; the settings of a llama are"):
        carry_out(Run("llama learning_rate=1", 1, 10_240, folder, 1))


def test_the_table_compares_with_the_first() -> None:
    """Means 2 and 1.5; the sample deviation of 1 and 3 is the root of 2."""
    first, second = rows_of({"a": [1.0, 3.0], "b": [1.5, 1.5]})
    assert (first["loss"], first["deviation"]) == ("2.0000", "1.4142")
    assert "to the first" not in first
    assert (second["deviation"], second["to the first"]) == ("0.0000", "-0.5000")
