"""The training of this project as a contender: what `lmlib.training.train` does in its loop.

The loss is read as that loop reads it for the log, norm of the weights and memory included.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lmlib.data import TokenDataset
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM, flops_per_token
from lmlib.optim import OptimParams
from lmlib.tokens import TokenInfo
from lmlib.training import Datasets, ResumeStore, Settings, Step, Trainer, TrainParams
from tests.benchmarks.train_job import (
    BETAS,
    EPS,
    LOG_EVERY,
    LR,
    MAX_GRAD_NORM,
    SEED,
    WEIGHT_DECAY,
    Training,
    TrainJob,
)

NUM_STEPS = 1_000_000  # of the training whose first steps are measured


def prepare(job: TrainJob) -> Callable[[], Training]:
    """Return what makes our model and optimizer; raise RuntimeError where it cannot compile."""
    tokens = np.load(job.tokens, mmap_mode="r")
    data = TokenDataset(tokens, TokenInfo(len(tokens), job.vocab_size, "", 1, 1))
    params = TrainParams(
        seed=SEED,
        num_steps=NUM_STEPS,
        batch_size=job.batch_size,
        micro_batch_size=0,
        num_processes=1,
        parallel="ddp",
        windows="any",
        order="random",
        copy_weight=1.0,
        copy_fraction=0.0,
        overfit_one_batch=False,
        device=job.device,
        dtype="bfloat16" if job.bf16 else "float32",
        residual="float32",
        compile="on" if job.compiled else "off",
        deterministic=job.deterministic,
        log_every=LOG_EVERY,
        valid_every=NUM_STEPS,
        valid_batches=1,
        checkpoint_every=NUM_STEPS,
        checkpoint_minutes=0.0,
        sample_every=0,
        patience=0,
        profile_steps=0,
    )
    settings = Settings(model_params(job), optim_params(), params)
    store = ResumeStore(Path(job.tokens).with_name("states"))  # which stays empty

    def build() -> Training:
        model = model_of(job)
        trainer = Trainer(model, settings, Datasets(data, data), store)
        with trainer.in_order():
            trainer.begin()
        if job.compiled and isinstance(trainer.next_token_loss, NextTokenLoss):
            raise RuntimeError("the model could not be compiled")

        last: list[Step] = []

        def take_step() -> None:
            with trainer.in_order():
                last[:] = [trainer.take_step()]

        return Training(
            take_step,
            lambda: trainer.log(last[0])["loss/train"],
            model.num_parameters(),
            flops_per_token=flops_per_token(model.params, model.vocab_size),
        )

    return build


def model_params(job: TrainJob) -> ModelParams:
    """Return the shape of our model."""
    return ModelParams(
        context_length=job.context_length,
        d_model=job.d_model,
        num_layers=job.num_layers,
        num_heads=job.num_heads,
        d_ff=job.d_ff,
    )


def model_of(job: TrainJob) -> TransformerLM:
    """Return our model, on the device."""
    return TransformerLM(model_params(job), job.vocab_size, seed=SEED).to(job.device)


def optim_params() -> OptimParams:
    """Return the settings of our optimizer, those of the peers."""
    return OptimParams(
        name="adamw",
        lr=LR,
        betas=BETAS,
        eps=EPS,
        weight_decay=WEIGHT_DECAY,
        schedule="constant",
        warmup_steps=0,
        min_lr_fraction=1.0,
        decay_fraction=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        muon_lr=LR,
        muon_momentum=0.95,
    )
