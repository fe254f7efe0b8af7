"""Layers of the Transformer language model."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmlib.functional import relu2, silu

JOINED_VECTORS = 256  # for this many or more, one product with joined matrices is faster


class Linear(nn.Module):
    """Linear map without bias: y = x W^T, with W of shape (d_out, d_in).

    Initialised from a normal distribution of variance 2 / (d_in + d_out), truncated at three
    standard deviations (Glorot & Bengio 2010).
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        std = math.sqrt(2.0 / (d_in + d_out))
        nn.init.trunc_normal_(self.weight, 0.0, std, -3 * std, 3 * std, generator=generator)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Return x W^T; raise ValueError when the last axis of x is not d_in."""
        if x.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"Linear: x has shape {tuple(x.shape)}, its last axis should be "
                f"d_in={self.weight.shape[1]}; move the feature axis last before the call"
            )
        return x @ self.weight.T


def products(x: Float[Tensor, "... d_in"], *maps: Linear) -> tuple[Float[Tensor, "... d_out"], ...]:
    """Return `map(x)` for each map, for many vectors from one product with all their matrices.

    One wide product keeps a device busier than several narrow ones, above all in the backward pass,
    where the gradient of a small matrix is too little work for a GPU. Joining the matrices copies
    them, so that few vectors are multiplied with each in turn.
    """
    d_in = maps[0].weight.shape[1]
    if x.shape[-1] != d_in or x.numel() < d_in * JOINED_VECTORS:
        return tuple(each(x) for each in maps)
    joined = x @ torch.cat([each.weight for each in maps]).T
    return joined.split([len(each.weight) for each in maps], dim=-1)


class Embedding(nn.Module):
    """A learned vector for each token id, drawn from N(0, std**2) truncated at 3 std."""

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        std: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        nn.init.trunc_normal_(self.weight, 0.0, std, -3 * std, 3 * std, generator=generator)

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... d_model"]:
        """Return the row of each token id; raise IndexError (on CPU) for an id out of range."""
        rows = _Rows.apply(self.weight, token_ids.flatten())
        return rows.view(*token_ids.shape, self.weight.shape[1])  # type: ignore[union-attr]


class _Rows(torch.autograd.Function):
    """Rows of a matrix, with a gradient that is added up quickly in a fixed order."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.num_rows = len(weight)
        return weight.index_select(0, indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        return _sums_of_rows(grad_outputs[0], indices, ctx.num_rows), None


# Inductor would take `embedding_dense_backward` apart into an indexed addition, which in
# deterministic mode adds the rows of an index one after the other, in memory.
@torch.library.custom_op("lmlib::sums_of_rows", mutates_args=())
def _sums_of_rows(rows: Tensor, indices: Tensor, num_rows: int) -> Tensor:
    """Return a matrix of `num_rows` rows: at i, the sum of the rows whose index is i."""
    return torch.ops.aten.embedding_dense_backward(rows, indices, num_rows, -1, False)


@_sums_of_rows.register_fake
def _(rows: Tensor, indices: Tensor, num_rows: int) -> Tensor:
    return rows.new_empty(num_rows, rows.shape[-1])


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, with a learned gain and no centring.

        y = x / sqrt(mean(x**2) + eps) * weight          any leading axes; eps in units of x**2

    Dtype:   computed in float32 or wider, returned in x.dtype (300**2 overflows float16).
    Source:  Zhang & Sennrich 2019, arXiv:1910.07467; the paper has no eps, Llama adds it.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Return x normalised; raise ValueError when its last axis is not d_model."""
        if x.shape[-1] != self.weight.shape[0]:
            raise ValueError(
                f"RMSNorm: x has shape {tuple(x.shape)}, its last axis should be "
                f"d_model={self.weight.shape[0]}; move the feature axis last before the call"
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = wide.square().mean(dim=-1, keepdim=True)  # (..., 1)
        return (wide * torch.rsqrt(mean_square + self.eps) * self.weight).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward network: w2(silu(w1 x) * w3 x), each w a Linear.

    Source:  Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(
        self, d_model: int, d_ff: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff, generator=generator)
        self.w2 = Linear(d_ff, d_model, generator=generator)
        self.w3 = Linear(d_model, d_ff, generator=generator)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Return the gated projection of each vector."""
        gate, up = products(x, self.w1, self.w3)
        return self.w2(silu(gate) * up)


class UngatedFeedForward(nn.Module):
    """Feed-forward network without a gate: w2(activation(w1 x)); a subclass names the activation.

    Its hidden size is 3/2 d_ff, so that its two matrices hold as many weights as the three of
    a SwiGLU of size d_ff.
    """

    activation: Callable[[Tensor], Tensor]

    def __init__(
        self, d_model: int, d_ff: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        hidden = d_ff * 3 // 2
        self.w1 = Linear(d_model, hidden, generator=generator)
        self.w2 = Linear(hidden, d_model, generator=generator)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Return the projection of each vector."""
        return self.w2(self.activation(self.w1(x)))


class SiLUFeedForward(UngatedFeedForward):
    """Feed-forward network w2(silu(w1 x))."""

    activation = staticmethod(silu)


class ReLU2FeedForward(UngatedFeedForward):
    """Feed-forward network w2(relu(w1 x)**2).

    Source:  So et al. 2021 (Primer), arXiv:2109.08668.
    """

    activation = staticmethod(relu2)
