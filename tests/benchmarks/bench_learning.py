"""How well models learn from the same text in the same number of tokens: loss after training.

    make bench-learning CORPUS=FILE                                  the three runs below, 3 seeds
    make bench-learning CORPUS=FILE ARGS='--runs adamw "adamw optim.lr=2e-3" --seeds 1'

A run is what trains, and the settings in which it differs:

adamw, muon   this project's training with params.yaml, `optim.name` as said; any KEY=VALUE of its
              sections model, optim and train
llama         LlamaForCausalLM of Hugging Face transformers with as many weights and PyTorch's
              AdamW: lr=1e-3, betas=[0.9,0.95], weight_decay=0.1 (matrices alone), warmup=100
              steps, then a cosine to a tenth; clipped at 1.0

All see the same windows in the same order, in batches of train.batch_size, and are scored in
float32 on the same windows, side by side, of the last hundredth of the text. `--jobs` runs at a
time share the cores.
"""

import argparse
import dataclasses
import math
import multiprocessing
import shlex
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from lmlib.data import TokenDataset
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM
from lmlib.optim import OptimParams, warmup_cosine
from lmlib.params import from_dict
from lmlib.runtime import Runtime, resolve_device, resolve_dtype
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer, train_bpe
from lmlib.tokens import TokenInfo
from lmlib.training import Datasets, ResumeStore, Settings, TrainParams, train
from lmlib.training.validation import sampled_loss
from tests.benchmarks.contest import ROOT, num_cores
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.train_peers import llama_model

VALID_FRACTION = 0.01
LLAMA = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1, "warmup": 100}


@dataclasses.dataclass(frozen=True)
class Params:
    """The sections of params.yaml that a run reads; a llama ignores `optim`."""

    model: ModelParams
    optim: OptimParams
    train: TrainParams


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what trains and its settings (`spec`), on which tokens and cores."""

    spec: str
    seed: int
    num_tokens: int
    folder: Path
    threads: int

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
        changes: dict[str, Any] = {"train.seed": self.seed}
        if self.name != "llama":
            changes |= {"optim.name": self.name, **self.settings}
        for key, value in changes.items():
            section, _, name = key.partition(".")
            document[section][name] = value
        sections = {section: document[section] for section in ("model", "optim", "train")}
        per_step = sections["train"]["batch_size"] * sections["model"]["context_length"]
        num_steps = self.num_tokens // per_step
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
        return TokenDataset(tokens, TokenInfo(len(tokens), vocab_size(self.folder), "", 1, 1))


def vocab_size(folder: Path) -> int:
    """Return the number of tokens the tokenizer in `folder` knows."""
    return Tokenizer.load(folder).vocab_size


def carry_out(run: Run) -> float:
    """Train; return the loss on the validation text in nats per token."""
    torch.set_num_threads(run.threads)
    next_token_loss = (train_llama if run.name == "llama" else train_ours)(run).eval()
    params, valid = run.params(), run.dataset("valid").tokens
    windows = (len(valid) - 1) // params.model.context_length
    with torch.no_grad():
        return sampled_loss(
            next_token_loss,
            valid[: windows * params.model.context_length + 1],
            context_length=params.model.context_length,
            batch_size=1,
            batches=windows,
        )


def train_ours(run: Run) -> nn.Module:
    """Return our loss, of a model trained as the pipeline trains it."""
    params, data = run.params(), run.dataset("train")
    model = TransformerLM(params.model, data.info.vocab_size, seed=run.seed)
    with tempfile.TemporaryDirectory() as states:
        settings = Settings(params.model, params.optim, params.train)
        train(model, settings, Datasets(data, run.dataset("valid")), ResumeStore(states))
    return NextTokenLoss(model)


class LlamaLoss(nn.Module):
    """Mean cross-entropy of a LlamaForCausalLM of our shape, in nats."""

    def __init__(self, params: ModelParams, vocab_size: int, seed: int) -> None:
        super().__init__()
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

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss; inputs and targets are (batch, seq)."""
        logits = self.model(input_ids=inputs).logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train_llama(run: Run) -> nn.Module:
    """Return the loss of a Llama, trained with PyTorch's AdamW."""
    settings: dict[str, Any] = LLAMA | run.settings
    if unknown := settings.keys() - LLAMA.keys():
        raise ValueError(
            f"{run.spec}: {', '.join(sorted(unknown))} is unknown; the settings of a llama are "
            f"{', '.join(LLAMA)}"
        )
    params, data = run.params(), run.dataset("train")
    device = resolve_device(params.train.device, "train.device")
    runtime = Runtime(device, resolve_dtype(params.train.dtype, device, "train.dtype"))
    llama_loss = LlamaLoss(params.model, data.info.vocab_size, run.seed).to(runtime.device)
    weights = list(llama_loss.parameters())
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

    def backward(module: nn.Module, step: int) -> None:
        batch = data.batch(
            step,
            seed=run.seed,
            batch_size=params.train.batch_size,
            context_length=params.model.context_length,
        )
        with runtime.autocast():
            loss = module(*batch)
        loss.backward()

    data.to(runtime.device)
    forward = runtime.compile(llama_loss, lambda module: backward(module, 1), params.train.compile)
    num_steps, lr = params.train.num_steps, settings["lr"]
    for step in range(1, num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, lr, 0.1 * lr, settings["warmup"], num_steps)
        optimizer.zero_grad()
        backward(forward, step)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return llama_loss


def prepare(corpus: Path, folder: Path) -> int:
    """Write tokenizer and tokens of a text into `folder`; return how many there are to learn from.

    The vocabulary is that of params.yaml, learnt from the part that is trained on.
    """
    document = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    text = corpus.read_bytes()
    cut = text.index(b"\n", int(len(text) * (1 - VALID_FRACTION))) + 1
    parts = {"train": text[:cut], "valid": text[cut:]}
    for part, content in parts.items():
        (folder / f"{part}.txt").write_bytes(content)
    size = document["tokenizer"]["vocab_size"]
    vocab, merges = train_bpe(folder / "train.txt", size, [SEPARATOR])
    tokenizer = Tokenizer(vocab, merges, [SEPARATOR])
    tokenizer.save(folder)
    counts = [
        tokenizer.encode_file(folder / f"{part}.txt", folder / f"{part}.npy") for part in parts
    ]
    return counts[0]


def rows_of(losses: dict[str, list[float]]) -> list[Row]:
    """Return a row for each run, beside the first one."""
    first = next(iter(losses.values()))
    rows = []
    for spec, values in losses.items():
        row: dict[str, object] = {
            "run": spec,
            "loss": f"{statistics.mean(values):.4f}",
            "deviation": f"{statistics.stdev(values):.4f}" if len(values) > 1 else "",
            "of each seed": " ".join(f"{value:.4f}" for value in values),
        }
        if values is not first:
            row["to the first"] = f"{statistics.mean(values) - statistics.mean(first):+.4f}"
        rows.append(row)
    return rows


def main() -> None:
    """Train all runs and print their table last."""
    args = arguments()
    threads = max(1, num_cores() // args.jobs)
    about = machine() | {"torch": torch.__version__}
    spawned = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        there = prepare(args.corpus, Path(folder))
        runs = [
            Run(spec, seed, args.tokens, Path(folder), threads)
            for seed in args.seeds
            for spec in args.runs
        ]
        results: dict[Run, float] = {}
        with ProcessPoolExecutor(args.jobs, spawned, max_tasks_per_child=1) as pool:
            futures = {pool.submit(carry_out, run): run for run in runs}
            for future in as_completed(futures):
                run = futures[future]
                results[run] = future.result()
                if not math.isfinite(results[run]):
                    raise FloatingPointError(f"{run.spec}, seed {run.seed}: not finite")
                sys.stderr.write(f"{run.spec}, seed {run.seed}: {results[run]:.4f}\n")
    losses = {spec: [results[run] for run in runs if run.spec == spec] for spec in args.runs}
    about |= {
        "text": f"{args.corpus.name}, {there:,} tokens to learn from, {args.tokens:,} seen",
        "seeds": " ".join(map(str, args.seeds)),
    }
    lines = [f"{key}: {value}" for key, value in about.items()]
    sys.stdout.write("\n".join(["", *lines, "", table(rows_of(losses)), ""]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="a text")
    parser.add_argument("--runs", nargs="+", default=["llama", "adamw", "muon"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=5_000_000, help="seen by each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
