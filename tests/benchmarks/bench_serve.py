"""Speed of `make serve` with one client and with several at once.

    make bench-serve                                the model of params.yaml
    make bench-serve ARGS="--clients 1 64"          other numbers of clients

A server process of its own has a model with random weights. Each client sends a prompt and waits
for NEW_TOKENS tokens, all clients at once, streamed or not; the numbers of clients take turns. The
clients are threads of this process, which do little more than read. They draw from all tokens:
random weights make them equally likely, so that top-p would have to sort the whole vocabulary.
"""

import argparse
import http.client
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from lmlib.checkpoint import save_model
from lmlib.model import ModelParams, TransformerLM
from lmlib.params import load_params
from lmlib.tokenizer import Tokenizer
from stages.paths import MODEL, PARAMS, TOKENIZER
from tests.benchmarks.contest import ROOT
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.timing import Spread

NEW_TOKENS = 256
PROMPT_TOKENS = 16
VOCAB_SIZE = 4096
LEGEND = """\
Results: median (least to greatest), of all clients together. First: from the request to the first
token, of the client that waits longest. Ratio: by the tokens/s of the first number of clients in
the same turn. CPU: processor time of the server."""


@dataclass
class Score:
    """The turns of a number of clients."""

    clients: int
    stream: bool
    rates: list[float] = field(default_factory=list)  # tokens/s
    first_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)  # per token


def ask(address: str, number: int, new_tokens: int, stream: bool) -> float:
    """Send a request and read the answer; return the seconds until its first token."""
    generator = torch.Generator().manual_seed(number)
    prompt = torch.randint(256, (PROMPT_TOKENS,), generator=generator).tolist()
    body = {"model": "lm", "prompt": prompt, "max_tokens": new_tokens, "stream": stream}
    body |= {"temperature": 0.8, "seed": number}
    if stream:
        body |= {"stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    start = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    begin = answer.readline()
    first_s = time.perf_counter() - start
    content = begin + answer.read()
    connection.close()
    found = re.search(rb'"completion_tokens":(\d+)', content)
    if answer.status != 200 or not found or int(found[1]) != new_tokens:
        raise ValueError(f"status {answer.status}: {content[:500]!r}")
    return first_s


def take_turn(address: str, server: psutil.Process, score: Score, new_tokens: int) -> None:
    """Let all clients send a request, and add what was measured."""
    with ThreadPoolExecutor(score.clients) as pool:
        start, cpu_start = time.perf_counter(), sum(server.cpu_times()[:2])
        asked = [
            pool.submit(ask, address, number, new_tokens, score.stream)
            for number in range(score.clients)
        ]
        first = [each.result() for each in asked]
        seconds = time.perf_counter() - start
    tokens = score.clients * new_tokens
    score.rates.append(tokens / seconds)
    score.first_s.append(max(first))
    score.cpu_s.append((sum(server.cpu_times()[:2]) - cpu_start) / tokens)


@contextmanager
def serving(params: ModelParams) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a model with random weights; yield the address and the process."""
    words = {i: bytes([i]) if i < 256 else b"%d" % (i + 1000) for i in range(VOCAB_SIZE)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / MODEL, TransformerLM(params, VOCAB_SIZE, seed=0))
        Tokenizer(words, [], None).save(folder / TOKENIZER)
        shutil.copy(ROOT / PARAMS, folder)
        command = [sys.executable, "-m", "stages.serve", "--port", "0"]
        environment = {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command,
            cwd=folder,
            env=dict(psutil.Process().environ()) | environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"at (http://[^/]*)/", process.stdout.readline())
                if found is None:
                    raise OSError("the server did not start; it says why above")
                yield found[1], psutil.Process(process.pid)
            finally:
                process.terminate()


def main() -> None:
    """Measure all numbers of clients and print the table last."""
    args = arguments()
    about = machine() | {"torch": torch.__version__}
    scores = [Score(clients, stream) for stream in (False, True) for clients in args.clients]
    with serving(load_params(ROOT / PARAMS, "model", ModelParams)) as (address, server):
        for score in scores:
            take_turn(address, server, score, args.new_tokens)  # connects, and fills caches
        for score in scores:
            score.rates, score.first_s, score.cpu_s = [], [], []
        for _ in range(args.repeats):
            for score in scores:
                take_turn(address, server, score, args.new_tokens)
    about["command"] = shlex.join(["python", "-m", "tests.benchmarks.bench_serve", *sys.argv[1:]])
    lines = [f"{key}: {value}" for key, value in about.items()]
    sys.stdout.write("\n".join(["", *lines, "", LEGEND, "", table(rows_of(scores)), ""]))


def rows_of(scores: list[Score]) -> list[Row]:
    """Return a row for each number of clients."""
    rows: list[Row] = []
    for score in scores:
        base = next(each for each in scores if each.stream == score.stream)
        row: dict[str, object] = {
            "clients": str(score.clients),
            "answer": "streamed" if score.stream else "whole",
            "result": Spread.of(score.rates),
            "unit": "tokens/s",
            "CPU, µs/token": Spread.of(1e6 * seconds for seconds in score.cpu_s),
        }
        if score.stream:
            row["first, ms"] = Spread.of(1e3 * seconds for seconds in score.first_s)
        if score is not base:
            pairs = zip(score.rates, base.rates, strict=True)
            row["ratio"] = Spread.of(rate / base_rate for rate, base_rate in pairs)
        rows.append(row)
    return rows


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
