"""Speed of sampling beside the `generate` of `transformers`, in one run on the same weights.

    make bench-sample                               the model of params.yaml and one of d_model 512
    make bench-sample ARGS="--device cuda"          on a GPU
    make bench-sample ARGS="--threads 1"            of the CPU, for both; all cores by default

A model with random weights is exported to a folder, which `transformers` loads. Each contender
continues the same prompts greedily by NEW_TOKENS, in turns, and all tokens are compared. What a
user waits for is timed: the whole call. Compiling and the first call are not.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmlib.export import save_pretrained
from lmlib.model import ModelParams, TransformerLM
from lmlib.params import load_params
from lmlib.runtime import resolve_device
from lmlib.sampling import SamplingParams, generate
from lmlib.tokenizer import Tokenizer
from tests.benchmarks.contest import ROOT, num_cores
from tests.benchmarks.report import Row, machine, table
from tests.benchmarks.timing import Spread

NEW_TOKENS = 256
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
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    tokens: Prompts = field(default_factory=list)

    def run(self, prompts: Prompts) -> None:
        """Add a call."""
        start, cpu_start = time.perf_counter(), time.process_time()
        self.tokens = self.call(prompts)
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu_start)


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


def race(size: str, device: torch.device, repeats: int, new_tokens: int) -> list[Row]:
    """Return the rows of one size of the model, at all batch sizes."""
    params = SIZES[size]
    model = TransformerLM(params, VOCAB_SIZE, seed=0).to(device).eval()
    words = {i: bytes([i]) if i < 256 else b"%d" % (i + 1000) for i in range(VOCAB_SIZE)}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(Path(folder), model, Tokenizer(words, [], None))
        peer = theirs(Path(folder), device, new_tokens)
    length = min(PROMPT_TOKENS, params.context_length + 1 - new_tokens)
    for batch_size in BATCH_SIZES:
        generator = torch.Generator().manual_seed(batch_size)
        prompts = torch.randint(VOCAB_SIZE, (batch_size, length), generator=generator).tolist()
        scores = [
            Score("ours", ours(model, new_tokens)),
            Score("transformers", peer),
            Score("ours, no cache", ours(model, new_tokens, use_cache=False)),
        ]
        for score in scores[:2]:
            score.call(prompts)  # compiles, and fills caches
        for turn in range(repeats):
            for score in scores[: 3 if turn == 0 and batch_size == 1 else 2]:
                score.run(prompts)
        for score in scores:
            if score.seconds:
                rows.append(row_of(f"{size}, batch {batch_size}", score, scores[0]))
                sys.stderr.write(table([rows[-1]]).splitlines()[-1] + "\n")
    return rows


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
    about["threads"] = str(args.threads)
    rows = [row for size in args.sizes for row in race(size, device, args.repeats, args.new_tokens)]
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
    parser.add_argument("--threads", type=int, default=num_cores(), help="of PyTorch on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
