"""Optimizer, learning-rate schedules and gradient clipping."""

from lmlib.optim.adamw import AdamW, decay_groups
from lmlib.optim.build import build_optimizer
from lmlib.optim.clip import clip_grad_norm_, clip_scale
from lmlib.optim.muon import Muon, newton_schulz
from lmlib.optim.params import OptimParams
from lmlib.optim.schedule import warmup_cosine, warmup_linear, warmup_stable_decay

__all__ = [
    "AdamW",
    "Muon",
    "OptimParams",
    "build_optimizer",
    "clip_grad_norm_",
    "clip_scale",
    "decay_groups",
    "newton_schulz",
    "warmup_cosine",
    "warmup_linear",
    "warmup_stable_decay",
]
