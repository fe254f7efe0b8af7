"""How well models learn from the same text, in the same number of tokens or the same time.

    make bench-learning CORPUS=FILE                                  the first three runs, 3 seeds
    make bench-learning CORPUS=FILE ARGS='--runs adamw "adamw optim.lr=2e-3" --seeds 1'
    make bench-learning CORPUS=data/raw/train.txt ARGS='--valid data/raw/valid.txt --seconds 120
        --runs "llama lr=2e-3" "nanogpt lr=2e-3" muon'

A run is what trains, and the settings in which it differs:

adamw, muon   this project's training with params.yaml, `optim.name` as said; any KEY=VALUE of its
              sections model, optim and train
llama         LlamaForCausalLM of Hugging Face transformers, of our sizes
nanogpt       the GPT of train_peers.py, of our sizes

Both peers train with PyTorch's AdamW: lr=1e-3, betas=[0.9,0.95], weight_decay=0.1 (matrices alone),
warmup=100 steps, then a cosine to a tenth; clipped at 1.0; windows=any (documents: those of ours).
Sizes and batches are those of params.yaml, `model.` and `train.` settings as for ours.

All are scored in float32 on the whole validation text, each document from its beginning: the last
hundredth of the text, or `--valid`. With `--seconds` the number of steps is what fits into that
time, by a rate measured first; building and scoring are not counted. `--jobs` runs at a time share
the cores.
"""

import argparse
import dataclasses
import itertools
import math
import multiprocessing
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from lmlib.data import TokenDataset
from lmlib.evaluation import evaluate
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import OptimParams, warmup_cosine
from lmlib.params import from_dict
from lmlib.runtime import Runtime, resolve_device, resolve_dtype
from lmlib.separator import SEPARATOR, separator_id
from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokens import TokenInfo
from lmlib.training import Datasets, ResumeStore, Settings, Trainer, TrainParams
from tests.benchmarks.contest import ROOT, num_cores
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.train_job import TrainJob
from tests.benchmarks.train_peers import GPT, llama_model

VALID_FRACTION = 0.01
PEERS = ("llama", "nanogpt")
PEER = {
    "lr": 1e-3,
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    "warmup": 100,
    "windows": "any",
}
# steps before the rate is measured, and measured steps
WARM_STEPS, RATE_STEPS = 5, 20


@dataclasses.dataclass(frozen=True)
class Params:
    """The sections of params.yaml that a run reads; a peer ignores `optim`."""

    model: ModelParams
    optim: OptimParams
    train: TrainParams


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what trains and its settings (`spec`), on which tokens and cores.

    num_tokens   seen in training; with `seconds`, as many as fit into that time
    """

    spec: str
    seed: int
    num_tokens: int
    folder: Path
    threads: int
    seconds: float | None = None

    @property
    def name(self) -> str:
        """Return what trains."""
        return shlex.split(self.spec)[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that differ, read as YAML."""
        pairs = (text.partition("=") for text in shlex.split(self.spec)[1:])
        return {key: YAML(typ="safe").load(value) for key, _, value in pairs}

    def params(self) -> Params:
        """Return params.yaml with what the run changes in it."""
        document = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        changes: dict[str, Any] = {"train.seed": self.seed, **self.settings}
        if self.name in PEERS:
            changes = {key: value for key, value in changes.items() if key not in PEER}
        else:
            changes["optim.name"] = self.name
        for key, value in changes.items():
            section, _, name = key.partition(".")
            if section not in document or not name:
                known = ", ".join(PEER) if self.name in PEERS else "those of params.yaml"
                raise ValueError(
                    f"{self.spec}: {key} is unknown; the settings are {known}, and "
                    "section.name of params.yaml"
                )
            document[section][name] = value
        sections = {section: document[section] for section in ("model", "optim", "train")}
        per_step = sections["train"]["batch_size"] * sections["model"]["context_length"]
        num_steps = max(1, self.num_tokens // per_step)
        sections["train"] |= {
            "num_steps": num_steps,
            "valid_every": num_steps,
            "log_every": num_steps,
            "checkpoint_every": num_steps,
        }
        return Params(
            from_dict(ModelParams, sections["model"], f"{self.spec}: model"),
            from_dict(OptimParams, sections["optim"], f"{self.spec}: optim"),
            from_dict(TrainParams, sections["train"], f"{self.spec}: train"),
        )

    def dataset(self, part: str) -> TokenDataset:
        """Return the tokens to learn from (`train`) or to be scored on (`valid`)."""
        tokens = np.load(self.folder / f"{part}.npy", mmap_mode="r")
        tokenizer = Tokenizer.load(self.folder)
        size = (self.folder / f"{part}.txt").stat().st_size
        separator = separator_id(tokenizer.special_ids)
        info = TokenInfo(len(tokens), tokenizer.vocab_size, "", size, 1, separator)
        return TokenDataset(tokens, info)


class Outcome(NamedTuple):
    """What a run reached: nats per token, bits per byte, and in which seconds and tokens."""

    loss: float
    bits_per_byte: float
    seconds: float
    tokens: int


def carry_out(run: Run) -> Outcome:
    """Train, for as long as the run may; return the scores of the validation text."""
    torch.set_num_threads(run.threads)
    contender = train_peer if run.name in PEERS else train_ours
    if run.seconds:
        rehearsal = dataclasses.replace(run, seconds=None)
        rate = contender(rehearsal, only_rate=True).rate
        per_step = run.params().train.batch_size * run.params().model.context_length
        run = dataclasses.replace(run, num_tokens=int(run.seconds * rate) * per_step)
    trained = contender(run, only_rate=False)
    valid, context_length = run.dataset("valid"), run.params().model.context_length
    scores = evaluate(
        trained.model.eval(),
        valid.tokens,
        valid.info.source_bytes,
        context_length=context_length,
        windows="documents",
        stride=context_length * 3 // 4,
        start_id=valid.info.separator_id,
    )
    seen = run.params().train
    tokens = seen.num_steps * seen.batch_size * context_length
    return Outcome(scores.loss, scores.bits_per_byte, trained.seconds, tokens)


class Trained(NamedTuple):
    """A model that `evaluate` can score, the seconds of its training, and its steps per second."""

    model: Any
    seconds: float
    rate: float


def take_steps(
    take: Callable[[int], object], num_steps: int, only_rate: bool
) -> tuple[float, float]:
    """Take the steps of a run, or only so many that their rate is known.

    Returns the seconds of all steps, and the steps per second after the first few.
    """
    start = warm = time.perf_counter()
    step = 0
    for step in range(1, min(num_steps, WARM_STEPS + RATE_STEPS if only_rate else num_steps) + 1):
        take(step)
        if step == WARM_STEPS:
            warm = time.perf_counter()
    end = time.perf_counter()
    return end - start, max(1, step - WARM_STEPS) / (end - warm)


def train_ours(run: Run, *, only_rate: bool) -> Trained:
    """Train a model as the pipeline does."""
    params, data = run.params(), run.dataset("train")
    model = TransformerLM(params.model, data.info.vocab_size, seed=run.seed)
    settings = Settings(params.model, params.optim, params.train)
    with tempfile.TemporaryDirectory() as states:
        datasets = Datasets(data, run.dataset("valid"))
        trainer = Trainer(model, settings, datasets, ResumeStore(states))
        with trainer.runtime.deterministic():
            trainer.begin()
            seconds, rate = take_steps(
                lambda _: trainer.take_step(), params.train.num_steps, only_rate
            )
    return Trained(model, seconds, rate)


class PeerLM(nn.Module):
    """A peer with the methods of a TransformerLM by which it is scored.

    model   gives the loss in nats of inputs and targets, (batch, seq) each
    """

    def __init__(self, name: str, params: ModelParams, vocab_size: int, seed: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        torch.manual_seed(seed)
        if name == "nanogpt":
            sizes = (params.context_length, vocab_size, params.d_model)
            blocks = (params.num_layers, params.num_heads, params.d_ff)
            self.model: Any = GPT(TrainJob(name, "", "cpu", 1, *sizes, *blocks))
            self.head = self.model.head
        else:
            self.model = llama_model(
                seed,
                vocab_size=vocab_size,
                hidden_size=params.d_model,
                intermediate_size=params.d_ff,
                num_hidden_layers=params.num_layers,
                num_attention_heads=params.num_heads,
                num_key_value_heads=params.kv_heads,
                max_position_embeddings=params.context_length,
                rms_norm_eps=params.norm_eps,
                tie_word_embeddings=params.tie_embeddings,
            )
            self.head = self.model.lm_head

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the input of the output matrix, (batch, seq, d_model)."""
        if isinstance(self.model, GPT):
            return self.model.hidden(inputs)
        return self.model.model(input_ids=inputs).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states."""
        return self.head(hidden)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss in nats."""
        logits = self.logits(self.hidden(inputs)).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train_peer(run: Run, *, only_rate: bool) -> Trained:
    """Train a Llama or a GPT with PyTorch's AdamW."""
    settings: dict[str, Any] = PEER | {k: v for k, v in run.settings.items() if k in PEER}
    params, data = run.params(), run.dataset("train")
    device = resolve_device(params.train.device, "train.device")
    runtime = Runtime(device, resolve_dtype(params.train.dtype, device, "train.dtype"))
    runtime.keep_freed_memory()
    model = PeerLM(run.name, params.model, data.info.vocab_size, run.seed).to(runtime.device)
    weights = list(model.parameters())
    decay = settings["weight_decay"]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim == 2], "weight_decay": decay},
            {"params": [p for p in weights if p.ndim != 2], "weight_decay": 0.0},
        ],
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        fused=True,
    )
    num_steps, lr = params.train.num_steps, settings["lr"]

    def backward(module: nn.Module, step: int) -> None:
        batch = data.batch(
            step,
            seed=run.seed,
            batch_size=params.train.batch_size,
            context_length=params.model.context_length,
            windows=settings["windows"],
        )
        with runtime.autocast():
            loss = module(*batch)
        loss.backward()

    data.to(runtime.device)
    forward = runtime.compile(model, lambda module: backward(module, 1), params.train.compile)

    def take(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, lr, 0.1 * lr, settings["warmup"], num_steps)
        optimizer.zero_grad()
        backward(forward, step)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return Trained(model, *take_steps(take, num_steps, only_rate))


def prepare(corpus: Path, folder: Path, valid: Path | None = None, size: int | None = None) -> int:
    """Write tokenizer and tokens of a text into `folder`; return how many there are to learn from.

    The vocabulary, by default of the size in params.yaml, is learnt from the part that is trained
    on.
    """
    document = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    text = corpus.read_bytes()
    if valid is None:
        cut = text.index(b"\n", int(len(text) * (1 - VALID_FRACTION))) + 1
        parts = {"train": text[:cut], "valid": text[cut:]}
    else:
        parts = {"train": text, "valid": valid.read_bytes()}
    for part, content in parts.items():
        (folder / f"{part}.txt").write_bytes(content)
    vocab, merges = train_bpe(
        folder / "train.txt", size or document["tokenizer"]["vocab_size"], [SEPARATOR]
    )
    tokenizer = Tokenizer(vocab, merges, [SEPARATOR])
    tokenizer.save(folder)
    counts = [
        tokenizer.encode_file(folder / f"{part}.txt", folder / f"{part}.npy") for part in parts
    ]
    return counts[0]


def rows_of(outcomes: dict[str, list[Outcome]]) -> list[Row]:
    """Return a row for each run, beside the first one."""
    first = next(iter(outcomes.values()))
    rows = []
    for spec, values in outcomes.items():
        row: dict[str, object] = {"run": spec}
        for name in ("loss", "bits_per_byte"):
            numbers = [getattr(value, name) for value in values]
            row[name.replace("_", " ")] = f"{statistics.mean(numbers):.4f}"
            if len(numbers) > 1:
                row[f"{name.replace('_', ' ')}: deviation"] = f"{statistics.stdev(numbers):.4f}"
            if values is not first:
                difference = statistics.mean(numbers) - statistics.mean(
                    getattr(v, name) for v in first
                )
                row[f"{name.replace('_', ' ')}: to the first"] = f"{difference:+.4f}"
        row["loss of each seed"] = " ".join(f"{value.loss:.4f}" for value in values)
        row["tokens"] = f"{statistics.mean(value.tokens for value in values):,.0f}"
        row["s"] = f"{statistics.mean(value.seconds for value in values):.0f}"
        rows.append(row)
    return rows


def main() -> None:
    """Train all runs and print their table last."""
    args = arguments()
    threads = max(1, num_cores() // args.jobs)
    about = machine() | {"torch": torch.__version__}
    spawned = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        there = prepare(args.corpus, Path(folder), args.valid, args.vocab_size)
        runs = [
            Run(spec, seed, args.tokens, Path(folder), threads, args.seconds)
            for seed, spec in itertools.product(args.seeds, args.runs)
        ]
        for run in runs:
            run.params()  # a wrong setting is an error before the first training
        results: dict[Run, Outcome] = {}
        with ProcessPoolExecutor(args.jobs, spawned, max_tasks_per_child=1) as pool:
            futures = {pool.submit(carry_out, run): run for run in runs}
            for future in as_completed(futures):
                run = futures[future]
                results[run] = future.result()
                if not math.isfinite(results[run].loss):
                    raise FloatingPointError(f"{run.spec}, seed {run.seed}: not finite")
                sys.stderr.write(f"{run.spec}, seed {run.seed}: {results[run]}\n")
    outcomes = {spec: [results[run] for run in runs if run.spec == spec] for spec in args.runs}
    about |= {
        "text": f"{args.corpus.name}, {there:,} tokens to learn from",
        "seeds": " ".join(map(str, args.seeds)),
    }
    lines = [f"{key}: {value}" for key, value in about.items()]
    sys.stdout.write("\n".join(["", *lines, "", table(rows_of(outcomes)), ""]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="a text")
    parser.add_argument("--runs", nargs="+", default=["llama", "adamw", "muon"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=5_000_000, help="seen by each run")
    parser.add_argument("--seconds", type=float, help="of each training, in place of --tokens")
    parser.add_argument("--valid", type=Path, help="the text to score")
    parser.add_argument("--vocab-size", type=int, help="default: that of params.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
