"""Stage `train`: fit the Transformer language model.

Params: model, optim, train. Reads: data/tokens/. Writes: models/lm/, models/metrics/,
        models/plots/.
Run:    dvc repro train   (by hand, from the repository root: python -m stages.train)
"""

import csv
import io
from pathlib import Path

from lmlib.checkpoint import ResumeStore, save_model
from lmlib.data import TokenDataset
from lmlib.files import sha256_file, write_atomically, write_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import OptimParams
from lmlib.params import load_params
from lmlib.tracking import Dataset, flatten, open_run
from lmlib.training import TrainParams, require_trainable, train
from stages.cli import run_stage
from stages.fingerprint import fingerprint
from stages.paths import (
    MODEL,
    PARAMS,
    TRAIN_CURVE,
    TRAIN_METRICS,
    TRAIN_TOKENS,
    VALID_CURVE,
    VALID_TOKENS,
    resume_folder,
    spool_folder,
)


def main() -> None:
    """Train to `train.num_steps`; after an interruption, go on from the last saved state."""
    model_params = load_params(PARAMS, "model", ModelParams)
    optim_params = load_params(PARAMS, "optim", OptimParams)
    train_params = load_params(PARAMS, "train", TrainParams)
    train_data = TokenDataset.open(TRAIN_TOKENS)
    valid_data = TokenDataset.open(VALID_TOKENS)
    require_trainable(model_params, train_data, valid_data, train_params, optim_params)
    model = TransformerLM(model_params, train_data.info.vocab_size, seed=train_params.seed)

    identity = fingerprint("train")
    store = ResumeStore(resume_folder(identity))
    with (
        store.lock(),
        open_run(
            "train",
            identity,
            spool=spool_folder(),
            params=flatten({"model": model_params, "optim": optim_params, "train": train_params})
            | {"model.parameters": model.num_parameters()},
            dataset=Dataset("tokens", sha256_file(TRAIN_TOKENS), TRAIN_TOKENS.as_posix()),
            system_metrics=True,
        ) as run,
    ):
        result = train(
            model, train_data, valid_data, train_params, optim_params, store, on_step=run.log
        )
        save_model(MODEL, model)
        _write_csv(TRAIN_CURVE, result.train)
        _write_csv(VALID_CURVE, result.valid)
        metrics = {
            "steps": train_params.num_steps,
            "tokens": train_params.num_steps
            * train_params.batch_size
            * model_params.context_length,
            "parameters": model.num_parameters(),
            "train_loss": result.train[-1]["loss"],
            "valid_loss": result.valid[-1]["loss"],
        }
        write_json(TRAIN_METRICS, metrics)
        run.artifact(TRAIN_CURVE, "curves")
        run.artifact(VALID_CURVE, "curves")
        run.artifact(PARAMS)


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


if __name__ == "__main__":
    run_stage(main)
