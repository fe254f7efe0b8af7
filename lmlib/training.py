"""The training loop."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from lmlib.checkpoint import ResumeStore, Row, Rows, Stateful
from lmlib.data import Batch, Order, TokenDataset
from lmlib.device import (
    Environment,
    autocast,
    compiled,
    deterministic,
    keep_freed_memory,
    peak_memory_bytes,
    resolve_device,
    resolve_dtype,
    should_compile,
)
from lmlib.distributed import (
    Parallel,
    SharedLoss,
    averaging,
    replicate,
    shard,
    whole,
)
from lmlib.model import ModelParams, NextTokenLoss, TransformerLM
from lmlib.monitoring.profiling import profiled
from lmlib.monitoring.throughput import Meter
from lmlib.optim import OptimParams, build_optimizer, clip_scale
from lmlib.signals import DeferredSignals, Interrupted
from lmlib.stopping import EarlyStopping, FiniteGuard
from lmlib.validation import sampled_loss

logger = logging.getLogger(__name__)

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainParams:
    """Length, batches, device and rhythm of a training: the section `train` of params.yaml.

    One step takes `batch_size` sequences of model.context_length tokens. Each of `num_processes`
    (`auto`: one for each CUDA device) takes as many of them, `micro_batch_size` at a time (0:
    all), and holds the whole model (`parallel` ddp) or its part of it (fsdp). The rhythms count
    steps; the last step is always logged, validated and checkpointed. A 0 in one of
    checkpoint_minutes, patience and profile_steps switches it off.
    """

    seed: int
    num_steps: int
    batch_size: int
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    compile: Literal["auto", "on", "off", "graphs"]
    log_every: int
    valid_every: int
    valid_batches: int
    checkpoint_every: int
    micro_batch_size: int = 0
    num_processes: int | Literal["auto"] = 1
    parallel: Parallel = "ddp"
    order: Order = "random"
    overfit_one_batch: bool = False
    checkpoint_minutes: float = 0.0
    patience: int = 0
    profile_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "micro_batch_size", "checkpoint_minutes", "patience", "profile_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
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
        if self.num_processes != "auto" and self.num_processes < 1:
            raise ValueError(
                f"num_processes is {self.num_processes}; it must be at least 1, or auto"
            )
        self.sequences_at_a_time(1)

    def sequences_at_a_time(self, num_processes: int) -> int:
        """Return how many sequences pass through the model together, in each process.

        Raises ValueError when the sequences of a step cannot be split so.
        """
        if self.batch_size % num_processes:
            raise ValueError(
                f"batch_size is {self.batch_size}, not divisible by the {num_processes} processes "
                "of the training; each takes an equal part of a step"
            )
        sequences = self.batch_size // num_processes
        if self.micro_batch_size and sequences % self.micro_batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, {sequences} in each process: not divisible by "
                f"micro_batch_size {self.micro_batch_size}; the parts of a step must be of equal "
                "size"
            )
        return self.micro_batch_size or sequences


@dataclass(frozen=True)
class TrainResult:
    """Rows of the loss curves: `train` each log_every steps, `valid` each valid_every steps.

    `valid_loss` is that of the weights the model ends with.
    """

    train: list[Row]
    valid: list[Row]
    valid_loss: float


def require_trainable(
    model_params: ModelParams,
    train_data: TokenDataset,
    valid_data: TokenDataset,
    params: TrainParams,
    optim_params: OptimParams,
    num_processes: int = 1,
) -> None:
    """Raise ValueError when the settings and the data cannot make a training."""
    device = resolve_device(params.device)
    if params.dtype != "auto":  # which asks a GPU, and always finds one
        resolve_dtype(params.dtype, device)
    params.sequences_at_a_time(num_processes)
    if params.compile == "graphs" and params.parallel == "fsdp" and num_processes > 1:
        raise ValueError(
            "train.compile is graphs, which cannot record how fsdp gathers weights; choose on, or "
            "train.parallel: ddp"
        )
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
    trace: Path | None = None,
) -> TrainResult:
    """Fit `model`, in place, to `params.num_steps`, from the newest state in `store` if any.

    A resumed training ends with the bits of an uninterrupted one on the same device and number
    of threads: batches and learning rates are pure functions of the step. With `params.patience`
    it may end early, and ends with the weights of the best validation.

    In a training of several processes all call this, with a store of their common world, and all
    return the same; with fsdp `model` is left sharded.

    `on_step` is called after each step that is logged or validated, in the main process, with the
    number of finished steps and a dict:
        train/loss, optim/lr, optim/grad_norm, optim/param_norm       where it is logged
        train/tokens_per_s, train/mfu, train/memory_mb                where it is logged
        valid/loss                                                    where it is validated
    Losses are in nats per token, grad_norm is taken before clipping, memory_mb is the most used
    so far (10**6 bytes), mfu the share of the device's peak, left out for an unknown device.

    With `params.profile_steps` a profile of so many steps is written to the file `trace`, if
    given.

    Raises Interrupted after SIGINT or SIGTERM, once the state is saved; FloatingPointError when
    the loss or a gradient is not finite: the states saved before that step stay.
    """
    world = store.world
    require_trainable(model.params, train_data, valid_data, params, optim_params, world.size)
    training = Training(model, train_data, valid_data, params, optim_params, store)
    steps = training.steps_left()
    bar = tqdm(
        total=params.num_steps,
        initial=training.step,
        unit="step",
        desc="train",
        disable=not world.is_main,
    )
    profiling = params.profile_steps and world.is_main
    profile = profiled(trace if profiling else None, params.profile_steps)
    order_of_sums = deterministic(training.device)
    writing = store.in_background()
    with bar, order_of_sums, DeferredSignals() as signals, profile as after_step, writing:
        if steps:
            training.begin()
        for step in steps:
            training.take_step()
            metrics: dict[str, float] = {}
            last = step == params.num_steps
            if last or step % params.valid_every == 0:
                metrics |= training.validate()
                last |= training.stopping.exhausted
            if last or step % params.log_every == 0:
                metrics |= training.log()
            if metrics and world.is_main:
                on_step(step, metrics)
                bar.set_postfix({k.split("/")[1]: f"{v:.4g}" for k, v in metrics.items()})
            bar.update()
            after_step()
            interrupted = int(world.max(signals.received or 0))  # by a signal to any of them
            if last or interrupted or training.checkpoint_is_due():
                training.save()
            if last:
                break
            if interrupted:
                logger.info("state saved after step %d; run again to go on", step)
                raise Interrupted(interrupted)
    return training.result()


class Training:
    """The parts of a training, and what a step does with them; `train` is their common use."""

    def __init__(
        self,
        model: TransformerLM,
        train_data: TokenDataset,
        valid_data: TokenDataset,
        params: TrainParams,
        optim_params: OptimParams,
        store: ResumeStore,
    ) -> None:
        self.params, self.optim_params, self.store = params, optim_params, store
        self.world = store.world
        self.parallel = params.parallel if self.world.size > 1 else None
        self.device = self.world.device(resolve_device(params.device))
        self.dtype = resolve_dtype(params.dtype, self.device)
        self.model = model.to(self.device).train()
        self.train_data, self.valid_data = train_data, valid_data
        train_data.to(self.device)

        self.sequences_at_a_time = params.sequences_at_a_time(self.world.size)
        self.next_token_loss: nn.Module = NextTokenLoss(model)
        if self.parallel == "fsdp":
            shard(self.next_token_loss, model.layers, self.device)
        self.optimizer = build_optimizer(model, optim_params, self.dtype)
        # float16 rounds what is below 3e-8 to 0: with the loss, small gradients are scaled up
        self.scaler = GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.guard = FiniteGuard(self.world.mean)
        self.stopping = EarlyStopping(params.patience)
        environment = Environment(self.device, self.dtype)
        environment.values["processes"] = " ".join(
            [str(self.world.size), *filter(None, [self.parallel])]
        )
        self.kept: dict[str, Stateful] = {
            "scaler": self.scaler,
            "stopping": self.stopping,
            "environment": environment,
        }
        self.step = 0  # finished steps
        self.rows: Rows = {"train": [], "valid": []}
        if (saved := store.load(model, self.optimizer, **self.kept)) is not None:
            self.step, self.rows = saved
            logger.info("resuming after step %d of %d", self.step, params.num_steps)
        self.meter = Meter(model, self.device, self.dtype, self.world.size)
        self.last_save = time.monotonic()

    def steps_left(self) -> range:
        """Return the steps to take, counted from 1."""
        last = self.step if self.stopping.exhausted else self.params.num_steps
        if last == self.step:
            logger.info("it was finished before; delete %s to train anew", self.store.folder)
        return range(self.step + 1, last + 1)

    def begin(self) -> None:
        """Compile and replicate the model if wanted, and say what begins."""
        keep_freed_memory(self.device)
        if should_compile(self.params.compile, self.device):
            with self.meter.pause():
                if self.parallel == "fsdp":  # compilers do not see through the gathering between
                    for block in self.model.layers:
                        block.compile(dynamic=False)
                    self._add_gradients(self.next_token_loss, self._batch(1))
                else:
                    self.next_token_loss = compiled(
                        self.next_token_loss,
                        trial=lambda module: self._add_gradients(module, self._batch(1)),
                        graphs=self.params.compile == "graphs",
                    )
                self.optimizer.zero_grad()
        if self.parallel == "ddp":
            with self.meter.pause():
                self.next_token_loss = replicate(self.next_token_loss)
                # DDP groups the gradients by their order in its first backward pass, and sums in
                # groups: let that be none that counts, or a resumed training would add otherwise
                self._add_gradients(self.next_token_loss, self._batch(1))
                self.optimizer.zero_grad()
        logger.info(
            "training %s parameters on %s in %s, steps %d to %d",
            f"{self.model.num_parameters():,}",
            f"{self.world.size} x {self.device.type}" if self.parallel else self.device,
            str(self.dtype).removeprefix("torch."),
            self.step + 1,
            self.params.num_steps,
        )

    def take_step(self) -> None:
        """Update the weights once; raise FloatingPointError when a step was not finite."""
        self.step += 1
        self.lr = self.optim_params.lr_at(self.step, self.params.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_scale"]
        batch = self._batch(1 if self.params.overfit_one_batch else self.step)
        self.loss = self._add_gradients(self.next_token_loss, batch)
        self.scaler.unscale_(self.optimizer)
        max_norm = self.optim_params.max_grad_norm
        self.grad_norm, clip = clip_scale(self.model.parameters(), max_norm)
        # the scaler skips a step whose gradients overflow, and tries the next at half the scale
        may_overflow = self.scaler.get_scale() > 1
        self.guard.note(self.step, self.loss, self.loss if may_overflow else self.grad_norm)
        self.scaler.step(self.optimizer, grad_scale=clip)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.meter.count(batch[0].numel() * self.world.size)

    def _batch(self, step: int) -> Batch:
        """Return the part of this process of the batch of a step."""
        inputs, targets = self.train_data.batch(
            step,
            seed=self.params.seed,
            batch_size=self.params.batch_size,
            context_length=self.model.params.context_length,
            order=self.params.order,
        )
        return self.world.part(inputs), self.world.part(targets)

    def _add_gradients(self, next_token_loss: nn.Module, batch: Batch) -> Tensor:
        """Add the gradients of the mean loss over a batch, part by part; return that loss."""
        size, rows = self.sequences_at_a_time, len(batch[0])
        parts = list(zip(*(ids.split(size) for ids in batch), strict=True))
        total = torch.zeros((), device=self.device)
        for number, (inputs, targets) in enumerate(parts, 1):
            with averaging(next_token_loss, now=number == len(parts)):
                with autocast(self.device, self.dtype):
                    loss = next_token_loss(inputs, targets) * (size / rows)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def log(self) -> dict[str, float]:
        """Add the step to the curve; return what is known of it."""
        self.guard.check()
        row: Row = {
            "step": self.step,
            "loss": self.world.mean(self.loss).item(),
            "lr": self.lr,
            "grad_norm": self.grad_norm.item(),
        }
        self.rows["train"].append(row)
        metrics = {
            "train/loss": row["loss"],
            "optim/lr": self.lr,
            "optim/grad_norm": row["grad_norm"],
            "optim/param_norm": whole(get_total_norm(self.model.parameters())).item(),
            **self.meter.read(),
        }
        if (peak := peak_memory_bytes(self.device)) is not None:
            metrics["train/memory_mb"] = peak / 1e6
        return metrics

    def validate(self) -> dict[str, float]:
        """Add the loss of the validation text to its curve and return it."""
        self.guard.check()
        size = self.sequences_at_a_time * self.world.size
        next_token_loss = self.next_token_loss
        if self.parallel:
            next_token_loss = SharedLoss(next_token_loss, self.world)
        with self.meter.pause(), autocast(self.device, self.dtype):
            loss = sampled_loss(
                next_token_loss,
                self.valid_data.tokens,
                context_length=self.model.params.context_length,
                batch_size=size,
                batches=self.params.valid_batches * self.params.batch_size // size,
            )
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"step {self.step}: the validation loss is {loss}; the states saved before it are "
                "kept. Lower optim.lr or optim.max_grad_norm, or train in float32"
            )
        self.stopping.update(loss, self.model)
        self.rows["valid"].append({"step": self.step, "loss": loss})
        return {"valid/loss": loss}

    def checkpoint_is_due(self) -> bool:
        """Return whether the steps, or the minutes, of a checkpoint have passed."""
        minutes = (time.monotonic() - self.last_save) / 60
        late = 0 < self.params.checkpoint_minutes <= minutes
        if self.params.checkpoint_minutes:
            late = bool(self.world.max(late))
        return late or self.step % self.params.checkpoint_every == 0

    def save(self) -> None:
        """Save the state, unless a step was not finite."""
        self.guard.check()
        with self.meter.pause():
            self.store.save(self.model, self.optimizer, self.step, self.rows, **self.kept)
        self.last_save = time.monotonic()

    def result(self) -> TrainResult:
        """Give the model its final weights; return the curves."""
        valid_loss = self.rows["valid"][-1]["loss"]
        if self.params.patience:
            self.stopping.restore_best(self.model)
            valid_loss = self.stopping.best_loss
        return TrainResult(**self.rows, valid_loss=valid_loss)
