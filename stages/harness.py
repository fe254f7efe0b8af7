"""Score the exported model with EleutherAI's lm-evaluation-harness; run by hand, not a stage.

Reads:  models/hf/, the validation text in data/raw/.
Writes: models/metrics/lm_eval.json, which `dvc metrics show` and `dvc exp show` read, and the
        model's run in MLflow. With --address it writes nothing: a server may have any model.
Run:    make lm-eval TASKS=stories,lambada_openai LIMIT=200
        (by hand, from the repository root: python -m stages.harness)

The file is not an out of a stage, so `dvc repro` does not need the harness. It names its model, and
is removed when the pipeline exports another one.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lmlib.corpus import read_texts
from lmlib.corpus.texts import opened_start
from lmlib.digests import check_digests
from lmlib.files import read_json, write_json
from lmlib.harness import LOCAL_TASKS
from lmlib.harness.stories import MOST_BYTES
from lmlib.monitoring.tracking import open_run
from stages.artefacts import exported_model_id
from stages.cli import remedy, run_stage, say
from stages.fingerprint import fingerprint
from stages.paths import (
    EXPORTED,
    HARNESS_METRICS,
    RAW,
    RAW_VALID,
    partial_folder,
    root,
    spool_folder,
)

if TYPE_CHECKING:
    from lm_eval.api.model import LM

logger = logging.getLogger(__name__)

HUB = "https://huggingface.co"
HUB_S = 10.0  # to wait for its answer
LIMIT = 200


def main() -> None:
    """Print the harness's table, and record its numbers unless they are a server's."""
    args = _parse_arguments()
    if find_spec("lm_eval") is None:
        raise OSError(
            "lm-eval is not installed; run `make lm-eval`, or `pip install -c constraints.txt "
            "-e '.[eval]'`"
        )
    with remedy():
        require_export(EXPORTED)
    is_local = set(args.tasks) <= set(LOCAL_TASKS)
    if is_local or not reaches_hub():
        stay_offline()
    # here, not above: what they import reads the environment
    from lmlib.harness.run import evaluate_tasks, find_tasks

    try:
        with validation_text(args.tasks) as text:
            tasks = find_tasks(args.tasks, text)
    except ConnectionError as error:
        raise OSError(
            f"--tasks {','.join(args.tasks)}: their data are on the Hugging Face Hub, which cannot "
            f"be reached ({error}); connect to it, or take a task that needs no network: "
            f"{', '.join(LOCAL_TASKS)}"
        ) from error
    with contextlib.nullcontext() if args.address is None else answering(args.address):
        scores = evaluate_tasks(_model(args), tasks, args.limit or None)
    say(scores.table + "\n")
    if not args.address:
        record(scores.metrics, args.limit)


@contextlib.contextmanager
def validation_text(tasks: Sequence[str]) -> Iterator[Path]:
    """Yield the text that local tasks ask about, or as much of it as they read."""
    if not set(tasks) & set(LOCAL_TASKS):
        yield RAW_VALID  # which no task reads
        return
    with remedy():
        texts = read_texts(RAW, "valid", root())
    with opened_start(texts, MOST_BYTES, partial_folder()) as path:
        yield path


def _model(args: argparse.Namespace) -> "LM":
    from lmlib.harness.run import exported_model, served_model
    from lmlib.runtime import resolve_device

    if args.address:
        return served_model(args.address, EXPORTED, args.batch_size)
    return exported_model(EXPORTED, resolve_device(args.device, "--device"), args.batch_size)


@contextlib.contextmanager
def answering(address: str) -> Iterator[None]:
    """Say in one sentence what is wrong with a server, or with its address."""
    import requests

    try:
        yield
    except requests.ConnectionError as error:
        raise OSError(
            f"--address {address}: nothing answers there; start the server first, or correct the "
            "address"
        ) from error
    except requests.RequestException as error:
        raise OSError(
            f"--address {address}: {error}; lm-eval needs a server with /v1/completions that takes "
            "token ids and has `echo` and `logprobs`"
        ) from error


def require_export(folder: Path) -> None:
    """Raise FileNotFoundError if there is no exported model, ValueError if it is damaged."""
    if not (folder / "config.json").is_file():
        why = "its README.md says why" if (folder / "README.md").is_file() else "no such folder"
        raise FileNotFoundError(f"{folder}: no exported model ({why})")
    check_digests(folder, "config.json", "model.safetensors", "tokenizer.json")


def reaches_hub() -> bool:
    """Return whether the Hugging Face Hub answers, whatever it says."""
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT") or HUB, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_S).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def stay_offline() -> None:
    """Let nothing be looked up: data that were fetched before are still found."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        os.environ[name] = "1"


def record(metrics: Mapping[str, Mapping[str, float]], limit: int) -> None:
    """Add scores to those that the exported model has, in the file of metrics and in MLflow."""
    model = exported_model_id()
    known = read_json(HARNESS_METRICS) if HARNESS_METRICS.exists() else {}
    of_model = known if known.get("model") == model else {}
    write_json(HARNESS_METRICS, {**of_model, "model": model, **metrics})
    if why := obstacle_to_tracking():
        logger.warning("not recorded in MLflow: %s", why)
        return
    trained_as = fingerprint("train")
    identity = json.dumps([trained_as, sorted(metrics), limit])
    with open_run(
        "lm-eval",
        hashlib.sha256(identity.encode()).hexdigest()[:16],
        root=root(),
        spool=spool_folder(),
        params={"lm_eval.tasks": ",".join(metrics), "lm_eval.limit": limit},
        parent=trained_as,
    ) as run:
        numbers = {
            f"lm_eval/{task}/{name}": value
            for task, of_task in metrics.items()
            for name, value in of_task.items()
        }
        run.summary(numbers, on_parent=True)
        run.artifact(HARNESS_METRICS, "lm_eval", on_parent=True)


def obstacle_to_tracking() -> str:
    """Return why the run in MLflow of the exported model is not known; "" if it is.

    A run is found by the code, data and parameters that a model is made from. The exported model is
    theirs as long as DVC has nothing to do.
    """
    from dvc.exceptions import DvcException  # takes a second to import
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            changed = repo.status(targets=["export"], with_deps=True)
    except DvcException as error:
        return f"DVC cannot say which parameters {EXPORTED} comes from ({error})"
    if changed:
        return (
            f"{EXPORTED} is not what code, data and params.yaml now make (changed: "
            f"{', '.join(changed)}); run `dvc repro` first"
        )
    return ""


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.harness",
        description="Score the exported model with EleutherAI's lm-evaluation-harness.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    names = f"task names, with commas between; without network: {', '.join(LOCAL_TASKS)}"
    add("--tasks", type=_names, default="stories", help=names)
    add("--limit", type=_count, default=LIMIT, help="questions of each task; 0: all")
    add(
        "--address",
        metavar="http://HOST:PORT",
        help="score what is served at /v1/completions there, and record nothing",
    )
    add("--batch-size", type=_positive, default=16, help="texts in a pass, or in a request")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("names no task")
    return list(dict.fromkeys(names))


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of questions")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    run_stage(main, lower="--batch-size")
