"""The training loss, without the logits of the whole batch in memory."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmlib.functional import soft_cap
from lmlib.model.transformer import TransformerLM

# Logits per part: few enough to stay in a CPU's caches, many enough to keep a GPU busy, and on a
# Mac few enough for a memory that all programs share.
LOGITS = {"cpu": 1 << 21, "mps": 1 << 25, "cuda": 1 << 28}
LEAST_ROWS = 256  # tokens per part at least: each part updates a gradient as large as the weight
EVEN_ROWS = 128  # a GPU multiplies whole tiles of this many rows


class NextTokenLoss(nn.Module):
    """Mean cross-entropy of the next token, in nats: what a training step differentiates."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model
        self.of_hidden: Callable[..., tuple[Tensor, Tensor]] = weighted_cross_entropy

    def compile_loss(self) -> None:
        """Compile the loss of the hidden states alone, where the blocks are compiled singly."""
        self.of_hidden = torch.compile(weighted_cross_entropy, dynamic=False)

    def forward(
        self,
        inputs: Int[Tensor, "... seq"],
        targets: Int[Tensor, "... seq"],
        weights: Float[Tensor, "... seq"] | None = None,
        documents: Int[Tensor, "... seq"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the loss to differentiate, and the loss to report, which has no gradient.

        The second is the mean over all positions of -log p(target); in the first, each is
        multiplied by its weight. Both are float32 scalars, and equal without `weights`. With the
        `documents_of` the inputs, each is predicted from its own alone.
        """
        hidden = self.model.hidden(inputs, documents=documents)
        return self.of_hidden(
            hidden.flatten(0, -2),
            self.model.lm_head.weight,
            targets.flatten(),
            self.model.params.logit_softcap,
            None if weights is None else weights.flatten(),
        )


def linear_cross_entropy(
    hidden: Float[Tensor, "tokens d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int[Tensor, " tokens"],
    softcap: float = 0.0,
) -> Float[Tensor, ""]:
    """Return `cross_entropy(soft_cap(hidden @ weight.T, softcap), targets)`, a few rows at a time.

    In nats, as a float32 scalar, or a wider one if hidden is wider.

    The gradients are computed along with the loss, while the logits are in memory; the backward
    pass only scales them. So a step holds the logits of one part, not of all tokens: with a large
    vocabulary, those would be its largest tensor by far.

    Source:  Wijmans et al. 2024, arXiv:2411.09009 (Cut Cross-Entropy), without its own kernels.
    """
    return weighted_cross_entropy(hidden, weight, targets, softcap)[0]


def weighted_cross_entropy(
    hidden: Float[Tensor, "tokens d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int[Tensor, " tokens"],
    softcap: float = 0.0,
    token_weights: Float[Tensor, " tokens"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean of the tokens' losses times their weights, and without these.

    As `linear_cross_entropy`; no gradient flows through the second.
    """
    needs = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if not needs:
        losses, _ = _losses_and_gradients(hidden, weight, targets, softcap, token_weights, False)
        return losses
    return _WeightedCrossEntropy.apply(  # type: ignore[return-value]
        hidden, weight, targets, softcap, token_weights
    )


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        softcap: float,
        token_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        (loss, unweighted), gradients = _losses_and_gradients(
            hidden, weight, targets, softcap, token_weights, True
        )
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(unweighted)
        return loss, unweighted

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        grad_loss, _ = grad_outputs
        scaled = grad_hidden * grad_loss.to(grad_hidden.dtype), grad_weight * grad_loss
        return *scaled, None, None, None


def _losses_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float,
    token_weights: Tensor | None,
    with_gradients: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """Return the loss with and without token_weights; the first one's gradients, if wanted.

    These are with respect to hidden and weight.
    """
    num_tokens = len(hidden)
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    wide = torch.promote_types(dtype, torch.float32)
    low_weight = weight.to(dtype)
    rows = rows_at_a_time(num_tokens, len(weight), hidden.device)
    loss = unweighted = torch.zeros((), dtype=wide, device=hidden.device)
    grads_hidden = []
    grad_weight = torch.zeros_like(weight, dtype=wide)
    for first in range(0, num_tokens, rows):
        part = hidden[first : first + rows].to(dtype)
        target = targets[first : first + rows].unsqueeze(-1)
        logits = part @ low_weight.T
        if softcap:
            logits = soft_cap(logits.to(wide), softcap)
        log_p = torch.log_softmax(logits, dim=-1, dtype=wide)
        weights = None
        if token_weights is not None:
            weights = token_weights[first : first + rows].unsqueeze(-1)
        log_p_target = log_p.gather(-1, target)
        unweighted = unweighted - log_p_target.sum()
        loss = unweighted if weights is None else loss - (log_p_target * weights).sum()
        if with_gradients:
            by_logits = _without_target(log_p.exp_(), target)
            if weights is not None:
                by_logits *= weights
            if softcap:  # the derivative of the cap: 1 - tanh**2
                by_logits *= logits.div_(softcap).square_().neg_().add_(1)
            by_logits = by_logits.to(dtype)
            # divide in the wider dtype: in float16 small gradients would vanish
            grads_hidden.append((by_logits @ low_weight).to(hidden.dtype) / num_tokens)
            if dtype == wide:
                grad_weight.addmm_(by_logits.T, part)
            else:
                grad_weight += by_logits.T @ part
    losses = loss / num_tokens, unweighted / num_tokens
    if not with_gradients:
        return losses, ()
    return losses, (torch.cat(grads_hidden), grad_weight.div_(num_tokens).to(weight.dtype))


def rows_at_a_time(num_tokens: int, vocab_size: int, device: torch.device) -> int:
    """Return for how many tokens to hold logits at once: on a GPU, in parts of about equal size."""
    rows = max(LEAST_ROWS, LOGITS.get(device.type, LOGITS["cuda"]) // vocab_size)
    if device.type == "cpu":
        return rows
    parts = math.ceil(num_tokens / rows)
    return math.ceil(num_tokens / parts / EVEN_ROWS) * EVEN_ROWS


def _without_target(p: Tensor, target: Tensor) -> Tensor:
    """Return the probabilities minus 1 at the target: the gradient for the logits."""
    if torch.compiler.is_compiling():  # a comparison fuses with other kernels, a scatter does not
        return p - (torch.arange(p.shape[-1], device=p.device) == target).float()
    return p.scatter_add_(-1, target, p.new_full(target.shape, -1.0))
