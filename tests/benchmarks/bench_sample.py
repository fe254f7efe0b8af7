"""Speed of sampling compared with `transformers` and llama.cpp, in one run on the same weights.

    make bench-sample                               the model of params.yaml and one of d_model 512
    make bench-sample ARGS="--device cuda"          on a GPU
    make bench-sample ARGS="--threads 1"            of the CPU, for all; all cores by default

A model with random weights is exported to a folder, which `transformers` loads, and to a GGUF,
which llama.cpp loads, on the CPU, in a process of the peers' environment. Each contender continues
the same prompts greedily by NEW_TOKENS, in turns, in float32, and all tokens are compared; ours
with weights in bfloat16 too, whose tokens may differ. What a user waits for is timed: the whole
call. Compiling and the first call are not.
"""

import argparse
import contextlib
import copy
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmlib.export import save_pretrained, write_gguf
from lmlib.model import ModelParams, TransformerLM
from lmlib.params import load_params
from lmlib.runtime import resolve_device
from lmlib.sampling import SamplingParams, cast_matrices, generate
from lmlib.separator import SEPARATOR
from lmlib.tokenizer import Tokenizer
from tests.benchmarks.contest import ROOT, num_cores
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.timing import Spread

NEW_TOKENS = 256
PAUSE_S = 0.2
PROMPT_TOKENS = 16  # or as many as leave room for the new ones in the context
VOCAB_SIZE = 4096
BATCH_SIZES = (1, 16)
SIZES = {
    "default": load_params(ROOT / "params.yaml", "model", ModelParams),
    "d512": ModelParams(context_length=512, d_model=512, num_layers=8, num_heads=8, d_ff=1344),
}
LEGEND = """\
Results: median (least to greatest). Ratio: the contender's time by that of ours with a cache, in
the same turn; above 1, ours is faster. CPU: the same of processor time, which other programs
disturb less. Without a cache: at batch 1, one turn."""

Prompts = list[list[int]]
Continue = Callable[[Prompts], Prompts]


@dataclass
class Score:
    """The calls of a contender: seconds, of the clock and of all processors, and its tokens."""

    name: str
    call: Continue
    cpu_clock: Callable[[], float] = time.process_time  # of the process that does the work
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    tokens: Prompts = field(default_factory=list)

    def run(self, prompts: Prompts) -> None:
        """Add a call, once the threads of the one before no longer spin."""
        time.sleep(PAUSE_S)
        cpu_start, start = self.cpu_clock(), time.perf_counter()
        self.tokens = self.call(prompts)
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(self.cpu_clock() - cpu_start)


def ours(model: TransformerLM, new_tokens: int, *, use_cache: bool = True) -> Continue:
    """Return what continues prompts with our model."""
    params = SamplingParams(
        prompts=(), max_tokens=new_tokens, temperature=0.0, top_k=0, top_p=1.0, seed=0
    )

    def call(prompts: Prompts) -> Prompts:
        return [only for (only,) in generate(model, prompts, params, use_cache=use_cache)]

    return call


def theirs(folder: Path, device: torch.device, new_tokens: int) -> Continue:
    """Return what continues prompts, all equally long, with an exported model."""
    import transformers

    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = loaded.to(device).eval()

    def call(prompts: Prompts) -> Prompts:
        ids = torch.tensor(prompts, device=device)
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            max_new_tokens=new_tokens,
            eos_token_id=None,
        )
        return generated[:, ids.shape[1] :].tolist()

    return call


class LlamaCpp:
    """llama.cpp in its own process; see tests/benchmarks/llama_worker.py."""

    def __init__(self, process: subprocess.Popen[str], new_tokens: int) -> None:
        self.process = process
        self.new_tokens = new_tokens

    def __call__(self, prompts: Prompts) -> Prompts:
        """Return what continues prompts."""
        return self._ask({"prompts": prompts, "new_tokens": self.new_tokens})["tokens"]

    def cpu_clock(self) -> float:
        """Return the processor time of the process so far, in seconds."""
        return self._ask({})["cpu_s"]

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"llama.cpp's process ended with status {self.process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def llama_cpp(
    python: Path, gguf: Path, sequences: int, params: ModelParams, new_tokens: int
) -> Iterator[LlamaCpp]:
    """Start llama.cpp with `python`, for that many sequences, with as many threads as PyTorch."""
    sizes = [sequences, params.context_length, torch.get_num_threads()]
    command = [str(python), "-m", "tests.benchmarks.llama_worker", str(gguf), *map(str, sizes)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield LlamaCpp(process, new_tokens)
        finally:
            process.kill()


def version_of_llama_cpp(python: Path) -> str:
    """Return the version of llama-cpp-python in an environment; "" if it is not there."""
    if not python.is_file():
        return ""
    code = "import llama_cpp; print(llama_cpp.__version__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def with_separator(words: dict[int, bytes]) -> Tokenizer:
    """Return a tokenizer of as many tokens; a GGUF must have the separator, and a merge."""
    last = len(words) - 1
    vocab = words | {last: SEPARATOR.encode(), last - 1: b"ab"}
    return Tokenizer(vocab, [(b"a", b"b")], [SEPARATOR])


def race(
    size: str, device: torch.device, repeats: int, new_tokens: int, peers: Path | None = None
) -> list[Row]:
    """Return the rows of one size of the model, at all batch sizes.

    peers: the Python that has llama.cpp; None: without it
    """
    params = SIZES[size]
    model = TransformerLM(params, VOCAB_SIZE, seed=0).to(device).eval()
    half = cast_matrices(copy.deepcopy(model), torch.bfloat16)
    words = {i: bytes([i]) if i < 256 else b"%d" % (i + 1000) for i in range(VOCAB_SIZE)}
    length = min(PROMPT_TOKENS, params.context_length + 1 - new_tokens)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(Path(folder), model, Tokenizer(words, [], None))
        peer, gguf = theirs(Path(folder), device, new_tokens), Path(folder) / "model.gguf"
        if peers:
            write_gguf(gguf, model, with_separator(words), size)
        for batch_size in BATCH_SIZES:
            generator = torch.Generator().manual_seed(batch_size)
            prompts = torch.randint(VOCAB_SIZE, (batch_size, length), generator=generator).tolist()
            scores = [
                Score("ours", ours(model, new_tokens)),
                Score("transformers", peer),
                Score("ours, bfloat16", ours(half, new_tokens)),
            ]
            once = [Score("ours, no cache", ours(model, new_tokens, use_cache=False))]
            with contextlib.ExitStack() as stack:
                if peers:
                    started = llama_cpp(peers, gguf, batch_size, params, new_tokens)
                    llama = stack.enter_context(started)
                    scores.append(Score("llama.cpp", llama, llama.cpu_clock))
                compete(scores, once if batch_size == 1 else [], prompts, repeats)
            for score in [*scores, *once]:
                if score.seconds:
                    rows.append(row_of(f"{size}, batch {batch_size}", score, scores[0]))
                    sys.stderr.write(table([rows[-1]]).splitlines()[-1] + "\n")
    return rows


def compete(scores: list[Score], once: list[Score], prompts: Prompts, repeats: int) -> None:
    """Let the contenders continue prompts, turn by turn; those of `once` in the first turn only."""
    for score in scores:
        score.call(prompts)  # compiles, and fills caches
    for turn in range(repeats):
        for score in [*scores, *(once if turn == 0 else [])]:
            score.run(prompts)


def row_of(task: str, score: Score, first: Score) -> Row:
    """Return the row of a contender; `first` is the one it is compared with."""
    num_tokens = sum(map(len, score.tokens))
    row: dict[str, object] = {
        "task": task,
        "contender": score.name,
        "result": Spread.of(num_tokens / seconds for seconds in score.seconds),
        "unit": "tokens/s",
        "ms/step": Spread.of(score.seconds).median * 1e3 / len(score.tokens[0]),
    }
    if score is first:
        return row
    pairs = zip(score.seconds, first.seconds, strict=False)
    cpu_pairs = zip(score.cpu_seconds, first.cpu_seconds, strict=False)
    same = sum(a == b for a, b in zip(score.tokens, first.tokens, strict=True))
    return row | {
        "ratio": Spread.of(theirs_s / ours_s for theirs_s, ours_s in pairs),
        "CPU ratio": Spread.of(theirs_s / ours_s for theirs_s, ours_s in cpu_pairs),
        "tokens": "equal" if same == len(score.tokens) else f"{same} of {len(score.tokens)} equal",
    }


def main() -> None:
    """Run all sizes and print the table last."""
    args = arguments()
    device = resolve_device(args.device, "--device")
    torch.set_num_threads(args.threads)
    about = machine() | {"torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    about["transformers"] = transformers.__version__
    version = version_of_llama_cpp(args.peers) if device.type == "cpu" else ""
    about["llama-cpp-python"] = version or f"none: not on the CPU, or not in {args.peers}"
    about["threads"] = str(args.threads)
    peers = args.peers if version else None
    rows = [
        row
        for size in args.sizes
        for row in race(size, device, args.repeats, args.new_tokens, peers)
    ]
    about["command"] = shlex.join(["python", "-m", "tests.benchmarks.bench_sample", *sys.argv[1:]])
    lines = [f"{key}: {value}" for key, value in about.items()]
    sys.stdout.write("\n".join(["", *lines, "", LEGEND, "", table(rows), ""]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--threads", type=int, default=num_cores(), help="of all on the CPU")
    parser.add_argument(
        "--peers",
        type=Path,
        default=ROOT / ".venv-bench" / "bin" / "python",
        help="the Python that has llama-cpp-python; without it, llama.cpp is left out",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
