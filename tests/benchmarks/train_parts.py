"""Parts of a training step on their own, ours and PyTorch's, over the weights of our model."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from lmlib.model import TransformerLM
from lmlib.optim import build_optimizer, clip_grad_norm_, clip_scale
from tests.benchmarks.train_job import (
    BETAS,
    EPS,
    LR,
    SEED,
    WEIGHT_DECAY,
    Training,
    TrainJob,
)
from tests.benchmarks.train_ours import model_of, optim_params

SHRINK = 0.999  # of the gradients' norm by each clipping, so that each one has them to scale


def prepare(job: TrainJob) -> Callable[[], Training]:
    """Return what makes the weights, their gradients, and the part that works on them."""

    def build() -> Training:
        model = model_of(job)
        generator = torch.Generator(job.device).manual_seed(SEED)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator, device=p.device)
        part = PARTS[job.contender](model)
        version = torch.__version__ if job.contender.endswith("torch") else ""
        return Training(part, lambda: 0.0, model.num_parameters(), version)

    return build


def our_adamw(model: TransformerLM) -> Callable[[], object]:
    """Return what updates all weights, always with the same gradients."""
    return build_optimizer(model, optim_params()).step


def torch_adamw(model: nn.Module) -> Callable[[], object]:
    """Return the same of PyTorch, in one kernel."""
    return torch.optim.AdamW(
        model.parameters(), LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
    ).step


def our_clipping(model: nn.Module) -> Callable[[], object]:
    """Return what clips all gradients, each time to a little less than before."""
    norms = shrinking()
    return lambda: clip_grad_norm_(model.parameters(), next(norms))


def torch_clipping(model: nn.Module) -> Callable[[], object]:
    """Return the same of PyTorch."""
    norms = shrinking()
    return lambda: nn.utils.clip_grad_norm_(model.parameters(), next(norms))


def our_both(model: TransformerLM) -> Callable[[], object]:
    """Return what clips and updates, as the training loop does: the gradients stay as they are."""
    optimizer = build_optimizer(model, optim_params())
    norms = shrinking()

    def step() -> None:
        _, scale = clip_scale(model.parameters(), next(norms))
        optimizer.step(grad_scale=scale)

    return step


def torch_both(model: nn.Module) -> Callable[[], object]:
    """Return what clips, then updates."""
    clip, update = torch_clipping(model), torch_adamw(model)
    return lambda: (clip(), update())


def shrinking() -> Iterator[float]:
    """Yield what to clip at."""
    return (SHRINK**n for n in itertools.count(1))


PARTS: dict[str, Callable[[TransformerLM], Callable[[], object]]] = {
    "adamw-ours": our_adamw,
    "adamw-torch": torch_adamw,
    "clipping-ours": our_clipping,
    "clipping-torch": torch_clipping,
    "both-ours": our_both,
    "both-torch": torch_both,
}
