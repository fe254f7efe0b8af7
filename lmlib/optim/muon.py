"""Muon: orthogonalised momentum."""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from lmlib.optim.adamw import FOREACH, AdamW, Numbers, Tensors, add, interpolate, scaled
from lmlib.sharding import divided, divided_shards, is_sharded, local

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
    divided: the processes of torch.distributed have the same weights and gradients (DDP), so each
             orthogonalises its share of the matrices and gets the others'. They do so with
             sharded matrices (FSDP), too.
    Source:  Jordan 2024, https://kellerjordan.github.io/posts/muon/; the factor 0.2 sqrt(max) and
             the decay: Liu et al. 2025, arXiv:2502.16982.
    """

    dtype: torch.dtype = torch.float32
    divided: bool = False

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

    def _advance(self, p: Tensor, group: dict[str, Any]) -> tuple[float, ...]:
        momentum, lr = group["momentum"], group["lr"]
        if momentum is None:
            return super()._advance(p, group)
        if not self.state[p]:
            self.state[p]["m"] = torch.zeros_like(p)
        rate = lr * (0.2 * math.sqrt(max(p.shape)))
        return 1 - momentum, 1 - lr * group["weight_decay"], rate

    def _update(
        self,
        index: int,
        group: dict[str, Any],
        parameters: list[Tensor],
        grad_scale: Tensor | None,
    ) -> None:
        if group["momentum"] is None:
            super()._update(index, group, parameters, grad_scale)
            return
        by_shape: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, p in enumerate(parameters):
            by_shape[(*p.shape, p.dtype, p.device)].append(place)
        for places in by_shape.values():
            first = parameters[places[0]]
            processes = dist.get_world_size() if self.divided or is_sharded(first) else 1
            size = max(1, BATCH // first.numel()) * processes
            for start in range(0, len(places), size):
                self._orthogonal_step(index, places[start : start + size], parameters, grad_scale)

    def _orthogonal_step(
        self, index: int, places: list[int], parameters: list[Tensor], grad_scale: Tensor | None
    ) -> None:
        """Update the matrices of group `index` at some places, of one shape, dtype and device."""
        matrices = [parameters[place] for place in places]
        lists = (
            matrices,
            [local(p.grad) for p in matrices],
            [local(self.state[p]["m"]) for p in matrices],
        )
        update = _update_in(self.dtype, self.divided)
        if is_sharded(matrices[0]):  # DTensors cannot be compiled
            update(self._rows[index][places[0]], grad_scale, *lists)
        else:
            self._run(update, index, places[0], grad_scale, *lists)


@cache
def _update_in(dtype: torch.dtype, is_divided: bool) -> Callable[..., None]:
    """Return the function that updates matrices of one shape, with products in `dtype`."""

    def update(
        numbers: Numbers | Tensor,
        grad_scale: Tensor | None,
        matrices: Tensors,
        g: Tensors,
        m: Tensors,
    ) -> None:
        weight, decay, rate = numbers
        g = scaled(g, grad_scale)
        interpolate(m, g, weight)
        u = FOREACH._foreach_mul(m, 1.0)  # a copy
        interpolate(u, g, weight)
        stack = torch.stack(u).to(dtype)
        if is_sharded(matrices[0]):
            orthogonal = divided_shards(newton_schulz, stack, matrices[0])
        else:
            orthogonal = divided(newton_schulz, stack) if is_divided else newton_schulz(stack)
        weights = [local(p) for p in matrices]
        FOREACH._foreach_mul_(weights, decay)
        add(weights, list(orthogonal.to(u[0].dtype)), -rate)

    return update


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
    # contiguous: operations on lists of tensors are fast for tensors of one layout alone
    return X.mT.contiguous() if matrices.shape[1] > matrices.shape[2] else X
