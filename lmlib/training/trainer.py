"""The parts of a run, and what one step does with them."""

import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import get_total_norm

from lmlib.checkpoint import plain_state_dict
from lmlib.errors import describe
from lmlib.memory import is_out_of_memory
from lmlib.model import NextTokenLoss, TransformerLM, documents_of, flops_per_token
from lmlib.monitoring.throughput import Meter
from lmlib.optim import Muon, build_optimizer, clip_scale
from lmlib.runtime import allow_spaces_in_paths
from lmlib.sharding import whole
from lmlib.training.copying import CopyWeights, copy_weight_at
from lmlib.training.distributed import SharedLoss, averaging, replicate, shard
from lmlib.training.samples import Samples, as_evaluated
from lmlib.training.settings import Datasets, Settings
from lmlib.training.stopping import EarlyStopping, FiniteGuard, require_finite
from lmlib.training.store import Environment, ResumeStore, Row, Rows, Stateful
from lmlib.training.validation import sampled_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """Rows of the loss curves: `train` each log_every steps, `valid` each valid_every steps.

    `valid_loss` is that of the final weights.
    """

    train: list[Row]
    valid: list[Row]
    valid_loss: float


@dataclass(frozen=True)
class Step:
    """What a step computed.

    loss:       on this process's part of the batch, in nats per token, each with weight 1
    lr:         the learning rate of the schedule
    grad_norm:  of all gradients together, before clipping
    """

    loss: Tensor
    lr: float
    grad_norm: Tensor


class Trainer:
    """A run with its model, optimizer, data and states; `train` loops over its steps."""

    def __init__(
        self, model: TransformerLM, settings: Settings, data: Datasets, store: ResumeStore
    ) -> None:
        self.settings, self.data, self.store = settings, data, store
        self.world = store.world
        self.parallel = settings.train.parallel if self.world.size > 1 else None
        self.runtime = settings.runtime(self.world.device(settings.device))
        self.model = model.to(self.runtime.device).train()
        if settings.train.residual == "dtype":
            self.model.residual_dtype = self.runtime.dtype
        data.train.to(self.runtime.device)

        self.sequences_at_a_time = settings.train.sequences_at_a_time(self.world.size)
        self.next_token_loss: nn.Module = NextTokenLoss(model)
        if self.parallel == "fsdp":
            shard(self.next_token_loss, model.layers, self.runtime.device, self.runtime.dtype)
        self.optimizer = build_optimizer(model, settings.optim, self.runtime.dtype)
        if isinstance(self.optimizer, Muon):
            self.optimizer.divided = self.parallel == "ddp"
        # float16 rounds gradients below 3e-8 to 0; scaling the loss scales them up
        is_float16 = self.runtime.dtype == torch.float16
        self.scaler = GradScaler(self.runtime.device.type, enabled=is_float16)
        self.guard = FiniteGuard(self.world.mean)
        self.stopping = EarlyStopping(settings.train.patience)
        self.samples = Samples()
        processes = " ".join([str(self.world.size), *filter(None, [self.parallel])])
        environment = self.runtime.environment() | {"processes": processes}
        self.kept: dict[str, Stateful] = {
            "scaler": self.scaler,
            "stopping": self.stopping,
            "samples": self.samples,
            "environment": Environment(environment),
        }
        self.step = 0  # finished steps
        self.rows: Rows = {"train": [], "valid": []}
        if (saved := store.load(model, self.optimizer, **self.kept)) is not None:
            self.step, self.rows = saved
            logger.info("resuming after step %d of %d", self.step, settings.train.num_steps)
        self.separator_id: int | None = None  # of the documents to isolate
        if settings.train.windows == "isolated":
            self.separator_id = data.train.info.separator_id
        self.copy_weights: CopyWeights | None = None
        if settings.train.copy_weight > 1:
            self.copy_weights = CopyWeights.of(data.train, self.runtime.device)
        self.meter = Meter(model, self.runtime.device, self.runtime.dtype, self.world.size)
        self.last_save = time.monotonic()
        self._may_record, self._is_warm = False, False
        self._launch: Callable[[], tuple[Tensor, ...]] | None = None
        self._recorded_batch: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Return whether all steps are done, or patience has run out."""
        return self.step >= self.settings.train.num_steps or self.stopping.exhausted

    def in_order(self) -> AbstractContextManager[None]:
        """Return a context in which CUDA adds in a fixed order, unless the settings say not to."""
        if self.settings.train.deterministic:
            return self.runtime.deterministic()
        return contextlib.nullcontext()

    def begin(self) -> None:
        """Compile and replicate the model if the settings say so, and log the start of the run."""
        if self.finished:
            logger.info("the run is already finished; delete %s to repeat it", self.store.folder)
            return
        self.runtime.keep_freed_memory()
        with self.meter.pause():
            self._compile()
            if self.parallel == "ddp":
                self.next_token_loss = replicate(self.next_token_loss)
                # DDP fixes its gradient buckets in the first backward pass. Do a throwaway one
                # first, so that a resumed run buckets, and rounds, the same way.
                self._rehearse(self.next_token_loss)
        device = self.runtime.device
        logger.info(
            "training %s parameters on %s in %s, steps %d to %d",
            f"{self.model.num_parameters():,}",
            f"{self.world.size} x {device.type}" if self.parallel else device,
            str(self.runtime.dtype).removeprefix("torch."),
            self.step + 1,
            self.settings.train.num_steps,
        )

    def _compile(self) -> None:
        mode, operations = self.settings.train.compile, self._operations()
        if self.parallel == "fsdp":
            if not self.runtime.should_compile(mode, operations):
                return
            allow_spaces_in_paths()
            logger.info("compiling the model, which can take a minute")
            for block in self.model.layers:  # the gathering in between cannot be traced
                block.compile(dynamic=False)
            if isinstance(self.next_token_loss, NextTokenLoss):  # sharded, it is still one
                self.next_token_loss.compile_loss()
            self._rehearse(self.next_token_loss)
        else:
            plain = self.next_token_loss
            self.next_token_loss = self.runtime.compile(plain, self._rehearse, mode, operations)
            if self.next_token_loss is plain:
                return
        if self.runtime.device.type == "cuda":  # on a CPU our own kernels do it
            self.optimizer.compile()
            self._may_record = mode == "graphs" and not self.scaler.is_enabled()
        if mode == "graphs" and not self._may_record:
            logger.warning(
                "a step of %s on %s cannot be recorded as a CUDA graph: training as with "
                "compile: on",
                str(self.runtime.dtype).removeprefix("torch."),
                self.runtime.device,
            )

    def _operations(self) -> float:
        """Return the floating-point operations of the whole run, resumed or not, by a process."""
        model, params = self.model, self.settings.train
        tokens = params.num_steps * params.batch_size * model.params.context_length
        per_token = flops_per_token(model.params, model.vocab_size)
        return tokens * per_token / self.world.size

    def _rehearse(self, next_token_loss: nn.Module) -> None:
        """Do a forward and backward pass of the first batch, and drop its gradients."""
        try:
            self._add_gradients(next_token_loss, self._batch(1))
        finally:
            self.optimizer.zero_grad()

    def take_step(self) -> Step:
        """Update the weights once; raise FloatingPointError if a step was not finite."""
        self.step += 1
        optim, params = self.settings.optim, self.settings.train
        lr = optim.lr_at(self.step, params.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        batch = self._batch(1 if params.overfit_one_batch else self.step)
        if self._may_record and self._is_warm and self.optimizer.compiled:
            loss, grad_norm = self._recorded_update(batch)
        else:
            loss, grad_norm = self._update(batch)
            self._is_warm = True
        self.meter.count(batch["inputs"].numel() * self.world.size)
        return Step(loss, lr, grad_norm)

    def _update(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Update the weights; return the loss and the norm of the gradients."""
        loss = self._add_gradients(self.next_token_loss, batch)
        self.scaler.unscale_(self.optimizer)
        grad_norm, clip = self._clip()
        # the scaler skips a step whose gradients overflow, and halves the scale for the next
        may_overflow = self.scaler.get_scale() > 1
        self.guard.note(self.step, loss, loss if may_overflow else grad_norm)
        self.scaler.step(self.optimizer, grad_scale=clip)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss, grad_norm

    def _recorded_update(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Do what `_update` does by launching a step that is recorded at the first call.

        The step reads its batch, the numbers of the optimizer and the weights from the same memory
        each time, and writes its gradients to the same memory, which is why they are kept.
        """
        if self._launch is None:
            self._recorded_batch = {name: x.clone() for name, x in batch.items()}
            try:
                self._launch = self.runtime.record(self._recordable_update)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                logger.warning("a step cannot be recorded as a CUDA graph (%s)", describe(error))
                self._may_record = False
                self.optimizer.zero_grad()
                return self._update(batch)
        else:
            for name, x in batch.items():
                self._recorded_batch[name].copy_(x)
        self.optimizer.advance()
        loss, grad_norm = self._launch()
        self.guard.note(self.step, loss, grad_norm)
        return loss.clone(), grad_norm.clone()

    def _recordable_update(self) -> tuple[Tensor, Tensor]:
        loss = self._add_gradients(self.next_token_loss, self._recorded_batch)
        grad_norm, clip = self._clip()
        self.optimizer.update(clip)
        return loss, grad_norm

    def _clip(self) -> tuple[Tensor, Tensor]:
        """Return the norm of the gradients, and the factor that clips them."""
        return clip_scale(self.model.parameters(), self.settings.optim.max_grad_norm)

    def _batch(self, step: int) -> dict[str, Tensor]:
        """Return this process's part of a step's batch: the arguments of `NextTokenLoss`."""
        params = self.settings.train
        inputs, targets = self.data.train.batch(
            step,
            seed=params.seed,
            batch_size=params.batch_size,
            context_length=self.settings.model.context_length,
            order=params.order,
            windows=params.windows,
        )
        batch = {"inputs": inputs, "targets": targets}
        if self.separator_id is not None:
            batch["documents"] = documents_of(inputs, self.separator_id)
        if self.copy_weights:
            weight = copy_weight_at(
                step, params.num_steps, params.copy_weight, params.copy_fraction
            )
            batch["weights"] = self.copy_weights(inputs, targets, weight, self.separator_id)
        # contiguous, as a recorded step keeps them: compiled code is for one layout
        return {name: self.world.part(rows).contiguous() for name, rows in batch.items()}

    def _add_gradients(self, next_token_loss: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Add the gradients of the mean loss over a batch, part by part.

        Returns that loss without the weights of tokens, which compares with the validation loss.
        """
        size, rows = self.sequences_at_a_time, len(batch["inputs"])
        total = torch.zeros((), device=self.runtime.device)
        for first in range(0, rows, size):
            part = {name: x[first : first + size] for name, x in batch.items()}
            with averaging(next_token_loss, now=first + size >= rows):
                with self.runtime.autocast():
                    loss, unweighted = next_token_loss(**part)
                    loss = loss * (size / rows)
                self.scaler.scale(loss).backward()
            total += unweighted * (size / rows)
        return total

    def measure(self, step: Step) -> dict[str, float]:
        """Validate and log the step if due; return the metrics, which are empty if neither is."""
        params = self.settings.train
        metrics: dict[str, float] = {}
        if self.finished or self.step % params.valid_every == 0:
            metrics |= self.validate()  # which may finish the run
        if self.finished or self.step % params.log_every == 0:
            metrics |= self.log(step)
        return metrics

    def log(self, step: Step) -> dict[str, float]:
        """Add the step to the training curve; return its metrics."""
        self.guard.check()
        row: Row = {
            "step": self.step,
            "loss": self.world.mean(step.loss).item(),
            "lr": step.lr,
            "grad_norm": step.grad_norm.item(),
        }
        self.rows["train"].append(row)
        metrics = {
            "loss/train": row["loss"],
            "optim/lr": step.lr,
            "optim/grad_norm": row["grad_norm"],
            "optim/param_norm": whole(get_total_norm(self.model.parameters())).item(),
            **self.meter.read(),
        }
        if (peak := self.runtime.peak_memory_bytes()) is not None:
            metrics["performance/memory_mb"] = peak / 1e6
        return metrics

    def validate(self) -> dict[str, float]:
        """Add the validation loss to its curve and return it."""
        self.guard.check()
        params, size = self.settings.train, self.sequences_at_a_time * self.world.size
        next_token_loss = self.next_token_loss
        if self.parallel:
            next_token_loss = SharedLoss(next_token_loss, self.world)
        with self.meter.pause(), self.runtime.autocast():
            loss = sampled_loss(
                next_token_loss,
                self.data.valid.tokens,
                context_length=self.settings.model.context_length,
                batch_size=size,
                batches=params.valid_batches * params.batch_size // size,
                starts=self.data.valid.starts(self.settings.model.context_length, params.windows),
                separator_id=self.separator_id,
            )
        require_finite(self.step, "the validation loss", loss)
        self.stopping.update(loss, self.model)
        self.rows["valid"].append({"step": self.step, "loss": loss})
        return {"loss/valid": loss}

    def sample_is_due(self) -> bool:
        """Return whether to continue a prompt after this step."""
        every = self.settings.train.sample_every
        return every > 0 and self.step % every == 0

    def sample(self, write: Callable[[TransformerLM], str] | None) -> bool:
        """Let the main process call `write` with the model as it is now; return whether it did.

        All processes call this. The run's weights and random numbers stay as they are, and a text
        that cannot be written is a warning.
        """
        self.guard.check()
        model = self.model
        with self.meter.pause():
            if self.parallel == "fsdp":  # a copy on the CPU: the GPU may have no room for all
                weights = self.world.gathered(plain_state_dict(self.model))
                if self.world.is_main:
                    model = TransformerLM(self.settings.model, self.model.vocab_size)
                    model.load_state_dict(weights)
            if not self.world.is_main or write is None:
                return False
            try:
                with as_evaluated(model):
                    self.samples.add(self.step, write(model))
            except (FloatingPointError, MemoryError, RuntimeError) as error:
                if not isinstance(error, FloatingPointError) and not is_out_of_memory(error):
                    raise
                logger.warning("no sample after step %d: %s", self.step, describe(error))
                return False
        return True

    def checkpoint_is_due(self) -> bool:
        """Return whether a checkpoint is due, by steps or by minutes."""
        params = self.settings.train
        minutes = (time.monotonic() - self.last_save) / 60
        late = 0 < params.checkpoint_minutes <= minutes
        if params.checkpoint_minutes:
            late = bool(self.world.max(late))
        return late or self.step % params.checkpoint_every == 0

    def save(self) -> None:
        """Save the state, unless a step was not finite."""
        self.guard.check()
        with self.meter.pause():
            self.store.save(self.model, self.optimizer, self.step, self.rows, **self.kept)
        self.last_save = time.monotonic()

    def result(self) -> TrainResult:
        """Give the model its final weights and the dtypes that it had; return the curves."""
        self.model.residual_dtype = None
        valid_loss = self.rows["valid"][-1]["loss"]
        if self.settings.train.patience:
            self.stopping.restore_best(self.model)
            valid_loss = self.stopping.best_loss
        return TrainResult(**self.rows, valid_loss=valid_loss)
