"""Serve the trained model over HTTP, as OpenAI's completions API and a page; run by hand.

Params: sampling (defaults of the page), evaluation.stride. Reads: models/lm/, models/tokenizer/.
Run:    make serve   (by hand, from the repository root: python -m stages.serve --port 8000)
"""

import argparse
import contextlib
import os
import socket
from pathlib import Path

import uvicorn

from lmlib.evaluation import EvaluationParams
from lmlib.params import load_params
from lmlib.runtime import resolve_device, resolve_dtype
from lmlib.sampling import SamplingParams, cast_matrices
from lmlib.serving.app import Served, make_app
from lmlib.serving.engine import Limits, require_batch_memory
from lmlib.serving.guard import is_loopback
from stages.cli import run_stage, say
from stages.paths import MODEL, PARAMS
from stages.sample import revision
from stages.trained import load_trained

KEY = "LMLIB_API_KEY"


def main() -> None:
    """Serve until Ctrl-C or SIGTERM, which let the requests in progress end."""
    args = _parse_arguments()
    key = os.environ.get(KEY) or None
    local = is_loopback(args.host if ":" not in args.host else f"[{args.host}]")
    if not local and key is None:
        raise ValueError(
            f"--host {args.host} can be reached from other machines: set an API key that clients "
            f"must send, for example {KEY}=$(openssl rand -hex 24), or leave --host out"
        )
    defaults = load_params(PARAMS, "sampling", SamplingParams)
    stride = load_params(PARAMS, "evaluation", EvaluationParams).stride
    with revision(args.rev) if args.rev else contextlib.nullcontext(Path()) as folder:
        device = resolve_device(args.device, "--device")
        model, tokenizer = load_trained(device, folder)
        created = int((folder / MODEL).stat().st_mtime)
    cast_matrices(model, resolve_dtype(args.dtype, device, "--dtype"))
    limits = Limits(args.batch, args.queue, args.max_tokens, seconds=args.seconds)
    name = f"lm@{args.rev}" if args.rev else "lm"
    require_batch_memory(model, limits.batch)  # before clients can come
    served = Served(model, tokenizer, name, created, defaults, stride, limits, key, local)
    with _listen(args.host, args.port) as listening:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {name} at http://{shown}:{port}/ (API: /v1); Ctrl-C stops it\n")
        config = uvicorn.Config(
            make_app(served),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(limits.seconds) + 1,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise OSError, naming the port, if it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        what = str(error.strerror or error).partition(" (")[0].lower()
        raise OSError(f"port {port} of {host}: {what}; choose another with --port") from error


def _port(text: str) -> int:
    """Return a port number; raise ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text[:9]) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.serve",
        description="Serve the trained model: OpenAI's completions API, and a page.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, limits = parser.add_argument, Limits()
    add("--port", type=_port, default=8000, help="0: any that is free")
    add("--host", default="127.0.0.1", help=f"another than loopback needs {KEY}")
    add("--rev", help="serve the model of this DVC revision or experiment")
    add("--batch", type=int, default=limits.batch, help="texts that are written together")
    add("--queue", type=int, default=limits.queue, help="texts that may wait")
    add("--max-tokens", type=int, default=limits.max_tokens, help="tokens per text, at most")
    add("--seconds", type=float, default=limits.seconds, help="per request, at most")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights: bfloat16 is up to twice as fast with a large model",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main, lower="--batch")
