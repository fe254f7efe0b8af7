"""Stateless mathematics of the model: softmax, activations, soft cap, cross-entropy."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def softmax(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """Return exp(x) / sum(exp(x)) along `dim`, in x.dtype; computed in float32 or wider.

    The maximum is subtracted first, which leaves the quotient unchanged and keeps exp from
    overflowing. An entry of -inf gets probability 0; a slice with only -inf gives NaN.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # 70,000 ones overflow a float16 sum
    exponentials = (wide - wide.amax(dim=dim, keepdim=True)).exp()
    return (exponentials / exponentials.sum(dim=dim, keepdim=True)).to(x.dtype)


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x * sigmoid(x). Source: Hendrycks & Gimpel 2016, arXiv:1606.08415 (as SiLU)."""
    return x * torch.sigmoid(x)


def relu2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return max(x, 0)**2. Source: So et al. 2021, arXiv:2109.08668 (as Squared ReLU)."""
    return torch.relu(x).square()


def soft_cap(x: Float[Tensor, "..."], cap: float) -> Float[Tensor, "..."]:
    """Return cap * tanh(x / cap), in x.dtype; computed in float32 or wider. A cap of 0 is none.

    The result lies between -cap and cap, rises with x, and is close to x near 0.

    Source:  Gemma Team 2024 (Gemma 2), arXiv:2408.00118, section 2.
    """
    if cap == 0:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (cap * torch.tanh(wide / cap)).to(x.dtype)


def cross_entropy(
    logits: Float[Tensor, "... vocab"], targets: Int[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Return the mean over all leading axes of -log softmax(logits)[target], in nats.

    Computed in float32 or wider, as log(sum(exp(logits))) - logits[target], so that large
    logits do not overflow and small probabilities do not become log(0).
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross_entropy: logits have shape {tuple(logits.shape)} and targets "
            f"{tuple(targets.shape)}; targets need the shape of logits without its last axis"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_normaliser = torch.logsumexp(wide, dim=-1)
    target_logits = wide.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
    return (log_normaliser - target_logits).mean()
