"""From logits to the distribution that the next token is drawn from: pure functions."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmlib.functional import softmax
from lmlib.sampling.params import SamplingParams

CANDIDATES = 64  # tokens that keep_top_p sorts at first; more only if these do not reach p


def penalise_repetition(
    logits: Float[Tensor, "... vocab"], seen: Bool[Tensor, "... vocab"], penalty: float
) -> Float[Tensor, "... vocab"]:
    """Return logits with those of seen tokens divided by the penalty (multiplied if negative).

    The result is within the range of the logits' dtype, whatever the penalty.

    Source:  Keskar et al. 2019, arXiv:1909.05858 (CTRL), with the sign handled as in
             `transformers`.
    """
    if penalty == 1:
        return logits
    info = torch.finfo(logits.dtype)
    penalty = min(max(penalty, info.tiny), info.max)
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised.clamp(info.min, info.max), logits)


def apply_temperature(
    logits: Float[Tensor, "... vocab"], temperature: float
) -> Float[Tensor, "... vocab"]:
    """Return logits / temperature: below 1 the distribution sharpens, above 1 it flattens.

    The largest logit is subtracted first, so that no temperature is too small: one that is 0 in
    the dtype of the logits is replaced by the smallest that is not.
    """
    temperature = max(temperature, torch.finfo(logits.dtype).tiny)
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits: Float[Tensor, "... vocab"], k: int) -> Float[Tensor, "... vocab"]:
    """Return logits with all but the k largest set to -inf; ties with the k-th are kept."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Return logits of the smallest set of top tokens whose probability reaches p.

    The others become -inf; the most likely token is always kept, and so are ties with the last.

    Source:  Holtzman et al. 2020, arXiv:1904.09751 (nucleus sampling).
    """
    if p >= 1:
        return logits
    log_sum = logits.logsumexp(dim=-1, keepdim=True)
    count = min(CANDIDATES, logits.shape[-1])
    while True:  # sorting a whole vocabulary takes longer than the model
        largest = logits.topk(count, dim=-1).values
        probabilities = (largest - log_sum).exp()
        reached = probabilities.cumsum(dim=-1)
        if count == logits.shape[-1] or bool((reached[..., -1] >= p).all()):
            break
        count = min(8 * count, logits.shape[-1])
    dropped = reached - probabilities >= p  # more likely tokens already reach p
    dropped[..., 0] = False  # even if p is 0 in the dtype of the logits
    smallest_kept = largest.masked_fill(dropped, torch.inf).amin(dim=-1, keepdim=True)
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_min_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Return logits with -inf for tokens less likely than p times the most likely one.

    Source:  Nguyen et al. 2024, arXiv:2407.01082.
    """
    if p <= 0:
        return logits
    least = logits.amax(dim=-1, keepdim=True) + math.log(p)
    return logits.masked_fill(logits < least, -torch.inf)


def next_token_probabilities(
    logits: Float[Tensor, "... vocab"], params: SamplingParams
) -> Float[Tensor, "... vocab"]:
    """Return the distribution to draw from, in float32; temperature above 0.

    The order is that of `transformers`: the temperature comes first, since top-p and min-p apply
    to the probabilities that result; top-p then applies to the tokens that top-k kept.
    """
    logits = apply_temperature(logits.float(), params.temperature)
    logits = keep_top_p(keep_top_k(logits, params.top_k), params.top_p)
    return softmax(keep_min_p(logits, params.min_p))
