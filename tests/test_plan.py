"""lmlib/plan.py and `python -m stages.plan`: what a run takes, against what it then takes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmlib.memory import gigabytes
from lmlib.model import ModelParams, TransformerLM
from lmlib.plan import (
    Live,
    count_memory,
    count_work,
    largest_micro_batch,
    summary,
    weights_by_part,
)
from lmlib.training import Settings
from stages.cli import run_stage
from stages.plan import duration, main, with_changes
from tests.training.test_loop import OPTIM, TRAIN

ROOT = Path(__file__).parents[1]
MODEL = ModelParams(context_length=64, d_model=64, num_layers=2, num_heads=4, d_ff=176)
VOCAB = 512

VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "grouped": {"num_kv_heads": 1},
    "normed": {"qk_norm": True},
    "relu2": {"ffn": "relu2"},
    "no norm": {"norm": "none"},
}


def settings_of(model: ModelParams = MODEL, **train: Any) -> Settings:
    return Settings(model, OPTIM, replace(TRAIN, **train))


@pytest.mark.parametrize("name", VARIATIONS)
def test_weights_of_the_parts_are_those_of_the_model(name: str) -> None:
    params = replace(MODEL, **VARIATIONS[name])
    parts = weights_by_part(params, VOCAB)
    model = TransformerLM(params, VOCAB)
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    attention = [m for n, m in model.named_parameters() if "proj" in n]
    assert parts["attention"] == sum(p.numel() for p in attention)
    assert parts["embedding"] == VOCAB * 64
    assert parts.get("output", 0) == (0 if params.tie_embeddings else VOCAB * 64)


def test_flops_are_those_of_the_steps() -> None:
    """FlopCounterMode counts all pairs of positions in attention, of which half are masked."""
    params = replace(MODEL, attention="plain")
    settings = settings_of(params, num_steps=20, batch_size=2)
    model = TransformerLM(params, VOCAB)
    ids = torch.zeros((2, 64), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    work = count_work(settings, VOCAB)
    assert (work.weights, work.tokens) == (model.num_parameters(), 20 * 2 * 64)
    masked = 6 * 2 * 64 * 64 * 64 * 2  # 6 * layers * d_model * context, for each of 128 tokens
    assert work.flops == 20 * (counter.get_total_flops() - masked)


def test_live_bytes_and_their_peak() -> None:
    """Views and changes in place take nothing; what is freed counts no longer."""
    with Live() as live:
        x = torch.zeros(1000)
        y = x + 1
        y.add_(x[:500].sum())
        del x
        z = y.view(10, 100).T
        assert live.bytes == 4000
        z = z.double()
        del y
    assert live.bytes == 8000
    assert live.peak in (12_000, 12_004)
    del z
    assert live.bytes == 0


@pytest.mark.slow
def test_a_part_at_a_time_takes_less() -> None:
    """Gradients stay as large; activations shrink with the sequences at a time."""
    settings = settings_of(batch_size=16)
    all_, part = (count_memory(settings, VOCAB, torch.float32, size) for size in (16, 4))
    assert part.gradients == all_.gradients == 4 * count_work(settings, VOCAB).weights
    assert 3 < all_.activations / part.activations < 5
    assert all_.logits > 0
    fitting = [
        largest_micro_batch(settings, VOCAB, torch.float32, available)
        for available in (all_.total, all_.total - 1, part.total, part.total - 1, 1000)
    ]
    assert fitting == [16, 8, 4, 2, 0]


def test_nothing_is_computed_for_a_model_of_any_size() -> None:
    params = ModelParams(context_length=4096, d_model=8192, num_layers=2, num_heads=64, d_ff=22016)
    memory = count_memory(settings_of(params), 128_000, torch.bfloat16, 4)
    assert memory.weights > 10**10
    assert memory.total > 5 * 10**10


MEASURE = """
import ctypes, os, resource, sys, tempfile
import numpy as np
from lmlib.data import TokenDataset
from lmlib.model import TransformerLM
from lmlib.runtime import M_MMAP_THRESHOLD, Runtime
from lmlib.tokens import TokenInfo
from lmlib.training import Datasets, ResumeStore, Trainer
from tests.test_plan import SHAPES
settings, vocab_size = SHAPES[sys.argv[1]]
ids = np.random.default_rng(0).integers(vocab_size, size=200_000).astype(np.uint32)
data = TokenDataset(ids, TokenInfo(len(ids), vocab_size, "", 1, 1))
for keep in (False, True):
    if os.fork():
        os.wait()
        continue
    if not keep:
        Runtime.keep_freed_memory = lambda self: None
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)
    model = TransformerLM(settings.model, vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, settings, Datasets(data, data), ResumeStore(folder))
        trainer.begin()
        for _ in range(3):
            trainer.take_step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
    os._exit(0)
"""


def shape(
    vocab_size: int, optim: str, micro: int, dtype: str, batch: int, **model: Any
) -> tuple[Settings, int]:
    train = replace(TRAIN, batch_size=batch, micro_batch_size=micro, dtype=dtype)
    params = ModelParams(**model, qk_norm=True)
    return Settings(params, replace(OPTIM, name=optim), train), vocab_size


SHAPES = {
    "wide": shape(
        8000, "adamw", 0, "float32", 4,
        context_length=256, d_model=768, num_layers=4, num_heads=12, d_ff=2048,
    ),
    "muon": shape(
        4000, "muon", 0, "float32", 4,
        context_length=256, d_model=768, num_layers=6, num_heads=12, d_ff=2048,
    ),
    "long": shape(
        4000, "muon", 0, "float32", 4,
        context_length=1024, d_model=256, num_layers=4, num_heads=8, d_ff=704,
    ),
    "vocabulary": shape(
        64_000, "adamw", 0, "float32", 8,
        context_length=256, d_model=512, num_layers=2, num_heads=8, d_ff=1344,
    ),
    "parts": shape(
        8000, "muon", 8, "bfloat16", 32,
        context_length=256, d_model=512, num_layers=4, num_heads=8, d_ff=1344,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_memory_is_what_a_step_then_takes(name: str) -> None:
    """Within 15% of the most that the process takes, if the C library returns what is freed.

    With the memory that it keeps during a run the process takes 0.2 to 0.8 more of the tensors.
    """
    settings, vocab_size = SHAPES[name]
    command = [sys.executable, "-c", MEASURE, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    size = settings.train.sequences_at_a_time(1)
    dtype = getattr(torch, settings.train.dtype)
    memory = count_memory(settings, vocab_size, dtype, size)
    least, kept = map(int, done.stdout.split())
    assert memory.tensors + memory.program == pytest.approx(least, rel=0.15)
    assert 0.2 * memory.tensors < memory.fragmentation < 0.8 * memory.tensors
    assert memory.total == pytest.approx(kept, rel=0.25)


# -- the script


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the script with `arguments` and returns what it printed."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["plan", "-S", "train.device=cpu", *arguments])
        run_stage(main)
        return capsys.readouterr().out

    return run


def test_lines_fit_a_terminal(plan: Callable[..., str]) -> None:
    text = plan("-S", "train.batch_size=8", "--memory", "0.02")
    text += "\n" + summary(settings_of(), VOCAB)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^weights +1,651,968$", text, re.MULTILINE)
    assert "too little for one sequence" in text


def test_summary_has_the_numbers_of_the_plan() -> None:
    first, second = summary(settings_of(num_steps=20, batch_size=2), VOCAB).splitlines()
    assert first == "plan: 166,208 weights, 2,560 tokens (0.0 a weight; 20 are usual)"
    assert re.fullmatch(r"      2\.\de\+09 FLOPs, about 0\.4 GB of memory \(.* free\)", second)


def test_json_has_the_numbers(plan: Callable[..., str]) -> None:
    shorter = json.loads(plan("--json", "-S", "train.num_steps=1300"))
    default = json.loads(plan("--json"))
    assert default["flops"]["all"] == 2 * shorter["flops"]["all"]
    assert default["time"]["H100"] == pytest.approx(2 * shorter["time"]["H100"])
    assert default["time"]["H100"] == pytest.approx(2600 * 3 * 0.2e-3)  # of launches alone
    assert default["memory"]["all"] == shorter["memory"]["all"]
    assert default["memory"]["largest_micro_batch"] == 4


def test_files_of_another_corpus_are_not_counted(
    plan: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_bytes(bytes(1000))
    for name in ("RAW_TRAIN", "RAW_VALID", "TRAIN_TOKENS", "VALID_TOKENS"):
        monkeypatch.setattr(f"stages.plan.{name}", file)
    disk = json.loads(plan("--json"))["disk"]
    assert (disk["text"], disk["tokens"]) == (2000, 2000)
    other = json.loads(plan("--json", "-S", "corpus.source=tinystories"))["disk"]
    assert disk.keys() - other.keys() == {"text", "tokens"}


def test_measures_this_machine(plan: Callable[..., str]) -> None:
    small = ["-S", "model.context_length=32", "-S", "train.batch_size=2", "-S", "train.compile=off"]
    here = json.loads(plan("--json", "--measure", *small))["time"]["measured"]
    tokens = here["tokens_per_second"] * here["seconds"]
    assert tokens == pytest.approx(2600 * 2 * 32)


def test_a_step_that_does_not_fit_is_not_measured(plan: Callable[..., str]) -> None:
    large = ["-S", "model.d_model=65536", "-S", "model.num_layers=4"]
    with pytest.raises(SystemExit, match=r"a step needs at least .* train\.micro_batch_size"):
        plan("--measure", *large)


PRESETS = ["", "tinystories-cpu", "tinystories", "owt"]  # targets; the first is plain make


def row(target: str, plan: Callable[..., str]) -> str:
    """Return the line of README's table of presets."""
    changes: list[str] = []
    if target:
        command = ["make", "-n", target, "READY="]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        changes = re.findall(r"-S (\S+)", done.stdout)
    arguments = [part for change in [*changes, "train.dtype=float32"] for part in ("-S", change)]
    found = json.loads(plan("--json", *arguments))
    cells = [
        f"`make {target}`" if target else "`make`",
        f"{found['weights']['all'] / 1e6:.2f} M",
        f"{found['tokens']['all'] / 1e6:,.2f} M",
        f"{found['tokens']['per_weight']:.1f}",
        f"{found['flops']['all']:.1e}",
        gigabytes(found["memory"]["all"]),
        *(duration(found["time"][device]) for device in ("RTX 4090", "A100", "H100")),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.slow if name else []) for name in PRESETS]
)
def test_readme_has_the_presets_as_they_are_planned(target: str, plan: Callable[..., str]) -> None:
    expected = row(target, plan)
    assert expected in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "change", ["train.lr=1", "d_model=3", "model.d_model", "nothing.d_model=1", "note.te=1"]
)
def test_refuses_what_params_yaml_does_not_have(change: str) -> None:
    with pytest.raises(ValueError, match="has no such key"):
        with_changes({"model": {"d_model": 2}, "train": {}, "note": "text"}, [change])


def test_refuses_values_that_the_training_would(
    plan: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan("-S", "model.num_heads=3")
    # the sentence is the exit status of run_stage
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "model.num_layers=1000000000000",
            "1,000,000,000,000 layers are too many to plan for; 500",
        ),
        ("model.context_length=1000000000000", "tokens at a time are too many"),
        ("train.batch_size=1000000007", "tokens at a time are too many"),
        ("model.d_model=1000000000000", "weights are too many"),
    ],
)
def test_what_would_take_minutes_to_count_is_refused(
    plan: Callable[..., str], change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=message):
        plan("-S", change)
    assert capsys.readouterr().out == ""


def test_a_batch_with_many_divisors_and_large_parts_is_planned(plan: Callable[..., str]) -> None:
    """Parts of more tokens than can be counted are not tried, however much memory there is."""
    found = json.loads(
        plan(
            *("-S", "train.batch_size=1000000000000", "-S", "train.micro_batch_size=4"),
            *("--memory", "3", "--json"),
        )
    )
    assert 4 < found["memory"]["largest_micro_batch"] < 1000
    assert 10**12 % found["memory"]["largest_micro_batch"] == 0


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "0", "1e300", "much"])
def test_a_memory_that_is_none(
    plan: Callable[..., str], size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan("--memory", size)
    assert f"'{size}' is not a number of gigabytes between 0 and 1e9" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["train: {}\n", "model:\n", "model: text\n"])
def test_a_section_that_is_missing_or_none_is_named(
    plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: params.yaml: .*`?model`? is"):
        plan()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5.0 s"), (120, "2.0 min"), (7200, "2.0 h"), (864_000, "10.0 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
