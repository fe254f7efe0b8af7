"""Training a model: the loop, its settings, resume states, several processes."""

from lmlib.training.loop import Hooks, train
from lmlib.training.memory import require_training_memory
from lmlib.training.settings import Datasets, Settings, TrainParams, require_trainable
from lmlib.training.signals import Interrupted
from lmlib.training.store import ResumeStore
from lmlib.training.trainer import Step, Trainer, TrainResult

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
    "require_training_memory",
    "train",
]
