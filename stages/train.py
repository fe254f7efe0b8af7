"""Stage `train`: fit the Transformer language model.

Params: model, optim, train. Reads: data/tokens/. Writes: models/lm/, models/metrics/,
        models/plots/.
Run:    dvc repro train   (by hand, from the repository root: python -m stages.train)
"""

import contextlib
import csv
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from lmlib.checkpoint import ResumeStore, save_model
from lmlib.data import TokenDataset
from lmlib.device import resolve_device
from lmlib.distributed import World, count_processes, join, launch, under_torchrun
from lmlib.files import sha256_file, write_atomically, write_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.monitoring.tracking import Dataset, flatten, open_run
from lmlib.optim import OptimParams
from lmlib.params import load_params
from lmlib.training import TrainParams, require_trainable, train
from stages.cli import remedy, run_stage
from stages.cores import describe
from stages.fingerprint import fingerprint
from stages.paths import (
    LOCK,
    MODEL,
    PARAMS,
    TRAIN_CURVE,
    TRAIN_METRICS,
    TRAIN_TOKENS,
    VALID_CURVE,
    VALID_TOKENS,
    resume_folder,
    root,
    spool_folder,
)

logger = logging.getLogger(__name__)

AFTERWARDS = ("evaluation", "sampling")  # sections of params.yaml that no training reads


def main() -> None:
    """Train to `train.num_steps`; after an interruption, go on from the last saved state.

    With `train.num_processes` this process only starts them; they run this very function.
    """
    model_params = load_params(PARAMS, "model", ModelParams)
    optim_params = load_params(PARAMS, "optim", OptimParams)
    train_params = load_params(PARAMS, "train", TrainParams)
    with remedy("dvc repro -f encode"):
        train_data = TokenDataset.open(TRAIN_TOKENS)
        valid_data = TokenDataset.open(VALID_TOKENS)
    device = resolve_device(train_params.device)
    processes = count_processes(train_params.num_processes, device)
    require_trainable(model_params, train_data, valid_data, train_params, optim_params, processes)
    if processes > 1 and not under_torchrun():
        launch("stages.train", processes)
        return
    with join(device) as world:
        if world.is_main and device.type == "cpu":
            logger.info(describe(torch.get_num_threads()))
        _fit(model_params, optim_params, train_params, train_data, valid_data, world)


def _fit(
    model_params: ModelParams,
    optim_params: OptimParams,
    train_params: TrainParams,
    train_data: TokenDataset,
    valid_data: TokenDataset,
    world: World,
) -> None:
    """Train, in each process of `world`; the main one writes the outs and keeps the tracker.

    The profile of `train.profile_steps` is no out: it goes to models/profile/ and to the tracker.
    """
    model = TransformerLM(model_params, train_data.info.vocab_size, seed=train_params.seed)
    identity = fingerprint("train")
    store = ResumeStore(resume_folder(identity), world)
    trace = root() / "models" / "profile" / f"{identity}.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.lock())
        if not world.is_main:
            train(model, train_data, valid_data, train_params, optim_params, store)
            save_model(MODEL, model, world)
            return
        run = stack.enter_context(
            open_run(
                "train",
                identity,
                root=root(),
                spool=spool_folder(),
                params=_recorded_params() | {"model.parameters": model.num_parameters()},
                tags=_data_tags(),
                dataset=Dataset("tokens", sha256_file(TRAIN_TOKENS), TRAIN_TOKENS.as_posix()),
                system_metrics=True,
            )
        )
        result = train(
            model, train_data, valid_data, train_params, optim_params, store, run.log, trace
        )
        save_model(MODEL, model, world)
        _write_csv(TRAIN_CURVE, result.train)
        _write_csv(VALID_CURVE, result.valid)
        steps = result.train[-1]["step"]
        metrics = {
            "steps": steps,
            "tokens": steps * train_params.batch_size * model_params.context_length,
            "parameters": model.num_parameters(),
            "train_loss": result.train[-1]["loss"],
            "valid_loss": result.valid_loss,
        }
        write_json(TRAIN_METRICS, metrics)
        run.artifact(TRAIN_CURVE, "curves")
        run.artifact(VALID_CURVE, "curves")
        run.artifact(PARAMS)
        if train_params.profile_steps and trace.is_file():
            run.artifact(trace, "profile")


def _recorded_params() -> dict[str, Any]:
    """Return, for the tracker alone, all that made the model; where it came from, too.

    How it is evaluated and sampled may change without another training.
    """
    sections = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    return flatten({name: sections[name] for name in sections if name not in AFTERWARDS})


def _data_tags() -> dict[str, str]:
    """Return the hash by which DVC knows the tokens; none when it did not start this stage."""
    if "DVC_STAGE" in os.environ and LOCK.is_file():
        lock = YAML(typ="safe").load(LOCK.read_text(encoding="utf-8"))
        for out in lock["stages"].get("encode", {}).get("outs", []):
            if out["path"] == TRAIN_TOKENS.parent.as_posix():
                return {"data_md5": out["md5"]}
    return {}


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


if __name__ == "__main__":
    run_stage(main)
