"""Speed and memory of training steps beside those of other models, in one run on one machine.

    make bench-train                              tokens/s at d_model 256, the sizes for a CPU
    make bench-train ARGS="--size tinystories"    the model of that preset (GPU); or --size large
    make bench-train ARGS="--size memory"         the most memory that a step takes
    make bench-train ARGS=--parts                 ms of AdamW and of clipping alone

A step is all that training does: a batch from a memory-mapped token file, forward, loss, backward,
clipping at 1.0, optimizer, and the loss read for the log at every tenth step and the last. Each
contender has a process of its own; starting, compiling and the first steps are not timed. Runs are
taken in turns: ours, a peer, ours, the next peer. The tokens are random: no speed depends on them.

It needs torch and numpy, and for Llama transformers; what is missing makes a row of its own.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmlib.runtime import resolve_device
from lmlib.threads import num_cores
from tests.benchmarks.contest import ROOT, ContenderError, Worker
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.timing import Spread
from tests.benchmarks.train_job import SEED, TrainJob

SIZES: dict[str, dict[str, int]] = {
    "small": {
        "context_length": 256,
        "vocab_size": 4096,
        "d_model": 256,
        "num_layers": 4,
        "num_heads": 8,
        "d_ff": 704,
    },
    "memory": {
        "context_length": 512,
        "vocab_size": 32_000,
        "d_model": 256,
        "num_layers": 4,
        "num_heads": 8,
        "d_ff": 704,
    },
    "tinystories": {
        "context_length": 256,
        "vocab_size": 10_000,
        "d_model": 512,
        "num_layers": 4,
        "num_heads": 16,
        "d_ff": 1344,
    },
    "large": {
        "context_length": 1024,
        "vocab_size": 32_000,
        "d_model": 1024,
        "num_layers": 12,
        "num_heads": 16,
        "d_ff": 2752,
    },
}
BATCH_SIZES = {
    "small": [16],
    "memory": [8],
    "tinystories": [32, 64, 128, 256, 512],
    "large": [8, 16, 32],
}
STEPS = {"small": 5, "memory": 2, "tinystories": 20, "large": 10}  # timed in a turn
VARIANTS = ["compiled-bf16", "eager-bf16", "compiled-fp32", "eager-fp32"]
MODELS = [f"{family}-{way}" for family in ("ours", "llama", "nanogpt") for way in VARIANTS]
ANY_ORDER = "ours-compiled-bf16-anyorder"  # what a fixed order of sums costs on a GPU
PARTS = [[f"{part}-ours", f"{part}-torch"] for part in ("adamw", "clipping", "both")]
PARTS_STEPS = 50
NUM_TOKENS = 1 << 22
LEGEND = """\
Results: median (least to greatest). Ratio: the peer's time by that of the first row, or its memory
by that of ours trained in the same way, in the same turn; above 1, ours is less. Peak: on a GPU, of
what PyTorch allocated; on a CPU, of the process, less what it held before there was a model. MFU:
operations that our model needs for so many tokens, of what the device can do at most. On a GPU ours
adds in a fixed order, the peers and `anyorder` in any."""


class TrainWorker(Worker):
    """A contender's process, started by `with` and ended after it."""

    def __enter__(self) -> "TrainWorker":
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [self.python, "-m", "tests.benchmarks.train_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        return self


@dataclass
class Measured:
    """What one contender took in each turn, and its ratios to ours in the same turn."""

    job: TrainJob
    values: list[float] = field(default_factory=list)  # seconds of a step, or MB
    ratios: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)  # the answer to `prepare`
    error: str = ""


@dataclass(frozen=True)
class Race:
    """How to run races: turns that count, steps in each, and the interpreter of the peers."""

    repeats: int
    steps: int
    peers_python: str

    def worker(self, measured: Measured) -> TrainWorker:
        """Return the process of a contender, not started yet."""
        job = measured.job
        theirs = job.family in ("llama", "nanogpt")
        return TrainWorker(job.contender, self.peers_python if theirs else sys.executable)

    def speed(self, jobs: Sequence[TrainJob]) -> list[Measured]:
        """Return the seconds of a step of each, the first taking turns with each of the others."""
        all_measured = [Measured(job) for job in jobs]
        # on a GPU one by one: it has memory for one, and the compiler times its candidates there
        at_once = max(1, num_cores() // 4) if jobs[0].device == "cpu" else 1
        with ExitStack() as stack, ThreadPoolExecutor(at_once) as pool:
            workers = [stack.enter_context(self.worker(measured)) for measured in all_measured]
            list(pool.map(prepare, workers, all_measured))
            pairs = list(zip(workers, all_measured, strict=True))
            for _ in range(self.repeats):
                for peer in pairs[1:] or [None]:
                    ours_s = self.turn(*pairs[0])
                    if peer:
                        self.turn(*peer, ours_s)
        return all_measured

    def turn(self, worker: Worker, measured: Measured, ours_s: float | None = None) -> float | None:
        """Time some steps of a contender; return the seconds of one, None if it fails."""
        if measured.error:
            return None
        try:
            run = worker.ask("run", steps=self.steps)
        except ContenderError as error:
            measured.error = str(error)
            return None
        measured.values.append(run["seconds"])
        measured.peaks_mb.append(run["peak_mb"])
        if ours_s is not None:
            measured.ratios.append(run["seconds"] / ours_s)
        return run["seconds"]

    def memory(self, jobs: Sequence[TrainJob]) -> list[Measured]:
        """Return the peak of each in MB, every time in a new process; ours are to come first."""
        all_measured = [Measured(job) for job in jobs]
        ours = {m.job.way: m for m in all_measured if m.job.family == "ours"}
        for _ in range(self.repeats):
            for measured in all_measured:
                if not measured.error:
                    with self.worker(measured) as worker:
                        prepare(worker, measured)
                        self.turn(worker, measured)
                same = ours.get(measured.job.way, measured)
                if same is not measured and not measured.error and not same.error:
                    measured.ratios.append(measured.peaks_mb[-1] / same.peaks_mb[-1])
        return all_measured


def prepare(worker: Worker, measured: Measured) -> None:
    """Make the model of a contender and take its first steps."""
    try:
        measured.about = worker.ask("prepare", job=dataclasses.asdict(measured.job))
    except ContenderError as error:
        measured.error = str(error)


def main() -> None:
    """Run one mode and print its table last."""
    args = arguments()
    device = resolve_device(args.device, "--device")
    about = machine() | {"torch": torch.__version__}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.npy"
        vocab_size = SIZES[args.size]["vocab_size"]
        rng = np.random.default_rng(SEED)
        np.save(tokens, rng.integers(vocab_size, size=NUM_TOKENS, dtype=np.uint16))
        for batch_size in args.batch_sizes or BATCH_SIZES[args.size]:
            job = TrainJob("", str(tokens), str(device), batch_size, **SIZES[args.size])
            flops_per_token = 0
            for measured in measure(args, job):
                about["device"] = measured.about.get("device", str(device))
                flops_per_token = measured.about.get("flops_per_token") or flops_per_token
                row = row_of(args, measured, flops_per_token)
                rows.append(row)
                sys.stderr.write(table([row]).splitlines()[-1] + "\n")
    shape = ", ".join(f"{key} {value:,}" for key, value in SIZES[args.size].items())
    about |= {"size": f"{args.size}: {shape}", "command": command()}
    if args.json:
        document = {"about": about, "rows": [plain(row) for row in rows]}
        args.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    lines = [f"{key}: {value}" for key, value in about.items()]
    sys.stdout.write("\n".join(["", *lines, "", LEGEND, "", table(rows), ""]))


def command() -> str:
    """Return what to type to run this again."""
    return shlex.join(["python", "-m", "tests.benchmarks.bench_train", *sys.argv[1:]])


def measure(args: argparse.Namespace, job: TrainJob) -> Iterator[Measured]:
    """Yield what the contenders of the mode took."""
    peers = args.peers if args.peers.is_file() else Path(sys.executable)
    steps = args.steps or (PARTS_STEPS if args.parts else STEPS[args.size])
    race = Race(args.repeats, steps, str(peers))
    if args.parts:
        for names in PARTS:
            yield from race.speed([dataclasses.replace(job, contender=name) for name in names])
        return
    names = args.contenders or [*MODELS[:8], "nanogpt-compiled-bf16"]
    if not args.contenders and job.device.startswith("cuda"):
        names.append(ANY_ORDER)
    if args.size == "memory" and job.device == "cpu":
        # what the compiler leaves in a process is no memory of a step
        names = [name for name in names if "eager" in name]
    jobs = [dataclasses.replace(job, contender=name) for name in names]
    yield from race.memory(jobs) if args.size == "memory" else race.speed(jobs)


def row_of(args: argparse.Namespace, measured: Measured, flops_per_token: int) -> Row:
    """Return a contender's row."""
    job, about = measured.job, measured.about
    row: dict[str, object] = {
        "task": f"{args.size}, batch {job.batch_size}",
        "contender": " ".join([*job.contender.split("-"), about.get("version", "")]).strip(),
    }
    if measured.error:
        return row | {"result": "failed", "remark": measured.error}
    if args.parts:
        row |= {"result": Spread.of(s * 1e3 for s in measured.values), "unit": "ms"}
    elif args.size == "memory":
        row |= {"result": Spread.of(measured.peaks_mb), "unit": "MB"}
    else:
        tokens = job.batch_size * job.context_length
        row |= {"result": Spread.of(tokens / s for s in measured.values), "unit": "tokens/s"}
        row["ms/step"] = Spread.of(measured.values).median * 1e3
        if flops_per_token and job.device != "cpu":
            from lmlib.monitoring.throughput import (
                peak_flops,  # there if ours ran; we run without, too
            )

            dtype = torch.bfloat16 if job.bf16 else torch.float32
            if peak := peak_flops(about["device"], dtype):
                flops = flops_per_token * tokens / Spread.of(measured.values).median
                row["MFU %"] = 100 * flops / peak
    row["ratio"] = Spread.of(measured.ratios) if measured.ratios else ""
    row["weights"] = f"{about['weights']:,}"
    if job.device != "cpu" and not args.parts:
        row["peak MB"] = Spread.of(measured.peaks_mb).median
    same = about["torch"] == torch.__version__
    return row | {"remark": "" if same else f"with torch {about['torch']}"}


def plain(row: Row) -> dict[str, object]:
    """Return a row for JSON."""
    return {
        column: dataclasses.asdict(value) if isinstance(value, Spread) else value
        for column, value in row.items()
    }


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--parts", action="store_true", help="AdamW and clipping alone")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="sequences in a step")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, help="timed in each turn")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=[*MODELS, ANY_ORDER],
        metavar="NAME",
        help="the first is what the others are compared with; of "
        + ", ".join([*MODELS, ANY_ORDER]),
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=ROOT / ".venv-bench" / "bin" / "python",
        help="the Python that has the peers installed; if it is not there, this one",
    )
    parser.add_argument("--json", type=Path, help="write rows and machine to this file, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
