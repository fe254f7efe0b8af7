"""What a contender of the training benchmark is asked to do.

Imported by the peers' interpreter too, which has torch but need not have what lmlib imports.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

SEED = 1  # of weights and batches
LR, BETAS, EPS, WEIGHT_DECAY = 1e-4, (0.9, 0.95), 1e-8, 0.1
MAX_GRAD_NORM = 1.0
LOG_EVERY = 10  # steps between two readings of the loss, and one at the end


@dataclass(frozen=True)
class TrainJob:
    """A model and its batches.

    contender   FAMILY-MODE-PRECISION, as in ours-compiled-bf16, with -anyorder where a GPU may add
                in any order, as peers let it; PART-OWNER for a part of a step
    tokens      .npy of uint16
    device      what torch.device takes
    """

    contender: str
    tokens: str
    device: str
    batch_size: int
    context_length: int
    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int

    @property
    def family(self) -> str:
        """Return whose model it is."""
        return self.contender.split("-")[0]

    @property
    def way(self) -> str:
        """Return how it is trained, as in compiled-bf16."""
        return self.contender.partition("-")[2]

    @property
    def compiled(self) -> bool:
        """Return whether torch.compile is to be used."""
        return "compiled" in self.contender

    @property
    def deterministic(self) -> bool:
        """Return whether a GPU is to add in a fixed order."""
        return "anyorder" not in self.contender

    @property
    def bf16(self) -> bool:
        """Return whether matrix products are to run in bfloat16."""
        return "bf16" in self.contender


class Training(NamedTuple):
    """A model ready to be trained.

    take_step           takes one whole step, which the device may still be at when it returns
    loss                reads the loss of the last step, in nats, as for a log
    weights             how many are trained, tied ones counted once
    version             of the package it is from
    flops_per_token     floating-point operations of a token in a step; 0: not known
    """

    take_step: Callable[[], object]
    loss: Callable[[], float]
    weights: int
    version: str = ""
    flops_per_token: int = 0


# imports what is needed first; what it returns makes the model
Prepare = Callable[[TrainJob], Callable[[], Training]]
