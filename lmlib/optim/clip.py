"""Gradient clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lmlib.optim.adamw import FOREACH
from lmlib.sharding import local, whole


@torch.no_grad()
def clip_scale(
    parameters: Iterable[Tensor], max_norm: float, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Return the norm of all gradients, and the factor that makes it at most `max_norm`.

    Both are scalar tensors. `optimizer.step(grad_scale=factor)` clips without a separate pass
    over the gradients, and without waiting for a GPU to report whether it must clip.
    """
    norm = _norm([p.grad for p in parameters if p.grad is not None])
    return norm, torch.where(norm > max_norm, max_norm / (norm + eps), 1.0)


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float, eps: float = 1e-6) -> Tensor:
    """Scale all gradients in place so that their common 2-norm is at most `max_norm`.

    The norm is taken over all gradients together, as if they were one vector. Below `max_norm`
    nothing changes. Parameters without a gradient are skipped. Returns the norm before clipping,
    a scalar of float32 or wider; 0 when there is no gradient. `eps` keeps the clipped norm below
    `max_norm` after rounding.
    """
    parameters = list(parameters)
    norm, scale = clip_scale(parameters, max_norm, eps)
    if scale.is_cuda or scale < 1:  # on a GPU, multiplying by 1 costs less than waiting
        for p in parameters:
            if p.grad is not None:
                local(p.grad).mul_(scale.to(p.grad.device))
    return norm


def _norm(gradients: list[Tensor]) -> Tensor:
    if not gradients:
        return torch.zeros(())
    wide = torch.float32
    for gradient in gradients:
        wide = torch.promote_types(wide, gradient.dtype)
    norms = FOREACH._foreach_norm(gradients, 2, dtype=wide)
    return whole(torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms])))
