"""The training loop."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from tqdm import tqdm

from lmlib.checkpoint import ResumeStore, Row, Rows
from lmlib.data import TokenDataset
from lmlib.device import autocast, deterministic, resolve_device, resolve_dtype, should_compile
from lmlib.evaluation import sampled_loss
from lmlib.functional import cross_entropy
from lmlib.model import ModelParams, TransformerLM
from lmlib.optim import AdamW, OptimParams, clip_grad_norm_, decay_groups
from lmlib.signals import DeferredSignals, Interrupted

logger = logging.getLogger(__name__)

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainParams:
    """Length, batches, device and rhythm of a training: the section `train` of params.yaml.

    One step takes `batch_size` sequences of model.context_length tokens. The rhythms count steps;
    the last step is always logged, validated and checkpointed.
    """

    seed: int
    num_steps: int
    batch_size: int
    device: str
    dtype: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "on", "off"]
    log_every: int
    valid_every: int
    valid_batches: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        for name in (
            "num_steps",
            "batch_size",
            "log_every",
            "valid_every",
            "valid_batches",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class TrainResult:
    """Rows of the loss curves: `train` each log_every steps, `valid` each valid_every steps."""

    train: list[Row]
    valid: list[Row]


def require_trainable(
    model_params: ModelParams,
    train_data: TokenDataset,
    valid_data: TokenDataset,
    params: TrainParams,
    optim_params: OptimParams,
) -> None:
    """Raise ValueError when the settings and the data cannot make a training."""
    resolve_device(params.device)
    train_data.require_context(model_params.context_length)
    valid_data.require_context(model_params.context_length)
    if train_data.info.tokenizer_sha256 != valid_data.info.tokenizer_sha256:
        raise ValueError(
            f"{train_data.name} and {valid_data.name} were made with two tokenizers; run "
            "`dvc repro -f encode`"
        )
    if optim_params.warmup_steps >= params.num_steps:
        raise ValueError(
            f"optim.warmup_steps is {optim_params.warmup_steps}, not below train.num_steps, "
            f"{params.num_steps}: the learning rate would never reach optim.lr; lower it"
        )


def train(
    model: TransformerLM,
    train_data: TokenDataset,
    valid_data: TokenDataset,
    params: TrainParams,
    optim_params: OptimParams,
    store: ResumeStore,
    on_step: OnStep = lambda step, metrics: None,
) -> TrainResult:
    """Fit `model`, in place, to `params.num_steps`, from the newest state in `store` if any.

    A resumed training ends with the bits of an uninterrupted one on the same device and number
    of threads: batches and learning rates are pure functions of the step.

    `on_step` is called after each step that is logged or validated, with the number of finished
    steps and a dict:
        train/loss, optim/lr, optim/grad_norm, train/tokens_per_s     where it is logged
        valid/loss                                                    where it is validated
    Losses are in nats per token, grad_norm is taken before clipping.

    Raises Interrupted after SIGINT or SIGTERM, once the state is saved; FloatingPointError when
    the loss or a gradient is not finite: the states saved before that step stay.
    """
    require_trainable(model.params, train_data, valid_data, params, optim_params)
    device = resolve_device(params.device)
    dtype = resolve_dtype(params.dtype, device)
    context_length = model.params.context_length

    model.to(device)
    optimizer = AdamW(
        decay_groups(model, optim_params.weight_decay),
        lr=optim_params.lr,
        betas=optim_params.betas,
        eps=optim_params.eps,
    )
    rows: Rows = {"train": [], "valid": []}
    first_step = 0
    if (saved := store.load(model, optimizer)) is not None:
        first_step, rows = saved
        logger.info("resuming after step %d of %d", first_step, params.num_steps)
        if first_step == params.num_steps:
            logger.info("it was finished before; delete %s to train anew", store.folder)
    forward = _compiled(model) if should_compile(params.compile, device) else model
    logger.info(
        "training %s parameters on %s in %s, steps %d to %d",
        f"{model.num_parameters():,}",
        device,
        str(dtype).removeprefix("torch."),
        first_step + 1,
        params.num_steps,
    )
    model.train()
    meter = _Meter(params.batch_size * context_length, first_step)
    bar = tqdm(total=params.num_steps, initial=first_step, unit="step", desc="train")
    with bar, deterministic(device), DeferredSignals() as signals:
        for step in range(first_step + 1, params.num_steps + 1):
            lr = optim_params.lr_at(step, params.num_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            inputs, targets = train_data.batch(
                step, seed=params.seed, batch_size=params.batch_size, context_length=context_length
            )
            with autocast(device, dtype):
                loss = cross_entropy(forward(inputs.to(device)), targets.to(device))
            loss.backward()
            grad_norm = clip_grad_norm_(model.parameters(), optim_params.max_grad_norm)
            _require_finite(step, loss=loss.item(), grad_norm=grad_norm.item())
            optimizer.step()
            optimizer.zero_grad()

            last = step == params.num_steps
            metrics: dict[str, float] = {}
            if last or step % params.log_every == 0:
                row: Row = {
                    "step": step,
                    "loss": loss.item(),
                    "lr": lr,
                    "grad_norm": grad_norm.item(),
                }
                rows["train"].append(row)
                metrics |= {"train/loss": row["loss"], "optim/lr": lr}
                metrics |= {"optim/grad_norm": row["grad_norm"]}
                metrics |= {"train/tokens_per_s": meter.tokens_per_s(step)}
            if last or step % params.valid_every == 0:
                with autocast(device, dtype), meter.pause():
                    valid_loss = sampled_loss(
                        forward,
                        valid_data.tokens,
                        context_length=context_length,
                        batch_size=params.batch_size,
                        batches=params.valid_batches,
                    )
                rows["valid"].append({"step": step, "loss": valid_loss})
                metrics |= {"valid/loss": valid_loss}
            if metrics:
                on_step(step, metrics)
                bar.set_postfix({k.split("/")[1]: f"{v:.4g}" for k, v in metrics.items()})
            bar.update()
            stopping = signals.received is not None
            if last or stopping or step % params.checkpoint_every == 0:
                with meter.pause():
                    store.save(model, optimizer, step, rows)
            if stopping and not last:
                logger.info("state saved after step %d; run again to go on", step)
                raise Interrupted(signals.received or 0)
    return TrainResult(**rows)


def _compiled(model: nn.Module) -> nn.Module:
    """Return the compiled model; its first call takes a while, and says so."""
    logger.info("compiling the model (train.compile: off does without)")
    return torch.compile(model)  # type: ignore[return-value]


def _require_finite(step: int, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"step {step}: {name} is {value}; the states saved before it are kept. Lower "
                "optim.lr or optim.max_grad_norm, or train in float32"
            )


class _Meter:
    """Tokens per second of the training steps alone: pauses do not count."""

    def __init__(self, tokens_per_step: int, first_step: int) -> None:
        self.tokens_per_step = tokens_per_step
        self.start = time.perf_counter()
        self.step = first_step

    def tokens_per_s(self, step: int) -> float:
        """Return the rate since the last call, which was at an earlier step."""
        now = time.perf_counter()
        rate = (step - self.step) * self.tokens_per_step / (now - self.start)
        self.start, self.step = now, step
        return rate

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time within `with` out."""
        begin = time.perf_counter()
        yield
        self.start += time.perf_counter() - begin
