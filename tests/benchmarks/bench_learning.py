r"""How well models learn from the same text, in the same time or the same number of tokens.

    make bench-learning                   the pipeline's text, 150 s each: ours, Llama, nanoGPT
    make bench-learning CORPUS=FILE ARGS="--tokens 5_000_000 --seeds 1 2 3"

The same from files of one's own, with a vocabulary of 10,000:

    python -m tests.benchmarks.bench_learning train.txt --valid valid.txt --vocab-size 10000 \
        --tokens 2_000_000 --runs muon "llama lr=4e-3" "nanogpt lr=4e-3 batch_size=8"

A run is what trains, and the settings in which it differs:

adamw, muon   this project's training with params.yaml, `optim.name` as said; any KEY=VALUE of its
              sections model, optim and train
llama         LlamaForCausalLM of Hugging Face transformers with as many weights
nanogpt       a nanoGPT of the same width, depth and heads; it has fewer weights, as one matrix is
              for input and output

The peers learn with PyTorch's AdamW: lr=1e-3, betas=[0.9,0.95] (nanogpt: [0.9,0.99]),
weight_decay=0.1 (of matrices), warmup=100 steps, then a cosine to a tenth; clipped at 1.0. Their
batch_size, context_length, dtype and compile are those of params.yaml unless a setting says
otherwise. Their windows begin anywhere, unless windows=documents.

All share a tokenizer, learnt from the training text, and are scored in float32 on the whole
validation text (without --valid: on the last hundredth of the text) as the stage `evaluate` does:
each document from its beginning, in windows as long as the run's own context; isolated, if the run
has train.windows=isolated. <|endoftext|> stands between documents; a text without it is one
document.

`--jobs` runs at a time share the cores. With --seconds each run has all of them: it measures how
fast it is with a model that it drops, and takes as many steps as fit, so that its schedule ends
with it. A run that took 3% more or less time than that, as the machine became slower or faster, is
repeated with as many steps as would have fitted, twice at most; the one nearest to the time counts.
Only steps count as time; building, compiling and scoring do not. compile=auto, which asks for the
length of a run, is off then. A run that takes as many steps by --tokens ends with the same bits.
"""

import argparse
import dataclasses
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from lmlib.data import TokenDataset, Windows
from lmlib.encoding import EncodeParams, encode_texts
from lmlib.evaluation import Evaluation, EvaluationParams, LanguageModel, evaluate
from lmlib.files import sha256_file
from lmlib.model import ModelParams
from lmlib.params import load_params, read_section
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer, train_bpe
from tests.benchmarks.contest import ROOT, num_cores
from tests.benchmarks.learners import Learner, Training
from tests.benchmarks.report import Row, machine, table
from tests.token_files import TextFile

VALID_FRACTION = 0.01
ENDLESS = 10**9  # steps
WARM_UP_STEPS = 10  # before the rate is measured
RATE_FRACTION = 0.1  # of the time of a run, to measure the rate
TOLERANCE = 0.03  # of the time of a run
REPEATS = 2
TEXTS = ROOT / "data/raw/train.txt", ROOT / "data/raw/valid.txt"
RUNS = "muon", "llama lr=2e-3", "nanogpt lr=4e-3"  # each peer with the best of three rates
SECONDS = 150.0


@dataclass(frozen=True)
class Run:
    """One training: what trains and its settings (`spec`), how long, on which data and cores.

    It takes `tokens`, or `seconds` if they are not None.
    """

    spec: str
    seed: int
    folder: Path
    threads: int
    tokens: int | None
    seconds: float | None = None


@dataclass(frozen=True)
class Result:
    """Scores after training (nats per token, bits per byte), and what the training took."""

    loss: float
    bits_per_byte: float
    steps: int
    tokens: int
    seconds: float
    weights: int


def carry_out(run: Run) -> Result:
    """Train and score; this process does nothing else."""
    torch.set_num_threads(run.threads)
    learner = Learner.parse(run.spec)
    data, valid = dataset(run.folder, "train"), dataset(run.folder, "valid")
    num_steps = (run.tokens or 0) // learner.tokens_per_step
    if run.seconds is not None:
        if learner.train.compile == "auto":  # which asks for the length of the run
            train = dataclasses.replace(learner.train, compile="off")
            learner = dataclasses.replace(learner, train=train)
        trial = learner.begin(data, run.seed, ENDLESS)
        num_steps = steps_in(run.seconds, trial.take_step, trial.synchronize)
        del trial
    training, seconds = learn(learner, data, run.seed, num_steps)
    wanted = seconds if run.seconds is None else run.seconds
    last = num_steps, seconds
    for _ in range(REPEATS):
        steps = steps_that_fit(*last, wanted)
        if steps == last[0]:
            break
        sys.stderr.write(f"{run.spec}, seed {run.seed}: {last[0]} steps took {last[1]:.1f} s\n")
        again, took = learn(learner, data, run.seed, steps)
        last = steps, took
        if abs(took - wanted) < abs(seconds - wanted):
            training, num_steps, seconds = again, steps, took
        del again
    windows = "isolated" if learner.train.windows == "isolated" else "documents"
    scores = score(training.model, valid, learner.model.context_length, windows)
    return Result(
        scores.loss,
        scores.bits_per_byte,
        num_steps,
        num_steps * learner.tokens_per_step,
        seconds,
        sum(weight.numel() for weight in training.model.parameters()),
    )


def learn(
    learner: Learner, data: TokenDataset, seed: int, num_steps: int
) -> tuple[Training, float]:
    """Return a training after all of its steps, and the seconds that they took."""
    training = learner.begin(data, seed, num_steps)
    start = time.perf_counter()
    for _ in range(num_steps):
        training.take_step()
    training.synchronize()
    return training, time.perf_counter() - start


def steps_in(
    seconds: float,
    take_step: Callable[[], object],
    synchronize: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return how many steps take `seconds`, at least 1, by the rate over a tenth of them."""
    for _ in range(WARM_UP_STEPS):
        take_step()
    synchronize()
    start, steps, elapsed_s = clock(), 0, 0.0
    while elapsed_s < RATE_FRACTION * seconds:
        take_step()
        synchronize()
        steps, elapsed_s = steps + 1, clock() - start
    return max(1, round(steps / elapsed_s * seconds))


def steps_that_fit(num_steps: int, seconds: float, wanted: float) -> int:
    """Return how many steps to take next time, which are as many if the time was about right."""
    if abs(seconds / wanted - 1) <= TOLERANCE:
        return num_steps
    return max(1, round(num_steps * wanted / seconds))


def score(
    model: LanguageModel, valid: TokenDataset, context_length: int, windows: Windows = "documents"
) -> Evaluation:
    """Score a text by documents; the stride is as large a part of the context as in params.yaml."""
    params = load_params(ROOT / "params.yaml", "evaluation", EvaluationParams)
    usual = load_params(ROOT / "params.yaml", "model", ModelParams).context_length
    return evaluate(
        model,
        valid.tokens,
        valid.info.source_bytes,
        context_length=context_length,
        windows=windows,
        stride=max(1, params.stride * context_length // usual),
        start_id=valid.info.separator_id,
    )


# -- texts


def prepare(corpus: Path, valid: Path | None, vocab_size: int, folder: Path) -> None:
    """Write tokenizer and tokens of a text to learn from and one to be scored on into `folder`.

    The tokenizer knows the separator of documents if the text to learn from has it.
    """
    texts = {"train": corpus, "valid": valid} if valid else split(corpus, folder)
    special_tokens = [SEPARATOR] if SEPARATOR.encode() in texts["train"].read_bytes() else []
    vocab, merges = train_bpe(texts["train"], vocab_size, special_tokens)
    tokenizer = Tokenizer(vocab, merges, special_tokens)
    tokenizer.save(folder)
    for part, text in texts.items():
        encode_texts(
            tokenizer,
            sha256_file(folder / "tokenizer.json"),
            [TextFile(text)],
            folder / part,
            folder / "unfinished",
            EncodeParams(shard_tokens=1 << 27),
        )


def split(corpus: Path, folder: Path) -> dict[str, Path]:
    """Write all but the last hundredth of a text, and that, as two files; return their paths.

    The cut is after a document if the text has several, else after a line.
    """
    text = corpus.read_bytes()
    end = SEPARATOR.encode() if SEPARATOR.encode() in text else b"\n"
    cut = text.index(end, int(len(text) * (1 - VALID_FRACTION))) + len(end)
    texts = {part: folder / f"{part}.txt" for part in ("train", "valid")}
    texts["train"].write_bytes(text[:cut])
    texts["valid"].write_bytes(text[cut:])
    return texts


def dataset(folder: Path, part: str) -> TokenDataset:
    """Return the tokens to learn from (`train`) or to be scored on (`valid`)."""
    return TokenDataset.open(folder / part)


# -- results


def rows_of(results: dict[str, list[Result]]) -> list[Row]:
    """Return a row for each run: means over its seeds, and differences to the first run."""
    first = next(iter(results.values()))
    rows = []
    for spec, of_seeds in results.items():
        row: dict[str, object] = {"run": spec}
        for name, label in (("loss", "loss"), ("bits_per_byte", "bits per byte")):
            values = [getattr(result, name) for result in of_seeds]
            mean = statistics.mean(values)
            row[label] = f"{mean:.4f}"
            row[f"{label}: deviation"] = (
                f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            )
            difference = mean - statistics.mean(getattr(result, name) for result in first)
            row[f"{label}: to the first"] = "" if of_seeds is first else f"{difference:+.4f}"
        row |= {
            "loss of each seed": " ".join(f"{result.loss:.4f}" for result in of_seeds),
            "seconds": f"{statistics.mean(result.seconds for result in of_seeds):.1f}",
            "steps": f"{statistics.mean(result.steps for result in of_seeds):,.0f}",
            "tokens": f"{statistics.mean(result.tokens for result in of_seeds):,.0f}",
            "weights": f"{of_seeds[0].weights:,}",
        }
        rows.append(row)
    return rows


def main() -> None:
    """Train all runs and print their table last."""
    args = arguments()
    threads = max(1, num_cores() // args.jobs)
    about = machine() | {"torch": torch.__version__, "transformers": version("transformers")}
    spawned = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args.corpus, args.valid, args.vocab_size, folder)
        runs = [
            Run(spec, seed, folder, threads, args.tokens, args.seconds)
            for seed in args.seeds
            for spec in args.runs
        ]
        results: dict[Run, Result] = {}
        with ProcessPoolExecutor(args.jobs, spawned, max_tasks_per_child=1) as pool:
            futures = {pool.submit(carry_out, run): run for run in runs}
            for future in as_completed(futures):
                run = futures[future]
                results[run] = result = future.result()
                if not math.isfinite(result.loss):
                    raise FloatingPointError(f"{run.spec}, seed {run.seed}: not finite")
                sys.stderr.write(f"{run.spec}, seed {run.seed}: {result}\n")
        infos = {part: dataset(folder, part).info for part in ("train", "valid")}
    about |= {
        "length": f"{args.tokens:,} tokens" if args.seconds is None else f"{args.seconds:g} s",
        "vocabulary": f"{infos['train'].vocab_size:,}",
        "seeds": " ".join(map(str, args.seeds)),
    }
    for part, text in (("train", args.corpus), ("valid", args.valid or args.corpus)):
        info = infos[part]
        about[part] = (
            f"{text.name}, {info.source_bytes:,} bytes, {info.tokens:,} tokens, "
            f"{info.documents:,} documents"
        )
    lines = [f"{key}: {value}" for key, value in about.items()]
    rows = rows_of({spec: [results[run] for run in runs if run.spec == spec] for spec in args.runs})
    sys.stdout.write("\n".join(["", *lines, "", table(rows), ""]))


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; exit, and say why, if a run is not one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual_size = read_section(ROOT / "params.yaml", "tokenizer")["vocab_size"]
    parser.add_argument("corpus", type=Path, nargs="?", help="a text to learn from")
    parser.add_argument("--valid", type=Path, help="a text to be scored on")
    parser.add_argument("--vocab-size", type=int, default=usual_size)
    parser.add_argument("--runs", nargs="+", default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--tokens", type=int, help="seen by each run")
    length.add_argument("--seconds", type=float, help=f"that each run trains; {SECONDS:g}")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(words)
    if args.corpus is None:
        args.corpus, args.valid = TEXTS[0], args.valid or TEXTS[1]
    if args.tokens is None and args.seconds is None:
        args.seconds = SECONDS
    if args.seconds is not None and args.jobs != 1:
        parser.error("--seconds takes --jobs 1: runs at the same time would share the cores")
    try:
        for spec in args.runs:
            Learner.parse(spec)
    except ValueError as error:
        parser.error(str(error))
    for text in filter(None, (args.corpus, args.valid)):
        if not text.is_file():
            parser.error(f"{text}: no such file (`make` writes the pipeline's text)")
    return args


if __name__ == "__main__":
    main()
