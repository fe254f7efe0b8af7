"""Gradient clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float, eps: float = 1e-6) -> Tensor:
    """Scale all gradients in place so that their common 2-norm is at most `max_norm`.

    The norm is one over all gradients together, as if they were one vector. Below `max_norm`
    nothing changes. Parameters without a gradient are skipped. Returns the norm before clipping,
    a scalar of float32 or wider; 0 when there is no gradient. `eps` keeps the clipped norm below
    `max_norm` after rounding.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32))
        for g in gradients
    ]
    norm = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    if norm > max_norm:
        scale = max_norm / (norm + eps)
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))
    return norm
