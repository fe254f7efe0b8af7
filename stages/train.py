"""Stage `train`: fit the Transformer language model.

Params: model, optim, train. Reads: data/tokens/. Writes: models/lm/, models/metrics/,
        models/plots/.
Run:    dvc repro train   (by hand, from the repository root: python -m stages.train)
"""

import contextlib
import logging
import os
from typing import Any

import torch

from lmlib.checkpoint import plain_state_dict, save_model
from lmlib.data import TokenDataset
from lmlib.files import read_yaml, sha256_file, write_csv, write_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.monitoring.tracking import Dataset, Run
from lmlib.optim import OptimParams
from lmlib.params import load_params
from lmlib.plan import summary
from lmlib.states import mark_finished
from lmlib.tokens import INDEX
from lmlib.training import (
    Datasets,
    Hooks,
    ResumeStore,
    Settings,
    TrainParams,
    TrainResult,
    require_trainable,
    require_training_memory,
    train,
)
from lmlib.training.distributed import World
from lmlib.training.processes import count_processes, join, launch, under_torchrun
from stages.cli import remedy, run_stage
from stages.cores import describe
from stages.fingerprint import fingerprint, without_watching
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
    shard_cache,
)
from stages.stage_run import stage_run
from stages.watching import watching

logger = logging.getLogger(__name__)

AFTERWARDS = ("evaluation", "sampling")  # sections of params.yaml that change no weights


def main() -> None:
    """Train to `train.num_steps`; after an interruption, resume from the last saved state.

    With several processes, this one only starts the others, and each of them runs this function.
    """
    settings = Settings(
        model=load_params(PARAMS, "model", ModelParams),
        optim=load_params(PARAMS, "optim", OptimParams),
        train=load_params(PARAMS, "train", TrainParams),
    )
    if settings.train.compile != "graphs":
        # on CUDA: memory in blocks that grow, in place of many that do not fit together
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with remedy():
        data = Datasets(
            TokenDataset.open(TRAIN_TOKENS, shard_cache()),
            TokenDataset.open(VALID_TOKENS, shard_cache()),
        )
    device = settings.device
    processes = count_processes(settings.train.num_processes, device)
    require_trainable(settings, data, processes)
    vocab_size = data.train.info.vocab_size
    if device.type != "cuda" and not under_torchrun():
        require_training_memory(settings, vocab_size, processes, device)
    if processes > 1 and not under_torchrun():
        launch("stages.train", processes)
        return
    with join(device) as world:
        if world.is_main and device.type == "cpu":
            logger.info(describe(torch.get_num_threads()))
        _fit(settings, data, world)


def _fit(settings: Settings, data: Datasets, world: World) -> None:
    """Train in each process of `world`; the main one writes the outs and reports to the tracker.

    The profile of `train.profile_steps` is not an out: it goes to models/profile/ and the tracker.
    """
    vocab_size, device = data.train.info.vocab_size, world.device(settings.device)
    if device.type == "cuda":
        require_training_memory(settings, vocab_size, world.size, device)
    if world.is_main:
        for line in summary(settings, vocab_size, world.size).splitlines():
            logger.info(line)
    model = TransformerLM(settings.model, vocab_size, seed=settings.train.seed)
    identity = fingerprint("train")
    store = ResumeStore(resume_folder(identity), world)
    trace = root() / "models" / "profile" / f"{identity}.json"
    tracked = _open_run(model) if world.is_main else contextlib.nullcontext()
    with store.lock(), tracked as run:
        hooks = Hooks()
        if run:
            samples = watching(run, store.folder, data.train, settings.train.sample_every)
            hooks = Hooks(run.log, trace, run.sync, *samples)
        result = train(model, settings, data, store, hooks)
        weights = world.gathered(plain_state_dict(model))
        if run:
            save_model(MODEL, model, weights)
            _write_results(settings, result, model.num_parameters())
            for path in (TRAIN_CURVE, VALID_CURVE):
                run.artifact(path, "curves")
            run.artifact(PARAMS)
            if settings.train.profile_steps and trace.is_file():
                run.artifact(trace, "profile")
            mark_finished(store.folder)


def _open_run(model: TransformerLM) -> contextlib.AbstractContextManager[Run]:
    return stage_run(
        "train",
        _recorded_sections() | {"model.parameters": model.num_parameters()},
        tags=_data_tags(),
        dataset=Dataset("tokens", sha256_file(TRAIN_TOKENS / INDEX), TRAIN_TOKENS.as_posix()),
        system_metrics=True,
    )


def _write_results(settings: Settings, result: TrainResult, num_parameters: int) -> None:
    """Write the loss curves and the metrics."""
    write_csv(TRAIN_CURVE, result.train)
    write_csv(VALID_CURVE, result.valid)
    steps = result.train[-1]["step"]
    metrics = {
        "steps": steps,
        "tokens": steps * settings.train.batch_size * settings.model.context_length,
        "parameters": num_parameters,
        "train_loss": result.train[-1]["loss"],
        "valid_loss": result.valid_loss,
    }
    write_json(TRAIN_METRICS, metrics)


def _recorded_sections() -> dict[str, Any]:
    """Return, for the tracker, all params that made the model, including those of its data.

    How the model is evaluated, sampled and watched may change without another run.
    """
    sections = without_watching(read_yaml(PARAMS))
    return {name: sections[name] for name in sections if name not in AFTERWARDS}


def _data_tags() -> dict[str, str]:
    """Return DVC's hash of the tokens as a tag; nothing when DVC did not start this stage."""
    if "DVC_STAGE" in os.environ and LOCK.is_file():
        for out in read_yaml(LOCK)["stages"].get("encode", {}).get("outs", []):
            if out["path"] == TRAIN_TOKENS.parent.as_posix():
                return {"data_md5": out["md5"]}
    return {}


if __name__ == "__main__":
    run_stage(main, lower="train.micro_batch_size, train.batch_size or the sizes of the model")
