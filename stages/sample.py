"""Write text with the trained model; run by hand, not a stage of the pipeline.

Reads:  models/lm/, models/tokenizer/; what is not given comes from params.yaml, section sampling.
Run:    python -m stages.sample --prompt "Once upon a time" --temperature 0.8 --num-samples 3
        python -m stages.sample                 a prompt loop; /help lists its commands
        python -m stages.sample --rev NAME      the model of another revision or experiment
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from lmlib.model import TransformerLM
from lmlib.params import from_dict, load_params
from lmlib.sampling import SamplingParams, generate_samples, stream_text
from lmlib.tokenizer import Tokenizer
from stages.cli import run_stage
from stages.paths import MODEL, PARAMS, TOKENIZER
from stages.trained import load_trained

OPTIONS = [field.name for field in dataclasses.fields(SamplingParams) if field.name != "prompts"]
HELP = """\
A line is a prompt, which the model continues. Ctrl-C ends a text, Ctrl-D ends the loop.
/help              this text
/show              the options as they are
/OPTION VALUE      change one, as in /temperature 0.8 or /stop ["The end", "\\n"]
"""


@dataclasses.dataclass
class Writer:
    """Continues prompts on stdout: text as it grows, or one JSON object for each sample."""

    model: TransformerLM
    tokenizer: Tokenizer
    params: SamplingParams
    as_json: bool
    use_cache: bool

    def write(self, prompt: str) -> None:
        """Write `num_samples` continuations of a prompt."""
        if self.as_json:
            (samples,) = generate_samples(
                self.model, self.tokenizer, [prompt], self.params, use_cache=self.use_cache
            )
            for sample in samples:
                sys.stdout.write(json.dumps(dataclasses.asdict(sample)) + "\n")
            sys.stdout.flush()
            return
        for j in range(self.params.num_samples):
            sys.stdout.write(("\n" if j else "") + prompt)
            numbered = dataclasses.replace(self.params, seed=self.params.seed + j)
            for text in stream_text(
                self.model, self.tokenizer, prompt, numbered, use_cache=self.use_cache
            ):
                sys.stdout.write(text)
                sys.stdout.flush()
            sys.stdout.write("\n")

    def command(self, line: str) -> str:
        """Do what a line that begins with / asks for; return what to say."""
        name, _, value = line[1:].strip().partition(" ")
        name = name.replace("-", "_")
        if name == "help":
            return HELP
        if name in OPTIONS and value:
            try:
                self.params = changed(self.params, name, value.strip())
            except ValueError as error:
                return f"error: {error}\n"
            return f"{name} {getattr(self.params, name)}\n"
        if name != "show":
            return f"error: /{name}: write /OPTION VALUE; OPTION is one of {', '.join(OPTIONS)}\n"
        return "".join(f"/{option} {getattr(self.params, option)}\n" for option in OPTIONS)


def main() -> None:
    """Continue `--prompt`, or each line of stdin, with the options given."""
    defaults = load_params(PARAMS, "sampling", SamplingParams)
    args = _parse_arguments(defaults)
    options = {name: getattr(args, name) for name in OPTIONS}
    params = dataclasses.replace(defaults, **options | {"stop": tuple(args.stop)})
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(revision(args.rev)) if args.rev else Path()
        model, tokenizer = load_trained(args.device, folder)
    writer = Writer(model, tokenizer, params, args.json, not args.no_cache)
    if args.prompt is not None:
        writer.write(args.prompt)
    else:
        loop(writer)


def loop(writer: Writer) -> None:
    """Continue each line of stdin; on a terminal with history, and with commands."""
    asks = sys.stdin.isatty() and not writer.as_json
    if asks:
        import readline  # noqa: F401  # input() then keeps a history of lines

        sys.stdout.write(HELP)
    while True:
        try:
            line = input("> " if asks else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if line.startswith("/") and not writer.as_json:
            sys.stdout.write(writer.command(line))
        elif line:
            try:
                writer.write(line)
            except KeyboardInterrupt:
                sys.stdout.write("\n")


def changed(params: SamplingParams, name: str, value: str) -> SamplingParams:
    """Return params with one option read from text, as it would stand in params.yaml."""
    try:
        parsed = YAML(typ="safe").load(value)
    except YAMLError:
        parsed = value
    if name == "stop" and not isinstance(parsed, list):
        parsed = [value]
    values = dataclasses.asdict(params) | {name: parsed}
    return from_dict(SamplingParams, values, where="option")


@contextlib.contextmanager
def revision(rev: str) -> Iterator[Path]:
    """Give a folder with the model and the tokenizer of a DVC revision or experiment.

    Raises ValueError when there is no such revision, or it has none, or DVC has not kept them.
    """
    from dvc.api import DVCFileSystem  # takes a second to import
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from scmrepo.exceptions import SCMError

    with tempfile.TemporaryDirectory() as folder:
        try:
            files = DVCFileSystem(rev=rev)
            for path in (MODEL, TOKENIZER):
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                files.get(path.as_posix(), str(target), recursive=True)
        except (DvcException, DataIndexDirError, SCMError, OSError) as error:
            raise ValueError(
                f"--rev {rev}: no {MODEL} and {TOKENIZER} to be had ({error}); `dvc exp show` "
                "lists experiments, `dvc fetch` gets files that a remote has"
            ) from error
        yield Path(folder)


def _parse_arguments(defaults: SamplingParams) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.sample",
        description="Write text with the trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, d = parser.add_argument, defaults
    add("--prompt", help="the text to continue; without it, each line of stdin is one")
    add("--max-tokens", type=int, default=d.max_tokens, help="at most")
    add("--temperature", type=float, default=d.temperature, help="0: the likeliest token")
    add("--top-k", type=int, default=d.top_k, help="0: all tokens")
    add("--top-p", type=float, default=d.top_p, help="1: all tokens")
    add("--min-p", type=float, default=d.min_p, help="0: all tokens")
    add("--repetition-penalty", type=float, default=d.repetition_penalty, help="1: none")
    add("--stop", nargs="+", default=d.stop, help="texts that end a continuation")
    add("--beyond-context", choices=("slide", "stop"), default=d.beyond_context, help="when full")
    add("--num-samples", type=int, default=d.num_samples, help="continuations of each prompt")
    add("--seed", type=int, default=d.seed, help="of the first sample")
    add("--no-cache", action="store_true", help="compute each token from all before it (slow)")
    add("--json", action="store_true", help="one JSON object a sample, one a line")
    add("--rev", help="a revision or experiment of DVC, whose model is to write")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
