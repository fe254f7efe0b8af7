"""Training a model: the loop, its settings, the states it resumes from, several processes."""

from lmlib.training.loop import Hooks, Step, Trainer, TrainResult, train
from lmlib.training.settings import Datasets, Settings, TrainParams, require_trainable
from lmlib.training.signals import Interrupted
from lmlib.training.store import ResumeStore

__all__ = [
    "Datasets",
    "Hooks",
    "Interrupted",
    "ResumeStore",
    "Settings",
    "Step",
    "TrainParams",
    "TrainResult",
    "Trainer",
    "require_trainable",
    "train",
]
