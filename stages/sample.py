"""Write text with the trained model; run by hand, not a stage of the pipeline.

Reads:  models/lm/, models/tokenizer/; what is not given comes from params.yaml, section sampling.
Run:    python -m stages.sample --prompt "Once upon a time" --temperature 0.8 --num-samples 3
"""

import argparse
import dataclasses
import sys

from lmlib.params import load_params
from lmlib.sampling import SamplingParams, stream_text
from stages.cli import run_stage
from stages.paths import PARAMS
from stages.trained import load_trained


def main() -> None:
    """Stream `--num-samples` continuations of `--prompt` to stdout."""
    defaults = load_params(PARAMS, "sampling", SamplingParams)
    args = _parse_arguments(defaults)
    params = dataclasses.replace(
        defaults,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )
    model, tokenizer = load_trained(args.device)
    for sample in range(args.num_samples):
        sys.stdout.write(args.prompt)
        numbered = dataclasses.replace(params, seed=args.seed + sample)
        for text in stream_text(model, tokenizer, args.prompt, numbered):
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n\n" if sample + 1 < args.num_samples else "\n")


def _parse_arguments(defaults: SamplingParams) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.sample",
        description="Write text with the trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--prompt", default="".join(defaults.prompts[:1]), help="the text to continue"
    )
    parser.add_argument("--max-tokens", type=int, default=defaults.max_tokens, help="at most")
    parser.add_argument(
        "--temperature", type=float, default=defaults.temperature, help="0: the likeliest token"
    )
    parser.add_argument("--top-k", type=int, default=defaults.top_k, help="0: all tokens")
    parser.add_argument("--top-p", type=float, default=defaults.top_p, help="1: all tokens")
    parser.add_argument("--num-samples", type=int, default=1, help="continuations, one by one")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the first sample")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
