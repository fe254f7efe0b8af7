"""The training benchmark: what its contenders have in common, and the rows it prints."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks import bench_train, train_parts, train_peers
from tests.benchmarks.bench_train import SIZES
from tests.benchmarks.contest import ROOT
from tests.benchmarks.train_job import TrainJob
from tests.benchmarks.train_ours import model_of

TINY = {
    "context_length": 16,
    "vocab_size": 64,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 88,
}


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    """Return the job of a tiny model on random tokens."""
    tokens = tmp_path / "tokens.npy"
    rng = np.random.default_rng(0)
    np.save(tokens, rng.integers(TINY["vocab_size"], size=2000, dtype=np.uint16))
    return TrainJob("nanogpt-eager-fp32", str(tokens), "cpu", 2, **TINY)


@pytest.mark.parametrize("size", ["small", "tinystories", "large"])
def test_contenders_have_as_many_weights(size: str, job: TrainJob) -> None:
    """Llama's are exactly as many; of nanoGPT those that are multiplied, within 2%.

    Weights of an embedding are looked up, but for nanoGPT's, which are the output's, too.
    """
    shape = SIZES[size] | {"num_layers": 1, "vocab_size": 500}
    job = replace(job, **shape, batch_size=1)
    ours = model_of(job)
    llama = train_peers.llama(job)()
    assert llama.weights == ours.num_parameters()
    assert llama.version.startswith("transformers ")
    gpt = train_peers.nanogpt(job)().weights - job.context_length * job.d_model
    assert gpt == pytest.approx(ours.num_parameters() - 500 * job.d_model, rel=0.02)


@pytest.mark.parametrize("family", ["llama", "nanogpt"])
def test_a_peer_learns_from_its_batches(family: str, job: TrainJob) -> None:
    """At first all tokens are as likely; a text that repeats is soon known."""
    np.save(job.tokens, np.arange(1000, dtype=np.uint16) % 64)
    contender = train_peers.prepare(replace(job, contender=f"{family}-eager-bf16"))()
    losses = []
    for _ in range(100):
        contender.take_step()
        losses.append(contender.loss())
    assert losses[0] == pytest.approx(math.log(64), abs=0.1)
    assert losses[-1] < losses[0] - 0.3


def test_nanogpt_sees_no_later_token(job: TrainJob) -> None:
    """Another last token moves the loss of the last position alone."""
    model = train_peers.GPT(context_length=16, vocab_size=64, d_model=32, num_layers=2, num_heads=2)
    inputs = torch.arange(16)[None]
    changed = inputs.clone()
    changed[0, -1] = 40
    ignored = torch.where(torch.arange(16) < 15, 7, -100)[None]  # the last position not scored
    torch.testing.assert_close(model(inputs, ignored), model(changed, ignored))
    assert model(inputs, inputs) != model(changed, inputs)


@pytest.mark.parametrize("owner", ["ours", "torch"])
def test_clipping_has_something_to_scale_each_time(owner: str, job: TrainJob) -> None:
    clip = train_parts.prepare(replace(job, contender=f"clipping-{owner}"))().take_step
    norms = [float(clip()) for _ in range(3)]  # type: ignore[arg-type]
    assert norms[0] > 100
    assert norms[1:] == pytest.approx([0.999, 0.999**2], rel=1e-4)


def test_parts_do_the_same(job: TrainJob) -> None:
    """Clipped and updated twice, our weights are PyTorch's: only its gains of norms decay, too."""
    weights = []
    for owner in ("ours", "torch"):
        model = model_of(job)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        step = train_parts.PARTS[f"both-{owner}"](model)
        step()
        step()
        weights.append(model.lm_head.weight)
    torch.testing.assert_close(*weights)
    assert (weights[0] != model_of(job).lm_head.weight).all()


def bench(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> None:
    """Run the benchmark of a tiny model once."""
    monkeypatch.setitem(bench_train.SIZES, "small", TINY)
    monkeypatch.setitem(bench_train.SIZES, "memory", TINY)
    few = ["--device", "cpu", "--repeats", "1", "--steps", "2", "--peers", sys.executable]
    monkeypatch.setattr(sys, "argv", ["bench_train", *few, *map(str, args)])
    bench_train.main()


@pytest.mark.slow
def test_it_prints_a_row_for_each_contender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["ours-eager-fp32", "nanogpt-eager-fp32"]
    bench(monkeypatch, "--json", tmp_path / "rows.json", "--contenders", *names)
    *_, ours, peer = capsys.readouterr().out.splitlines()
    assert "| small, batch 16 | ours eager fp32 " in ours
    assert "| nanogpt eager fp32 " in peer
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert [row["unit"] for row in rows] == ["tokens/s"] * 2
    ms = [row["ms/step"] for row in rows]
    assert rows[1]["ratio"]["median"] == pytest.approx(ms[1] / ms[0])


@pytest.mark.slow
def test_memory_is_that_of_eager_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(monkeypatch, "--size", "memory", "--contenders", "ours-eager-fp32", "ours-compiled-fp32")
    *_, rule, ours = capsys.readouterr().out.splitlines()
    assert rule.startswith("| ---")
    assert "| ours eager fp32 " in ours
    assert "| MB " in ours


def test_what_is_missing_is_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(monkeypatch, "--peers", "/bin/false", "--contenders", "llama-eager-fp32")
    row = capsys.readouterr().out.splitlines()[-1]
    assert "| failed | llama-eager-fp32 ended with status 1 in 'prepare'" in row


def test_the_peers_have_our_torch() -> None:
    peers = (ROOT / "tests" / "benchmarks" / "peers-requirements.txt").read_text(encoding="utf-8")
    ours = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    theirs = [line for line in peers.splitlines() if line.startswith(("torch=", "transformers="))]
    assert len(theirs) == 2
    assert set(theirs) <= set(ours)
