"""bench_learning.py: what its runs are made of, that each kind of them learns, and its scores."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmlib.data import TokenDataset
from lmlib.evaluation import LanguageModel
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import OptimParams
from lmlib.separator import SEPARATOR
from lmlib.tokens import TokenInfo
from lmlib.training import Datasets, ResumeStore, Settings, train
from tests.benchmarks import bench_learning
from tests.benchmarks.bench_learning import (
    Result,
    Run,
    arguments,
    carry_out,
    dataset,
    prepare,
    rows_of,
    score,
    steps_in,
    steps_that_fit,
)
from tests.benchmarks.learners import Learner, Llama, PeerOptim, Training, gpt

DOCUMENTS = [
    "".join(f"The cat number {i + j} sat on the mat and saw the dog.\n" for j in range(10))
    for i in range(0, 20_000, 10)
]
SMALL = "model.d_model=32 model.d_ff=64 model.num_layers=1 model.num_heads=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of a text in which much repeats itself."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "corpus.txt").write_text(SEPARATOR.join(DOCUMENTS), encoding="utf-8")
    prepare(folder / "corpus.txt", None, 1000, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "adamw optim.warmup_steps=0 train.batch_size=4 model.context_length=256",
        "muon optim.warmup_steps=0 train.batch_size=4 model.context_length=256",
        "llama warmup=0 batch_size=4 context_length=256",
        "nanogpt warmup=0 batch_size=4 context_length=256",
        "llama warmup=0 windows=documents batch_size=8 context_length=128",
    ],
)
def test_runs_learn(folder: Path, spec: str) -> None:
    """In 12 steps from the loss of a guess to one that a repeated sentence explains."""
    result = carry_out(Run(spec, 1, folder, 1, tokens=12 * 1024 + 1000))
    assert result.loss < math.log(dataset(folder, "train").info.vocab_size) - 1
    assert (result.steps, result.tokens) == (12, 12 * 1024)


def test_our_steps_are_those_of_the_pipeline(folder: Path, tmp_path: Path) -> None:
    """Five steps give the weights of `train`, which the stage calls."""
    learner = Learner.parse(f"muon {SMALL} optim.warmup_steps=1 train.batch_size=2")
    assert isinstance(learner.optim, OptimParams)
    data = dataset(folder, "train")
    ours = learner.begin(data, 7, 5)
    for _ in range(5):
        ours.take_step()

    params = dataclasses.replace(learner.train, seed=7, num_steps=5)
    model = TransformerLM(learner.model, data.info.vocab_size, seed=7)
    settings = Settings(learner.model, learner.optim, params)
    train(model, settings, Datasets(data, dataset(folder, "valid")), ResumeStore(tmp_path))
    for our, their in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [f"muon {SMALL} optim.warmup_steps=1", "nanogpt warmup=1"])
def test_seconds_choose_nothing_but_the_number_of_steps(folder: Path, spec: str) -> None:
    """The run that measured how fast it is has the bits of one told how many steps to take."""
    timed = carry_out(Run(spec, 1, folder, 1, tokens=0, seconds=0.5))
    told = carry_out(Run(spec, 1, folder, 1, tokens=timed.tokens))
    assert timed.steps > 1
    assert told == dataclasses.replace(timed, seconds=told.seconds)


def test_the_rate_leaves_out_the_warm_up() -> None:
    """The first ten steps take 3 s each, all others 0.5 s: 200 of those fit in 100 s."""
    taken, now_s = 0, 0.0

    def take_step() -> None:
        nonlocal taken, now_s
        taken += 1
        now_s += 3.0 if taken <= 10 else 0.5

    assert steps_in(100, take_step, lambda: None, lambda: now_s) == 200
    assert taken == 10 + 20


@pytest.mark.parametrize(
    ("seconds", "wanted", "steps"),
    [
        *((100, 100, 50), (102.9, 100, 50), (97.1, 100, 50)),
        *((125, 100, 40), (80, 100, 62), (1e4, 1, 1)),
    ],
)
def test_a_run_that_took_too_long_or_short_is_repeated(
    seconds: float, wanted: float, steps: int
) -> None:
    assert steps_that_fit(50, seconds, wanted) == steps


def test_the_run_nearest_to_the_time_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three, each with as many steps as would have fitted the one before."""
    times = iter([161.0, 130.0, 118.0])
    learn = bench_learning.learn

    def timed(
        learner: Learner, data: TokenDataset, seed: int, num_steps: int
    ) -> tuple[Training, float]:
        return learn(learner, data, seed, num_steps)[0], next(times)

    monkeypatch.setattr(bench_learning, "learn", timed)
    monkeypatch.setattr(bench_learning, "steps_in", lambda *_: 20)
    spec = f"muon {SMALL} optim.warmup_steps=1"
    result = carry_out(Run(spec, 1, folder, 1, tokens=0, seconds=150.0))
    assert (result.steps, result.seconds) == (20, 161.0)
    monkeypatch.undo()
    told = carry_out(Run(spec, 1, folder, 1, tokens=result.tokens))
    assert told.loss == result.loss
    said = capsys.readouterr().err.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in said] == [
        "20 steps took 161.0 s",
        "19 steps took 130.0 s",
    ]


def test_without_a_text_it_is_that_of_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In equal time, unless tokens are asked for."""
    texts = tmp_path / "train.txt", tmp_path / "valid.txt"
    monkeypatch.setattr("tests.benchmarks.bench_learning.TEXTS", texts)
    with pytest.raises(SystemExit):
        arguments([])
    assert "train.txt: no such file (`make` writes" in capsys.readouterr().err
    for text in texts:
        text.touch()
    args = arguments([])
    assert (args.corpus, args.valid, args.tokens, args.seconds) == (*texts, None, 150)
    args = arguments(["--tokens", "5_000_000"])
    assert (args.tokens, args.seconds) == (5_000_000, None)
    args = arguments([str(texts[1])])
    assert (args.corpus, args.valid) == (texts[1], None)


def test_a_run_of_seconds_takes_one_step_at_least() -> None:
    times = iter([0.0, 60.0])
    assert steps_in(1, lambda: None, lambda: None, lambda: next(times)) == 1


# -- settings


def test_settings_change_params_yaml() -> None:
    spec = "muon optim.muon_lr=1e-2 optim.betas=[0.8,0.9] model.d_ff=96 train.copy_weight=1"
    learner = Learner.parse(spec)
    assert isinstance(learner.optim, OptimParams)
    assert (learner.optim.name, learner.optim.muon_lr) == ("muon", 0.01)
    assert (learner.optim.betas, learner.model.d_ff) == ((0.8, 0.9), 96)
    assert learner.train.copy_weight == 1


def test_settings_change_a_peer_and_not_the_others() -> None:
    tuned = Learner.parse("nanogpt lr=3e-3 betas=[0.9,0.95] batch_size=2 context_length=64")
    assert isinstance(tuned.optim, PeerOptim)
    assert (tuned.optim.lr, tuned.optim.betas) == (3e-3, (0.9, 0.95))
    assert (tuned.tokens_per_step, tuned.train.windows) == (128, "any")
    assert Learner.parse("nanogpt").optim.betas == (0.9, 0.99)
    assert Learner.parse("llama windows=documents").train.windows == "documents"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adamw optim.learning_rate=1", r"optim\.learning_rate is unknown; .* optim\.lr,"),
        ("muon lr=1", "lr is unknown; the settings of muon are model.context_length,"),
        ("muon train.num_steps=9", r"train\.num_steps is unknown"),
        ("llama learning_rate=1", "learning_rate is unknown; the settings of llama are lr, betas"),
        ("nanogpt optim.lr=1", r"optim\.lr is unknown; the settings of nanogpt are lr, betas"),
        ("nanogpt betas=0.9", r"optim\.betas is the value 0\.9"),
        ("llama windows=isolated", "a peer cannot isolate documents; take windows=documents"),
        ("llama 'windows= isolated'", "a peer cannot isolate documents; take windows=documents"),
        ("lama", "lama is unknown; choose one of adamw, muon, llama, nanogpt"),
    ],
)
def test_what_is_refused_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learner.parse(spec)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "lama"], "lama is unknown"),
        (["--seconds", "9", "--jobs", "2"], "--seconds takes --jobs 1"),
        (["--seconds", "9", "--tokens", "9"], "not allowed with argument"),
    ],
)
def test_the_command_line_is_refused_at_once(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(["corpus.txt", *words])
    assert message in capsys.readouterr().err


def test_a_peer_that_ends_in_its_warm_up_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="llama: warmup is 100, not below the 5 steps"):
        carry_out(Run("llama batch_size=4 context_length=256", 1, folder, 1, tokens=5 * 1024))


# -- texts


def test_the_cut_is_between_documents(folder: Path) -> None:
    """The last hundredth of 2,000 documents, or one fewer, and no part of another."""
    learnt, valid = (dataset(folder, part).info for part in ("train", "valid"))
    assert learnt.documents + valid.documents == len(DOCUMENTS)
    assert valid.documents in (19, 20)
    text = (folder / "valid.txt").read_text(encoding="utf-8")
    assert text == SEPARATOR.join(DOCUMENTS[-valid.documents :])
    assert valid.source_bytes == len(text.encode())


def test_a_text_to_be_scored_on_and_no_separators(tmp_path: Path) -> None:
    """No token is learnt from the validation text, and none stands for a separator."""
    (tmp_path / "corpus.txt").write_text("a cat\n" * 500, encoding="utf-8")
    (tmp_path / "other.txt").write_text("a dog" + SEPARATOR, encoding="utf-8")
    prepare(tmp_path / "corpus.txt", tmp_path / "other.txt", 258, tmp_path)
    learnt, valid = (dataset(tmp_path, part).info for part in ("train", "valid"))
    assert (learnt.vocab_size, valid.vocab_size) == (258, 258)
    assert (learnt.source_bytes, valid.source_bytes) == (3000, 5 + len(SEPARATOR))
    assert learnt.separator_id is None
    assert (learnt.documents, valid.documents) == (1, 1)


# -- scores and table


@pytest.mark.parametrize("new", [Llama, gpt])
def test_the_score_of_a_peer_is_that_of_a_naive_loop(
    new: Callable[[ModelParams, int, int], LanguageModel],
) -> None:
    """Context 4, stride 3; each token has the window's tokens before it, and those alone.

    Documents of 3 and 3 tokens fill a window each; of the third, 6 tokens long, the first window
    scores 4 tokens, and the last ends with the text.
    """
    params = ModelParams(context_length=4, d_model=8, num_layers=2, num_heads=2, d_ff=16)
    model = new(params, 7, 3)
    tokens = np.array([1, 2, 3, 0, 4, 5, 1, 0, 6, 1, 2, 2, 5, 4], dtype=np.uint16)
    windows = [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 10, 10]  # the first input, of each target
    valid = TokenDataset(tokens, TokenInfo(14, 7, "", 28, 3, separator_id=0))

    preceded = [0, *tokens.tolist()]
    nats = 0.0
    for target, first in enumerate(windows, start=1):
        with torch.no_grad():
            logits = model.logits(model.hidden(torch.tensor([preceded[first:target]])))[0, -1]
        nats -= torch.log_softmax(logits.double(), dim=-1)[preceded[target]].item()

    scores = score(model, valid, context_length=4)
    assert scores.loss == pytest.approx(nats / 14, rel=1e-6)
    assert scores.bits_per_byte == pytest.approx(nats / math.log(2) / 28, rel=1e-6)
    with pytest.raises(TypeError, match="cannot be kept within documents; score it with"):
        score(model, valid, context_length=4, windows="isolated")


def test_a_peer_is_scored_with_the_logits_it_learns_with() -> None:
    """Its own library's logits: transformers', with labels that it shifts itself."""
    params = ModelParams(context_length=8, d_model=8, num_layers=2, num_heads=2, d_ff=16)
    llama = Llama(params, 7, 3)
    ids = torch.tensor([[1, 2, 3, 0, 4, 5, 1, 0]])
    theirs = llama.model(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(llama(ids[:, :-1], ids[:, 1:]), theirs)
    torch.testing.assert_close(
        llama.logits(llama.hidden(ids)), llama.model(input_ids=ids).logits, rtol=0, atol=0
    )


def test_the_table_compares_with_the_first() -> None:
    """Means 2 and 1.5; the sample deviation of 1 and 3 is the root of 2."""

    def results(*losses: float) -> list[Result]:
        return [Result(loss, loss / 2, 10, 10_240, 7.0, 1234) for loss in losses]

    first, second = rows_of({"a": results(1.0, 3.0), "b": results(1.5, 1.5)})
    assert (first["loss"], first["loss: deviation"]) == ("2.0000", "1.4142")
    assert first["loss: to the first"] == ""
    assert (second["loss: deviation"], second["loss: to the first"]) == ("0.0000", "-0.5000")
    assert (second["bits per byte"], second["bits per byte: to the first"]) == ("0.7500", "-0.2500")
    assert (second["seconds"], second["tokens"], second["weights"]) == ("7.0", "10,240", "1,234")
