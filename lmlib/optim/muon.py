"""Muon: orthogonalised momentum."""

import math
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lmlib.optim.adamw import FOREACH, AdamW
from lmlib.sharding import local, shard_like, whole_like

# Elements of the matrices orthogonalised at once: enough to keep a device busy.
BATCH = 1 << 24


class Muon(AdamW):
    """Muon for the parameter groups with a `momentum`, AdamW for those without.

        m = momentum m + (1 - momentum) g                u = momentum m + (1 - momentum) g
        p = p - lr * weight_decay * p
        p = p - lr * 0.2 sqrt(max(rows, columns)) * newton_schulz(u)

    The first line is Nesterov's momentum. An orthogonal matrix times 0.2 sqrt(max(rows,
    columns)) has entries of root mean square 0.2, about that of AdamW's updates, so both need
    similar learning rates and decays. State: m only.

    dtype:   of the matrix products in the Newton-Schulz iteration; bfloat16 is enough.
    Source:  Jordan 2024, https://kellerjordan.github.io/posts/muon/; the factor 0.2 sqrt(max) and
             the decay: Liu et al. 2025, arXiv:2502.16982.
    """

    dtype: torch.dtype = torch.float32

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, by default without momentum; raise ValueError if Muon cannot update it."""
        momentum = param_group.setdefault("momentum", None)
        super().add_param_group(param_group)
        if momentum is None:
            return
        if not 0 <= momentum < 1:
            raise ValueError(f"Muon: momentum is {momentum}; it must be in [0, 1)")
        for p in param_group["params"]:
            if p.ndim != 2:
                raise ValueError(
                    f"Muon: a parameter has shape {tuple(p.shape)}; only matrices can be "
                    "orthogonalised: put it in a group without momentum"
                )

    def _update(self, group: dict[str, Any], grad_scale: Tensor | None) -> None:
        momentum = group["momentum"]
        if momentum is None:
            super()._update(group, grad_scale)
            return
        by_shape: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[(*p.shape, p.dtype, p.device)].append(p)
        for matrices in by_shape.values():
            size = max(1, BATCH // matrices[0].numel())
            for start in range(0, len(matrices), size):
                self._orthogonal_step(matrices[start : start + size], group, grad_scale)

    def _orthogonal_step(
        self, matrices: list[Tensor], group: dict[str, Any], grad_scale: Tensor | None
    ) -> None:
        """Update matrices of one shape, dtype and device."""
        for p in matrices:
            if not self.state[p]:
                self.state[p]["m"] = torch.zeros_like(p)
        m = [local(self.state[p]["m"]) for p in matrices]
        g = [local(p.grad) for p in matrices if p.grad is not None]
        if grad_scale is not None:
            g = FOREACH._foreach_mul(g, grad_scale.to(g[0]))
        FOREACH._foreach_lerp_(m, g, 1 - group["momentum"])
        u = FOREACH._foreach_lerp(g, m, group["momentum"])
        u = torch.stack([whole_like(x, p) for x, p in zip(u, matrices, strict=True)])
        orthogonal = newton_schulz(u.to(self.dtype)).to(u.dtype)
        scale = 0.2 * math.sqrt(max(matrices[0].shape))
        parts = [local(shard_like(x, p)) for x, p in zip(orthogonal, matrices, strict=True)]
        weights = [local(p) for p in matrices]
        FOREACH._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        FOREACH._foreach_add_(weights, parts, alpha=-group["lr"] * scale)


def newton_schulz(
    matrices: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, "batch rows columns"]:
    """Return the matrices with the same singular vectors and with singular values near 1.

    The matrices are scaled to Frobenius norm 1. Five steps X = a X + b (X X^T) X + c (X X^T)^2 X
    then map each singular value s to a s + b s**3 + c s**5: values of at least 0.002 end in
    [0.68, 1.21]; 0 stays 0.

    Source:  Jordan 2024, with its coefficients: they leave 0 fast rather than being exact near 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices  # a small X X^T
    X = X / (torch.linalg.matrix_norm(X, keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if matrices.shape[1] > matrices.shape[2] else X
