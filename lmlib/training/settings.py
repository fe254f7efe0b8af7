"""The settings and data of a run, checked before it begins."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from lmlib.data import Order, TokenDataset, Windows
from lmlib.model import ModelParams
from lmlib.optim import OptimParams
from lmlib.params import (
    Bound,
    Count,
    CountOrZero,
    Fraction,
    PositiveOrZero,
    Seed,
    check_bounds,
)
from lmlib.runtime import CompileMode, Runtime, resolve_device, resolve_dtype
from lmlib.training.distributed import Parallel


@dataclass(frozen=True)
class TrainParams:
    """Length, batches, device and intervals of a run: the section `train` of params.yaml.

    One step takes `batch_size` sequences of model.context_length tokens, from `windows` of the text
    in an `order`; see `TokenDataset.batch`. In windows that are `isolated`, no token attends to one
    of another document. Targets that can be copied from the context weigh `copy_weight` at first,
    and in a straight line less, until they weigh as much as all others after `copy_fraction` of the
    steps; see `CopyWeights`. Each of `num_processes` (`auto`: one for each CUDA device) takes an
    equal share of them, `micro_batch_size` at a time (0: all), and holds the whole model
    (`parallel` ddp) or a part of it (fsdp). Intervals are in steps; the last step is always logged,
    validated and checkpointed. A 0 switches off checkpoint_minutes, patience, sample_every and
    profile_steps.
    The residual stream is float32, or, with `residual` dtype, of the dtype of the products. Without
    `deterministic` CUDA may add in another order each time, which is faster, but no run can be
    repeated or resumed to the same bits.
    """

    seed: Seed
    num_steps: Count
    batch_size: Count
    micro_batch_size: CountOrZero
    num_processes: Annotated[
        int | Literal["auto"],
        Bound("from 1 to 1024, or auto", lambda n: n == "auto" or 1 <= n <= 1024),
    ]
    parallel: Parallel
    windows: Windows
    order: Order
    copy_weight: Annotated[float, Bound("from 1 to 1000", lambda x: 1 <= x <= 1000)]
    copy_fraction: Fraction
    overfit_one_batch: bool
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    residual: Literal["float32", "dtype"]
    compile: CompileMode
    deterministic: bool
    log_every: Count
    valid_every: Count
    valid_batches: Count
    checkpoint_every: Count
    checkpoint_minutes: PositiveOrZero
    sample_every: CountOrZero
    patience: CountOrZero
    profile_steps: CountOrZero

    def __post_init__(self) -> None:
        check_bounds(self)
        self.sequences_at_a_time(num_processes=1)

    def sequences_at_a_time(self, num_processes: int) -> int:
        """Return the number of sequences that each process passes through the model at a time.

        Raises ValueError if the sequences of a step cannot be split evenly.
        """
        if self.batch_size % num_processes:
            raise ValueError(
                f"batch_size is {self.batch_size}, not divisible by the {num_processes} processes "
                "of the run; each must take an equal part of a step"
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
class Settings:
    """The sections model, optim and train of params.yaml, checked against each other."""

    model: ModelParams
    optim: OptimParams
    train: TrainParams

    def __post_init__(self) -> None:
        if self.optim.warmup_steps >= self.train.num_steps:
            raise ValueError(
                f"optim.warmup_steps is {self.optim.warmup_steps}, not below train.num_steps, "
                f"{self.train.num_steps}: the learning rate would never reach optim.lr; lower it"
            )

    @property
    def device(self) -> torch.device:
        """The device that `train.device` names; ValueError if this machine does not have it."""
        return resolve_device(self.train.device, "train.device")

    def runtime(self, device: torch.device) -> Runtime:
        """Return the runtime on `device`, in the dtype that `train.dtype` names."""
        return Runtime(device, resolve_dtype(self.train.dtype, device, "train.dtype"))


@dataclass(frozen=True)
class Datasets:
    """The tokens to train on and to validate on, made with the same tokenizer."""

    train: TokenDataset
    valid: TokenDataset

    def __post_init__(self) -> None:
        if self.train.info.tokenizer_sha256 != self.valid.info.tokenizer_sha256:
            raise ValueError(
                f"{self.train.name} and {self.valid.name} were made with different tokenizers; "
                "encode both texts with the same one"
            )


def require_trainable(settings: Settings, data: Datasets, num_processes: int = 1) -> None:
    """Raise ValueError if this machine, data or number of processes does not suit the settings.

    This computes nothing and takes no GPU memory.
    """
    params = settings.train
    device = settings.device
    if params.dtype != "auto":  # auto would ask the GPU, and always finds a dtype
        settings.runtime(device)
    params.sequences_at_a_time(num_processes)
    if params.compile == "graphs" and num_processes > 1:
        raise ValueError(
            f"train.compile is graphs, which records the step of a single process, and there are "
            f"{num_processes}; choose on"
        )
    for dataset in (data.train, data.valid):
        dataset.require_context(settings.model.context_length)
