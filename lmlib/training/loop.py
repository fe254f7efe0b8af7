"""The training loop."""

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmlib.model import TransformerLM
from lmlib.monitoring.profiling import profiled
from lmlib.monitoring.progress import progress_bar
from lmlib.training.samples import Text
from lmlib.training.settings import Datasets, Settings, require_trainable
from lmlib.training.signals import DeferredSignals, Interrupted
from lmlib.training.store import ResumeStore
from lmlib.training.trainer import Trainer, TrainResult

logger = logging.getLogger(__name__)

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Hooks:
    """What the main process of a run reports, and where.

    on_step:  called after each step that is logged or validated, with the number of finished
              steps and a dict of
                  loss/train, optim/lr, optim/grad_norm, optim/param_norm     if it is logged
                  performance/tokens_per_s, .../mfu, .../memory_mb            if it is logged
                  loss/valid                                                  if it is validated
              Losses are in nats per token, without train.copy_weight; grad_norm is the norm
              before clipping; memory_mb is the peak so far (10**6 bytes); mfu is a share of the
              device's peak, and is left out for an unknown device.
    trace:    file for a profile of `train.profile_steps` steps; None: no profile
    on_save:  called before a state is saved, which a resumed run relies on
    write:    called each `train.sample_every` steps with the model, to continue a prompt; it must
              use no random numbers but its own. None: no samples
    on_sample:  called after each sample with the newest ones, each with its step
    """

    on_step: OnStep = lambda step, metrics: None
    trace: Path | None = None
    on_save: Callable[[], None] = lambda: None
    write: Callable[[TransformerLM], str] | None = None
    on_sample: Callable[[list[Text]], None] = lambda texts: None


def train(
    model: TransformerLM,
    settings: Settings,
    data: Datasets,
    store: ResumeStore,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Train `model` in place to `train.num_steps`, from the newest state in `store` if any.

    A resumed run ends with the bits of an uninterrupted one on the same device and number of
    threads: batches and learning rates are pure functions of the step. With `train.patience` a run
    may end early, with the weights of the best validation.

    If several processes train, all of them call this, with stores of the same world, and get the
    same result; with fsdp, `model` stays sharded.

    Raises Interrupted after SIGINT or SIGTERM, once the state is saved; FloatingPointError when
    the loss or a gradient is not finite: the states saved before that step are kept.
    """
    require_trainable(settings, data, store.world.size)
    trainer = Trainer(model, settings, data, store)
    hooks = hooks or Hooks()
    with session(trainer, hooks) as report:
        trainer.begin()
        gc.collect()
        gc.freeze()  # what is there now stays: later collections need not look through it
        while not trainer.finished:
            step = trainer.take_step()
            signum = report(trainer.measure(step))
            # before the state is saved, which holds the sample
            if trainer.sample_is_due() and trainer.sample(hooks.write):
                hooks.on_sample(trainer.samples.texts)
            if trainer.finished or signum or trainer.checkpoint_is_due():
                hooks.on_save()
                trainer.save()
            if signum and not trainer.finished:
                if trainer.store.is_saved():
                    logger.info("state saved after step %d; run again to resume", trainer.step)
                raise Interrupted(signum)
    return trainer.result()


@contextlib.contextmanager
def session(trainer: Trainer, hooks: Hooks) -> Iterator[Callable[[dict[str, float]], int]]:
    """Set up what surrounds the steps: progress bar, determinism, signals, profile, writer.

    Yields a function to call with the metrics of each step. It returns the number of the signal
    that any of the processes has received, or 0. Where there is no bar, each validation is logged.
    """
    world, params = trainer.world, trainer.settings.train
    traced = world.is_main and params.profile_steps > 0
    with (
        _thawed_afterwards(),
        progress_bar("train", params.num_steps, "steps", trainer.step, shown=world.is_main) as bar,
        trainer.in_order(),
        DeferredSignals() as signals,
        profiled(hooks.trace if traced else None, params.profile_steps) as profile_step,
        trainer.store.in_background(),
    ):
        losses: dict[str, str] = {}  # the newest

        def report(metrics: dict[str, float]) -> int:
            if metrics and world.is_main:
                hooks.on_step(trainer.step, metrics)
                for name, label in ("loss/train", "loss"), ("loss/valid", "valid"):
                    if name in metrics:
                        losses[label] = f"{metrics[name]:.3f}"
                bar.set_postfix(losses, refresh=False)
                if bar.disable and "loss/valid" in metrics:
                    shown = ", ".join(f"{label} {loss}" for label, loss in sorted(losses.items()))
                    logger.info("step %d of %d: %s", trainer.step, params.num_steps, shown)
            bar.update()
            profile_step()
            return int(world.max(signals.received or 0))

        yield report


@contextlib.contextmanager
def _thawed_afterwards() -> Iterator[None]:
    """After the context, the garbage collector looks through all objects again."""
    try:
        yield
    finally:
        gc.unfreeze()
