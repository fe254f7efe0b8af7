"""Time and memory of tokenizer and tokens by the size of the corpus, and what that means for 50 TB.

    make bench-scale ARGS="--folder /big"              1 and 10 GB
    make bench-scale ARGS="--folder /big --sizes 50"   needs 50 GB of disk for 50 GB of text

The text is one base of stories, repeated in another order for each file. It lies in parquet files
as on the Hub, or in plain files (`--formats txt`). The corpus is read as `corpus.keep: reference`
reads it, in processes of their own that may use one core or more.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmlib import toystories
from lmlib.corpus import CorpusParams, read_texts, write_corpus
from lmlib.encoding import EncodeParams, encode_texts
from lmlib.files import sha256_file
from lmlib.params import load_params
from lmlib.separator import SEPARATOR
from lmlib.threads import num_cores
from lmlib.tokenizer import Tokenizer, train_bpe
from stages.cluster import workers_for
from tests.benchmarks.contest import ROOT
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.timing import peak_memory_mb

GB = 10**9
FILE_BYTES = GB // 2  # of text
BASE_BYTES = 64_000_000
GROUP_BYTES = 8_000_000  # of text in a row group of a parquet file
VOCAB_SIZE = 32_000
CORES, DAY_S = 32, 86_400  # of a machine of the estimate
LEGEND = """\
MB/s: of text. CPU: processor time. Memory: the most that one process held, with mapped
files; with two cores, files go to two processes."""


# -- the corpus


def base_stories(num_bytes: int) -> list[bytes]:
    """Return stories of about that many bytes together, without separators."""
    with tempfile.TemporaryDirectory() as folder:
        train, valid = Path(folder) / "train.txt", Path(folder) / "valid.txt"
        toystories.write_corpus(train, valid, seed=1, train_bytes=num_bytes, valid_bytes=1)
        return [text.strip() for text in train.read_bytes().split(SEPARATOR.encode())[:-1]]


def write_file(path: Path, stories: Sequence[bytes], num_bytes: int, seed: int) -> int:
    """Write about `num_bytes` of stories, again and again in other orders; return the bytes."""
    rng, written = np.random.default_rng(seed), 0
    groups: list[list[bytes]] = [[]]
    group_bytes = 0
    while written < num_bytes:
        for index in rng.permutation(len(stories)):
            if written >= num_bytes:
                break
            if group_bytes >= GROUP_BYTES:
                groups.append([])
                group_bytes = 0
            groups[-1].append(stories[index])
            written += len(stories[index])
            group_bytes += len(stories[index])
    if path.suffix == ".parquet":
        _write_parquet(path, groups)
    else:
        with path.open("wb") as file:
            for group in groups:
                file.write(b"".join(b"%b\n%b\n" % (text, SEPARATOR.encode()) for text in group))
    return written


def _write_parquet(path: Path, groups: Sequence[Sequence[bytes]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([("text", pa.string())])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            texts = pa.array([text.decode() for text in group], pa.string())
            writer.write_table(pa.table([texts], schema=schema))


# -- what is measured, in a process of its own


def learn(folder: Path) -> None:
    """Learn the tokenizer."""
    special = [SEPARATOR]
    texts = read_texts(folder / "raw", "train", folder)
    with workers_for(texts, None) as executor:
        vocab, merges = train_bpe(texts, VOCAB_SIZE, special, executor=executor)
    Tokenizer(vocab, merges, special).save(folder / "tokenizer")


def encode(folder: Path) -> None:
    """Encode the training text."""
    tokenizer = Tokenizer.load(folder / "tokenizer")
    digest = sha256_file(folder / "tokenizer" / "tokenizer.json")
    params = load_params(ROOT / "params.yaml", "encode", EncodeParams)
    texts = read_texts(folder / "raw", "train", folder)
    places = folder / "tokens", folder / "workshop"
    with workers_for(texts, None) as executor:
        encode_texts(tokenizer, digest, texts, *places, params, executor=executor)


TASKS: dict[str, Callable[[Path], None]] = {"tokenizer": learn, "encode": encode}


def run_task(name: str, folder: Path) -> None:
    """Run a task and print what it took."""
    begin, cpu = time.perf_counter(), time.process_time()
    TASKS[name](folder)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    numbers = {
        "seconds": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu + workers.ru_utime + workers.ru_stime,
        "memory_mb": max(peak_memory_mb(), workers.ru_maxrss * 1024 / 1e6),
    }
    sys.stdout.write(json.dumps(numbers) + "\n")


def measured(name: str, folder: Path, cores: int) -> dict[str, float]:
    """Return what a task takes in a process that may use that many cores."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--task", name, "--folder", str(folder)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )
    return json.loads(done.stdout)


# -- results


def race(
    gigabytes: float, kind: str, cores: Sequence[int], folder: Path, stories: Sequence[bytes]
) -> list[Row]:
    """Return the rows of a corpus of that size in files of that kind."""
    text_bytes, stored_bytes, count = make_corpus(gigabytes, kind, folder, stories)
    rows: list[Row] = []
    for number in cores:
        for name in TASKS:
            for made in ("tokens", "workshop"):
                shutil.rmtree(folder / made, ignore_errors=True)
            numbers = measured(name, folder, number)
            rows.append(
                {
                    "text, GB": f"{text_bytes / GB:.3g}",
                    "files": f"{count} {kind}, {stored_bytes / GB:.3g} GB",
                    "cores": number,
                    "task": name,
                    "seconds": numbers["seconds"],
                    "MB/s": text_bytes / 1e6 / numbers["seconds"],
                    "CPU, s/GB": numbers["cpu_s"] / (text_bytes / GB),
                    "memory, MB": round(numbers["memory_mb"]),
                }
            )
            sys.stderr.write(table([rows[-1]]).splitlines()[-1] + "\n")
    return rows


def make_corpus(
    gigabytes: float, kind: str, folder: Path, stories: Sequence[bytes]
) -> tuple[int, int, int]:
    """Write the files of a corpus, and its lists; return bytes of text, of files, and the count."""
    for name in ("files", "raw", "tokenizer"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    (folder / "raw").mkdir()
    count = max(2, round(gigabytes * GB / FILE_BYTES))
    share = round(gigabytes * GB / count)
    paths = [folder / "files" / f"{number:05d}.{kind}" for number in range(count)]
    total = sum(write_file(path, stories, share, seed) for seed, path in enumerate(paths))
    write_file(folder / "valid.txt", stories, 1_000_000, count)
    corpus = replace(
        load_params(ROOT / "params.yaml", "corpus", CorpusParams),
        source="local",
        keep="reference",
        train=(f"files/*.{kind}",),
        valid=("valid.txt",),
    )
    write_corpus(corpus, folder / "raw" / "train.txt", folder / "raw" / "valid.txt", folder)
    return total, sum(path.stat().st_size for path in paths), count


def estimates(rows: Sequence[Row], terabytes: Sequence[float]) -> list[Row]:
    """Return what larger corpora would take, by the least processor time."""
    found: list[Row] = []
    seconds = {
        name: min(float(str(row["CPU, s/GB"])) for row in rows if row["task"] == name)
        for name in TASKS
    }
    stored = float(str(rows[-1]["files"]).split(", ")[1].split()[0]) / float(
        str(rows[-1]["text, GB"])
    )
    for size in terabytes:
        core_hours = {name: each * size * 1000 / 3600 for name, each in seconds.items()}
        machines = max(1, -(-sum(core_hours.values()) * 3600 // (CORES * DAY_S)))
        found.append(
            {
                "text, TB": size,
                "core hours, tokenizer": round(core_hours["tokenizer"]),
                "core hours, encode": round(core_hours["encode"]),
                f"machines of {CORES} cores, one day": round(machines),
                "read by each, MB/s": 2 * stored * size * 1e6 / machines / DAY_S,
            }
        )
    return found


def main() -> None:
    """Run all sizes and print the tables last."""
    args = arguments()
    if args.task:
        run_task(args.task, args.folder)
        return
    about = machine()
    stories = base_stories(args.base_bytes)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = [
            row
            for kind in args.formats
            for size in args.sizes
            for row in race(size, kind, args.cores, Path(folder), stories)
        ]
    about["command"] = shlex.join(["python", "-m", "tests.benchmarks.bench_scale", *sys.argv[1:]])
    lines = [f"{key}: {value}" for key, value in about.items()]
    both = table(rows), table(estimates(rows, (1, 50)))
    sys.stdout.write("\n".join(["", *lines, "", LEGEND, "", *both, ""]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where there is room")
    parser.add_argument("--sizes", nargs="+", type=float, default=[1, 10], help="GB of text")
    parser.add_argument("--formats", nargs="+", choices=("parquet", "txt"), default=["parquet"])
    parser.add_argument("--cores", nargs="+", type=int, default=[1, num_cores()])
    parser.add_argument("--base-bytes", type=int, default=BASE_BYTES, help="of distinct text")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
