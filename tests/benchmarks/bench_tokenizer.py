"""Speed of the tokenizer beside its peers, in one run, on one corpus, with one vocabulary.

    make bench-tokenizer                                         the pipeline's text, every task
    make bench-tokenizer CORPUS=FILE VOCAB=10000                 another text, ratios to the peers
    make bench-tokenizer CORPUS=FILE VOCAB=10000 ARGS=--growth   the corpus grown to 1 GB
    make bench-tokenizer CORPUS=FILE VOCAB=10000 ARGS=--odd      texts that are no prose

The corpus is UTF-8, documents separated by <|endoftext|>; pre-tokens are those of GPT-2. Runs are
taken in turns: ours, a peer, ours, the next peer. Times are of whole calls, without starting
Python, importing and loading (our kernels, too), but for the rows "in a fresh process": there the
call loads what it needs, and "the whole process" starts Python as well. MB are 10**6 bytes.

The first call in a process and the second on the same text are told apart: what a tokenizer sets
up once, and what it learns about the text, is paid for in the first. All peers encode with our
vocabulary, and what they return is compared with ours. peers.py shows how each one is called.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmlib.threads import num_cores
from tests.benchmarks.contest import ROOT, ContenderError, Contest, Score
from tests.benchmarks.job import SHORT_STRINGS, Job
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.texts import ODD_TEXTS, write_shuffled
from tests.benchmarks.timing import Spread

TRAINERS = ["gigabpe", "gigatoken", "ffbpe", "rustbpe", "tokenizers"]
ENCODERS = ["gigatoken", "tokie", "fastokens", "riptoken", "tiktoken", "tokenizers"]
CL100K_ENCODERS = ["quicktok-v1", "riptoken"]  # quicktok has no pattern of GPT-2
FILE_READERS = [
    "ours",
    "gigabpe",
    "gigatoken",
    "tokie",
]  # the others' memory holds the corpus as strings
STEADY = {  # task -> what its rows are called, units in a second of one run, unit
    "encode_different": ("encode 100 characters, always others", 1e6 / SHORT_STRINGS, "µs"),
    "encode_same": ("encode 100 characters, always the same", 1e6 / SHORT_STRINGS, "µs"),
    "encode_batch": ("encode_batch of 10,000 strings, as each returns them", 1e3, "ms"),
    "encode_batch_lists": ("encode_batch to lists, tiktoken in a loop", 1e3, "ms"),
    "encode_batch_arrays": ("encode_batch to arrays, tiktoken in a loop", 1e3, "ms"),
    "decode_list": ("decode a list of 1,000,000 tokens", 1e3, "ms"),
    "decode_array": ("decode an array of 1,000,000 tokens", 1e3, "ms"),
}
STARTUP = {  # as in what startup.py prints
    "load": "import, load, encode",
    "engine": "the same and load kernels",
}
FRESH = {"train": ["gigabpe", "gigatoken"], "encode_file": ["tokie", "gigatoken"]}  # read files
TASKS = ["train", "encode_file", "encode_cl100k", "fresh", *STEADY, "startup"]
LEGEND = """\
Results: median (least to greatest). Ratio: the peer's time by ours in the same turn; above 1, ours
is faster. Ours, gigatoken and tokie read the file in the time measured, and ours writes its ids to
the disk; the others were handed documents read and split before. Peak: of the whole process."""
FASTEST = ["gigatoken", "tokie", "fastokens"]
GROWTH_MB = {40: FASTEST, 80: FASTEST, 160: [], 640: FASTEST, 1000: []}  # -> peers that encode it


def main() -> None:
    """Run one mode and print its table last."""
    args = arguments()
    if not args.corpus.is_file():
        raise SystemExit(f"{args.corpus}: no such file (`make` writes the pipeline's text)")
    if not args.peers.is_file():
        raise SystemExit(f"{args.peers}: no such file; `make bench-tokenizer` installs the peers.")
    about = machine() | {
        "corpus": f"{args.corpus.name}, {args.corpus.stat().st_size / 1e6:.1f} MB",
        "vocabulary": f"{args.vocab_size:,}",
        "repeats": str(args.repeats),
    }
    mode = growth if args.growth else odd if args.odd else compare
    rows = []
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        contest = Contest(str(args.peers), args.repeats, Path(folder), args.against)
        job = Job(
            task="train",
            corpus=str(args.corpus.resolve()),
            vocab_size=args.vocab_size,
            tokenizer=str(Path(folder) / "tokenizer"),
            tokens=str(Path(folder) / "tokens.npy"),
            num_threads=num_cores(),
        )
        for row in mode(contest, job, args.tasks):
            rows.append(row)
            sys.stderr.write(table([row]).splitlines()[-1] + "\n")
    if args.json:
        document = {"about": about, "rows": [plain(row) for row in rows]}
        args.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    lines = [f"{key}: {value}" for key, value in about.items()]
    sys.stdout.write("\n".join(["", *lines, "", LEGEND, "", table(rows), ""]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--growth", action="store_true", help="the corpus grown to 1 GB")
    modes.add_argument("--odd", action="store_true", help="texts that are no prose")
    parser.add_argument(
        "--peers",
        type=Path,
        default=ROOT / ".venv-bench" / "bin" / "python",
        help="the Python that has the peers installed",
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="only these")
    parser.add_argument(
        "--against",
        nargs="*",
        default=[*TRAINERS, *ENCODERS, *CL100K_ENCODERS],
        help="only these peers",
    )
    parser.add_argument("--scratch", type=Path, help="folder for temporary files of up to 4 GB")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file, too")
    return parser.parse_args()


# -- the three modes


def compare(contest: Contest, job: Job, tasks: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of the tasks: ours, then each peer."""
    encode = to(job, "encode_file")
    if "train" in tasks:
        yield from file_rows("train_bpe", contest, job, TRAINERS)
    else:
        contest.first_calls(job, [], repeats=1)  # the other tasks need its vocabulary
    if "encode_file" in tasks:
        yield from file_rows("encode_file", contest, encode, ENCODERS)
    else:
        contest.first_calls(encode, [], repeats=1)  # decoding needs its tokens
    if "encode_cl100k" in tasks:
        cl100k = to(job, "encode_cl100k")
        yield from file_rows("encode_file, pattern of cl100k", contest, cl100k, CL100K_ENCODERS)
    if "fresh" in tasks:
        for task, peers in FRESH.items():
            yield from fresh_rows(contest, to(job, task), peers)
    for task, (label, scale, unit) in STEADY.items():
        if task in tasks:
            for score in contest.steady(to(job, task), "tiktoken"):
                yield row_of(label, score, [s * scale for s in score.seconds], unit)
    if "startup" in tasks:
        yield from startup(contest, job)


def growth(contest: Contest, job: Job, tasks: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a corpus made larger by its own documents in other orders."""
    contest.first_calls(job, [], repeats=1)
    for size_mb, peers in GROWTH_MB.items():
        path = contest.folder / "grown.txt"
        write_shuffled(job.corpus, size_mb * 1_000_000, path)
        grown = dataclasses.replace(job, corpus=str(path))
        if "train" in tasks:
            yield from file_rows(f"train_bpe, {size_mb} MB", contest, grown, [])
        if "encode_file" in tasks:
            encode = to(grown, "encode_file")
            yield from file_rows(f"encode_file, {size_mb} MB", contest, encode, peers)


def odd(contest: Contest, job: Job, tasks: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of texts that are no prose, with their time by that of prose."""
    contest.first_calls(job, [], repeats=1)
    # what is learnt from such a text is not to encode the others
    elsewhere = dataclasses.replace(job, tokenizer=str(contest.folder / "odd"))
    for label, task_job in (("train_bpe", elsewhere), ("encode_file", to(job, "encode_file"))):
        if task_job.task not in tasks:
            continue
        prose_s = 0.0
        for name, make in ODD_TEXTS.items():
            path = contest.folder / "odd.txt"
            size_mb = path.write_bytes(make(job.corpus)) / 1e6
            row: dict[str, object] = {"task": f"{label}, {size_mb:.0f} MB of {name}"}
            try:
                (score,), _ = contest.first_calls(
                    dataclasses.replace(task_job, corpus=str(path)), []
                )
            except ContenderError as error:
                yield row | {"result": "failed", "remark": str(error)}
                continue
            seconds = [s / size_mb for s in score.seconds]
            prose_s = prose_s or Spread.of(seconds).median
            yield row | {
                "result": Spread.of(s * 1e3 for s in seconds),
                "unit": "ms/MB",
                "by prose": Spread.of(s / prose_s for s in seconds),
                "peak MB": Spread.of(score.peaks_mb).median,
            }


# -- rows


def file_rows(label: str, contest: Contest, job: Job, peers: list[str]) -> Iterator[Row]:
    """Yield the rows of a task that takes a file: first calls, then second ones."""
    size_mb = Path(job.corpus).stat().st_size / 1e6
    first, second = contest.first_calls(job, peers)
    for suffix, scores in (("", first), (", second call", second)):
        for score in scores:
            yield row_of(label + suffix, score, [size_mb / s for s in score.seconds], "MB/s")


def row_of(label: str, score: Score, values: list[float], unit: str) -> Row:
    """Return a contender's row."""
    row: dict[str, object] = {"task": label, "contender": f"{score.contender} {score.version}"}
    row |= {"result": Spread.of(values), "unit": unit} if values else {"result": "failed"}
    row["ratio"] = Spread.of(score.ratios) if score.ratios else ""
    has_peak = score.peaks_mb and score.contender in FILE_READERS
    row["peak MB"] = Spread.of(score.peaks_mb).median if has_peak else ""
    row["remark"] = score.error or score.difference
    return row


def fresh_rows(contest: Contest, job: Job, peers: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a call in a fresh process, and of the process, interpreter included."""
    names = ["ours", *(peer for peer in peers if peer in contest.against)]
    calls, processes = ([Score(name) for name in names] for _ in range(2))
    for _ in range(contest.repeats):
        times = [contest.fresh_process(job, name) for name in names]
        for scores, index in ((calls, 0), (processes, 1)):
            for number, (score, seconds) in enumerate(zip(scores, times, strict=True)):
                score.add(seconds[index], times[0][index] if number else None)
    label = {"train": "train_bpe"}.get(job.task, job.task)
    for scores, part in ((calls, "the call"), (processes, "the whole process")):
        for score in scores:
            yield row_of(f"{label} in a fresh process: {part}", score, score.seconds, "s")


def startup(contest: Contest, job: Job) -> Iterator[Row]:
    """Yield the rows of a new process's way to its first ids."""
    runs = []
    for _ in range(contest.repeats):
        command = [sys.executable, "-m", "tests.benchmarks.startup", job.tokenizer]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        runs.append(json.loads(output.stdout))
    for key, label in STARTUP.items():
        yield row_of(f"start-up: {label}", Score("ours"), [run[key] for run in runs], "s")


def to(job: Job, task: str) -> Job:
    """Return the job with another task."""
    return dataclasses.replace(job, task=task)


def plain(row: Row) -> dict[str, object]:
    """Return a row for JSON."""
    return {
        column: dataclasses.asdict(value) if isinstance(value, Spread) else value
        for column, value in row.items()
    }


if __name__ == "__main__":
    main()
