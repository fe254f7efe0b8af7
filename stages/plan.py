"""What a run with params.yaml takes, before it begins; run by hand, not a stage of the pipeline.

Reads:  params.yaml; of the files in data/, their sizes, if they are there and no parameter of the
        corpus or tokenizer is changed. Writes: nothing.
Run:    python -m stages.plan -S model.d_model=512     (make plan ARGS="-S model.d_model=512")
"""

import argparse
import copy
import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmlib.data import TokenDataset
from lmlib.files import parse_yaml, read_yaml
from lmlib.memory import available_bytes, gigabytes, require_memory
from lmlib.model import ModelParams, TransformerLM
from lmlib.monitoring.throughput import peak_flops
from lmlib.optim import OptimParams
from lmlib.params import from_dict, read_section
from lmlib.plan import (
    USUAL_TOKENS_PER_WEIGHT,
    Memory,
    cache_bytes,
    count_memory,
    count_work,
    largest_micro_batch,
    require_countable,
    weights_by_part,
)
from lmlib.tokenizer import TokenizerParams
from lmlib.tokens import TokenInfo
from lmlib.training import Datasets, ResumeStore, Settings, Trainer, TrainParams
from stages.cli import run_stage, say
from stages.paths import PARAMS, RAW_TRAIN, RAW_VALID, TRAIN_TOKENS, VALID_TOKENS

# names as CUDA reports them
DEVICES = {
    "T4": "Tesla T4",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "A100": "NVIDIA A100-SXM4-80GB",
    "H100": "NVIDIA H100 80GB HBM3",
    "H200": "NVIDIA H200",
}
EFFICIENCY = 0.35  # the share of its peak that a device reaches
LAUNCHES_S = 0.2e-3  # the least that a step takes for each layer: a GPU starts about 60 kernels
KEPT_STATES = 2
MEMORY = [field.name for field in dataclasses.fields(Memory)]
MEASURED_STEPS = 5


def main() -> None:
    """Print the plan, as text or JSON."""
    args = _parse_arguments()
    names = ("model", "optim", "train", "tokenizer")
    sections = read_yaml(PARAMS) | {name: read_section(PARAMS, name) for name in names}
    sections = with_changes(sections, args.set_param)
    settings = Settings(
        model=from_dict(ModelParams, sections["model"], f"{PARAMS}: model"),
        optim=from_dict(OptimParams, sections["optim"], f"{PARAMS}: optim"),
        train=from_dict(TrainParams, sections["train"], f"{PARAMS}: train"),
    )
    tokenizer = from_dict(TokenizerParams, sections["tokenizer"], f"{PARAMS}: tokenizer")
    free = None if args.memory is None else int(args.memory * 10**9)
    require_countable(settings, tokenizer.vocab_size)
    plan = plan_of(settings, tokenizer.vocab_size, free)
    if any(change.startswith(("corpus.", "tokenizer.")) for change in args.set_param):
        for name in ("text", "tokens"):  # those in data/ are of another corpus or tokenizer
            plan["disk"].pop(name, None)
    if args.measure:
        what, lower = "a step", "give -S train.micro_batch_size a lower value"
        require_memory(plan["memory"]["all"], what, lower, settings.device)
        plan["time"]["measured"] = measured(settings, tokenizer.vocab_size)
    say((json.dumps(plan, indent=2) if args.json else as_text(plan)) + "\n")


def with_changes(sections: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Return the sections of params.yaml with `SECTION.KEY=VALUE` set, as `dvc exp run -S` does.

    Raises ValueError for a key that params.yaml does not have.
    """
    sections = copy.deepcopy(sections)
    for change in changes:
        name, found, value = change.partition("=")
        section, _, key = name.partition(".")
        values = sections.get(section)
        if not found or not isinstance(values, dict) or key not in values:
            raise ValueError(f"-S {change}: {PARAMS} has no such key; write SECTION.KEY=VALUE")
        values[key] = parse_yaml(value, f"-S {name}")
    return sections


def plan_of(settings: Settings, vocab_size: int, free: int | None = None) -> dict[str, Any]:
    """Return the plan as numbers: weights, tokens, FLOPs, bytes and seconds.

    free:  bytes of memory for the run; by default what this machine or its GPU has
    """
    device = settings.device
    runtime = settings.runtime(device)
    work, size = count_work(settings, vocab_size), settings.train.sequences_at_a_time(1)
    memory = count_memory(settings, vocab_size, runtime.dtype, size)
    if free is None:
        free = available_bytes(device)
    state = memory.weights + memory.moments
    return {
        "weights": {"all": work.weights, **weights_by_part(settings.model, vocab_size)},
        "tokens": {
            "all": work.tokens,
            "per_step": work.tokens // settings.train.num_steps,
            "per_weight": work.tokens / work.weights,
        },
        "flops": {"all": work.flops, "per_token": work.flops // work.tokens},
        "memory": {
            "dtype": str(runtime.dtype).removeprefix("torch."),
            "sequences_at_a_time": size,
            "all": memory.total,
            **vars(memory),
            "saving": memory.saving,
            "cache": cache_bytes(settings.model),
            "free": free,
            "largest_micro_batch": largest_micro_batch(settings, vocab_size, runtime.dtype, free),
        },
        "disk": {
            **_sizes("text", RAW_TRAIN, RAW_VALID),
            **_sizes("tokens", TRAIN_TOKENS, VALID_TOKENS),
            "states": KEPT_STATES * state,
            "model": memory.weights,
        },
        "time": {"efficiency": EFFICIENCY, **_seconds(work.flops, settings)},
    }


def _sizes(name: str, *paths: Path) -> dict[str, int]:
    """Return the bytes of files and of folders of files, where all of them are there."""
    if not all(path.exists() for path in paths):
        return {}
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return {name: sum(file.stat().st_size for file in files)}


def _seconds(flops: int, settings: Settings) -> dict[str, float]:
    """Return the time on known devices, in 16 bits, at the share EFFICIENCY of their peak."""
    least = LAUNCHES_S * settings.model.num_layers * settings.train.num_steps
    peaks = {
        label: peak_flops(name, torch.bfloat16) or peak_flops(name, torch.float16)
        for label, name in DEVICES.items()
    }
    return {label: max(least, flops / (peak * EFFICIENCY)) for label, peak in peaks.items() if peak}


def measured(settings: Settings, vocab_size: int) -> dict[str, float]:
    """Return the tokens per second of a few uncompiled steps here, and the seconds of all steps."""
    context, params = settings.model.context_length, settings.train
    ids = np.random.default_rng(0).integers(vocab_size, size=64 * (context + 1))
    ids[:: context + 1] = 0  # documents begin here
    info = TokenInfo(len(ids), vocab_size, "", 1, 64, separator_id=0)
    data = TokenDataset(ids.astype(np.uint32), info)
    model = TransformerLM(settings.model, vocab_size, seed=params.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, settings, Datasets(data, data), ResumeStore(folder))
        seconds = []
        with trainer.in_order():
            for _ in range(2 + MEASURED_STEPS):
                begin = time.perf_counter()
                trainer.take_step().loss.item()  # waits for a GPU
                seconds.append(time.perf_counter() - begin)
    step = float(np.median(seconds[2:]))
    return {
        "tokens_per_second": params.batch_size * context / step,
        "seconds": step * params.num_steps,
    }


def as_text(plan: dict[str, Any]) -> str:
    """Return the plan as lines for people."""
    weights, tokens, flops = plan["weights"], plan["tokens"], plan["flops"]
    memory, disk, times = plan["memory"], plan["disk"], plan["time"]
    lines = [
        _line("weights", f"{weights['all']:,}"),
        *(_part(name, f"{number:,}") for name, number in weights.items() if name != "all"),
        _line("tokens", f"{tokens['all']:,}", _per_weight(tokens)),
        _line(
            "FLOPs",
            f"{flops['all']:.2e}",
            f"{flops['per_token'] / 1e6:,.1f} million a token",
        ),
        _line("memory", gigabytes(memory["all"]), _passes(memory)),
        *(_part(name, gigabytes(memory[name])) for name in MEMORY if memory[name]),
        _part("saving", gigabytes(memory["saving"]), "more while a state is saved"),
        _part("cache", gigabytes(memory["cache"]), "for each text that is sampled"),
        _part("free", gigabytes(memory["free"]), _fitting(memory)),
        _line("disk", gigabytes(sum(disk.values())), "and the same again in DVC's cache"),
        *(_part(name, gigabytes(number)) for name, number in disk.items()),
    ]
    if "measured" in times:
        here = times["measured"]
        speed = f"measured: {here['tokens_per_second']:,.0f} tokens/s"
        lines.append(_line("time here", duration(here["seconds"]), speed))
    lines.append(f"time elsewhere, at {times['efficiency']:.0%} of the peak (an estimate)")
    return "\n".join(
        [*lines, *(_part(label, duration(times[label])) for label in DEVICES if label in times)]
    )


def _line(name: str, value: str, remark: str = "") -> str:
    return f"{name:<15} {value:>13}   {remark}".rstrip()


def _part(name: str, value: str, remark: str = "") -> str:
    return _line(f"  {name}", value, remark)


def _per_weight(tokens: dict[str, Any]) -> str:
    return f"{tokens['per_weight']:.1f} for each weight ({USUAL_TOKENS_PER_WEIGHT} are usual)"


def _passes(memory: dict[str, Any]) -> str:
    return f"of a step in {memory['dtype']}, {memory['sequences_at_a_time']} sequences at a time"


def _fitting(memory: dict[str, Any]) -> str:
    most = memory["largest_micro_batch"]
    if not most:
        return "too little for one sequence"
    return f"enough for {most} sequences at a time"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for limit, unit, size in ((100, "s", 1), (6000, "min", 60), (360_000, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 86_400:,.1f} days"


def _gigabytes(text: str) -> float:
    """Return a size; raise ArgumentTypeError for a text that is no size."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1e9:  # also true of NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of gigabytes between 0 and 1e9")
    return number


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.plan",
        description="Print what a run with params.yaml takes, before it begins.",
    )
    add = parser.add_argument
    change = "another value than that of params.yaml"
    add("-S", "--set-param", action="append", default=[], metavar="SECTION.KEY=VALUE", help=change)
    memory = "gigabytes that the run may take; by default what is free"
    add("--memory", type=_gigabytes, metavar="GB", help=memory)
    add("--measure", action="store_true", help="time a few steps on this machine")
    add("--json", action="store_true", help="print JSON, in bytes and seconds")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main, lower="the sizes of the model")
