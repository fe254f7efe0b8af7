"""Write text with the trained model; run by hand, not a stage of the pipeline.

Reads:  models/lm/, models/tokenizer/; defaults are those of params.yaml, section sampling.
Run:    python -m stages.sample --prompt "Once upon a time" --temperature 0.8 --num-samples 3
        python -m stages.sample                 a prompt loop; /help lists its commands
        python -m stages.sample --json < FILE   each line is a prompt; a bad one gets an "error"
        python -m stages.sample --rev NAME      the model of another revision or experiment
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lmlib.files import parse_yaml
from lmlib.model import TransformerLM
from lmlib.params import from_dict, load_params
from lmlib.runtime import resolve_device, resolve_dtype
from lmlib.sampling import SamplingParams, cast_matrices, generate_samples, stream_text
from lmlib.tokenizer import Tokenizer
from stages.cli import run_stage, say
from stages.paths import MODEL, PARAMS, TOKENIZER
from stages.trained import load_trained

logger = logging.getLogger(__name__)

OPTIONS = [field.name for field in dataclasses.fields(SamplingParams) if field.name != "prompts"]
HELP = """\
A line is a prompt, which the model continues. Ctrl-C ends a text, Ctrl-D ends the loop.
/help              this text
/show              the current options
/OPTION VALUE      change one, as in /seed 2, /temperature 0.8 or /stop ["The end", "\\n"]
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
                say(json.dumps(dataclasses.asdict(sample)) + "\n")
            return
        for j in range(self.params.num_samples):
            say(("\n" if j else "") + prompt)
            numbered = dataclasses.replace(self.params, seed=self.params.seed + j, num_samples=1)
            for text in stream_text(
                self.model, self.tokenizer, prompt, numbered, use_cache=self.use_cache
            ):
                say(text)
            say("\n")

    def command(self, line: str) -> str:
        """Execute a line that begins with /; return the text to show."""
        name, _, value = line[1:].strip().partition(" ")
        name = name.replace("-", "_")
        if name == "help":
            return HELP
        if name == "show":
            return "".join(map(self._shown, OPTIONS))
        if name not in OPTIONS:
            return (
                f"error: /{name} is unknown; write /show, /help or one of the options with a "
                f"value: {', '.join(OPTIONS)}\n"
            )
        try:
            if value:
                self.params = changed(self.params, name, value.strip())
        except ValueError as error:
            return f"error: {error}\n"
        return self._shown(name)

    def _shown(self, name: str) -> str:
        """Return the line that would set an option to its value."""
        value = getattr(self.params, name)
        return f"/{name} {value if isinstance(value, str) else json.dumps(value)}\n"


def main() -> None:
    """Continue `--prompt`, or each line of stdin, with the options given."""
    defaults = load_params(PARAMS, "sampling", SamplingParams)
    args = _parse_arguments(defaults)
    for name, texts in {"--stop": args.stop, "--rev": [args.rev or ""]}.items():
        for text in texts:
            decoded(os.fsencode(text), name)
    options = {name: getattr(args, name) for name in OPTIONS}
    params = dataclasses.replace(defaults, **options | {"stop": tuple(args.stop)})
    with revision(args.rev) if args.rev else contextlib.nullcontext(Path()) as folder:
        device = resolve_device(args.device, "--device")
        model, tokenizer = load_trained(device, folder)
    cast_matrices(model, resolve_dtype(args.dtype, device, "--dtype"))
    writer = Writer(model, tokenizer, params, args.json, not args.no_cache)
    if args.prompt is not None:
        writer.write(decoded(os.fsencode(args.prompt), "--prompt"))
    else:
        loop(writer)


def loop(writer: Writer) -> None:
    """Continue each line of stdin; on a terminal with history, and with commands.

    A line that cannot be continued is reported, with --json as an object; the others are continued.
    """
    if sys.stdin is None:
        raise ValueError("stdin is closed; give --prompt TEXT, or prompts on stdin")
    if sys.stdin.isatty() and not writer.as_json:
        ask(writer)
        return
    failed = False
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if prompt := decoded(line, f"line {number} of stdin"):
                writer.write(prompt)
        except ValueError as error:
            if writer.as_json:
                say(json.dumps({"line": number, "error": str(error)}) + "\n")
            else:
                logger.error(f"error: {error}")
                failed = True
    if failed:
        sys.exit(1)


def ask(writer: Writer) -> None:
    """Continue prompts from a terminal and execute its commands, until Ctrl-D."""
    import readline  # noqa: F401  # gives input() a history

    say(HELP)
    while True:
        try:
            line = decoded(input("> ").encode("utf-8", "surrogateescape"), "the line")
            if line.startswith("/"):
                say(writer.command(line))
            elif line:
                writer.write(line)
        except ValueError as error:
            say(f"error: {error}\n")
        except EOFError:
            say("\n")
            return
        except KeyboardInterrupt:
            say("\n")


def decoded(data: bytes, where: str) -> str:
    """Return bytes from outside as text; raise ValueError if they are not UTF-8."""
    try:
        return data.decode("utf-8-sig")  # Windows programs write a byte-order mark first
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not UTF-8 (byte 0x{data[error.start]:02X} at offset {error.start}); "
            "convert the text, for example with `iconv -f WINDOWS-1252 -t UTF-8`"
        ) from error


def changed(params: SamplingParams, name: str, value: str) -> SamplingParams:
    """Return params with one option read from text, as it would be in params.yaml."""
    try:
        parsed = parse_yaml(value, "options")
    except ValueError:
        parsed = value
    if name == "stop" and not isinstance(parsed, list):
        parsed = [parsed if isinstance(parsed, str) else value]
    values = dataclasses.asdict(params) | {name: parsed}
    return from_dict(SamplingParams, values, where="options")


@contextlib.contextmanager
def revision(rev: str) -> Iterator[Path]:
    """Yield a folder with the model and the tokenizer of a DVC revision or experiment.

    Raises ValueError if there is no such revision, if it lacks one of the two, or if DVC has not
    kept them.
    """
    from dvc.api import DVCFileSystem  # takes a second to import
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from pygit2 import GitError
    from scmrepo.exceptions import SCMError

    if re.match(r"[^:{]+:", rev):  # as in main:params.yaml, but not :/words and HEAD@{10:00}
        raise ValueError(f"--rev {rev}: this is a file of a revision; give the revision alone")
    with tempfile.TemporaryDirectory() as folder:
        for path in (MODEL, TOKENIZER):
            files, name = DVCFileSystem(rev=rev), path.as_posix()
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                files.get(name, str(Path(folder) / path), recursive=True)
            except GitError as error:  # such as a repository of another user
                raise ValueError(f"--rev {rev}: {error}; `git status` says more") from error
            except (DvcException, SCMError) as error:
                raise ValueError(
                    f"--rev {rev}: {error}; `git log` and `dvc exp show` list what exists"
                ) from error
            except (DataIndexDirError, OSError) as error:
                if not files.exists(name):
                    raise ValueError(
                        f"--rev {rev}: has no {name}; choose one whose dvc.lock has it"
                    ) from error
                raise ValueError(
                    f"--rev {rev}: its {name} is neither in the cache of DVC nor on a remote "
                    f"({error}); where a remote has it, `dvc fetch --all-commits` or `dvc exp "
                    "pull` gets it"
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
    add("--max-tokens", type=int, default=d.max_tokens, help="tokens per text, at most")
    add("--temperature", type=float, default=d.temperature, help="0: the most likely token")
    add("--top-k", type=int, default=d.top_k, help="0: all tokens")
    add("--top-p", type=float, default=d.top_p, help="1: all tokens")
    add("--min-p", type=float, default=d.min_p, help="0: all tokens")
    add("--repetition-penalty", type=float, default=d.repetition_penalty, help="1: none")
    add("--stop", nargs="+", default=d.stop, help="texts that end a continuation")
    add("--beyond-context", choices=("slide", "stop"), default=d.beyond_context, help="when full")
    add(
        "--allow-special",
        action=argparse.BooleanOptionalAction,
        default=d.allow_special,
        help="read special tokens in prompts as such, not as text",
    )
    add("--num-samples", type=int, default=d.num_samples, help="continuations of each prompt")
    add("--seed", type=int, default=d.seed, help="of the first sample")
    add("--no-cache", action="store_true", help="compute each token from all before it (slow)")
    add("--json", action="store_true", help="one JSON object per sample and line")
    add("--rev", help="use the model of this DVC revision or experiment")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights: bfloat16 is up to twice as fast with a large model",
    )
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader may end first, as `head` does
    run_stage(main, lower="--num-samples or --max-tokens")
