"""Optimizer, learning-rate schedules and gradient clipping."""

from lmlib.optim.adamw import AdamW, decay_groups
from lmlib.optim.clip import clip_grad_norm_
from lmlib.optim.params import OptimParams
from lmlib.optim.schedule import warmup_cosine, warmup_linear, warmup_stable_decay

__all__ = [
    "AdamW",
    "OptimParams",
    "clip_grad_norm_",
    "decay_groups",
    "warmup_cosine",
    "warmup_linear",
    "warmup_stable_decay",
]
