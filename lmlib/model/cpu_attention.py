"""Causal attention for CPUs with bfloat16 matrix products, in parts that fit their caches.

On these CPUs PyTorch's fused kernel spends most of its time outside the matrix products, above all
in the backward pass. Here each head's scores are one matrix product, a few heads at a time, so
that later passes find the scores in the cache. This is twice as fast, forward and backward, at
contexts of a few hundred tokens.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

QUERIES = 256  # per part; a part uses only the keys that its queries see
FASTER_CONTEXT = 1024  # tokens: the longest context at which this is faster
KEPT_CONTEXT = 512  # tokens; for longer sequences the backward pass recomputes the probabilities


def blocked_is_faster(x: Tensor) -> bool:
    """Return whether `causal_attention` beats PyTorch's kernel on tensors like this one."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[-2] <= FASTER_CONTEXT


def causal_attention(
    q: Float[Tensor, "... heads seq d_head"],
    k: Float[Tensor, "... heads seq d_head"],
    v: Float[Tensor, "... heads seq d_head"],
    *,
    window: int = 0,
    documents: Int[Tensor, "... seq"] | None = None,
) -> Float[Tensor, "... heads seq d_head"]:
    """Return softmax(Q K^T / sqrt(d_head)) V, where queries see the keys of `causal_mask`.

    Scores and probabilities are in the dtype of the arguments, sums in float32.
    """
    shape = q.shape
    keep = torch.is_grad_enabled() and shape[-2] <= KEPT_CONTEXT
    if documents is not None:
        documents = documents.reshape(-1, shape[-2])
    out, _ = _forward(*(x.reshape(-1, *shape[-3:]) for x in (q, k, v)), documents, window, keep)
    return out.reshape(shape)


Part = tuple[int, int, int]  # its first key, its first query, and the end of both


def _parts(seq: int, window: int) -> list[Part]:
    """Return the parts of a sequence; their queries are in order."""
    return [
        (max(0, first - window + 1) if window else 0, first, min(first + QUERIES, seq))
        for first in range(0, seq, QUERIES)
    ]


def _mask(part: Part, window: int, like: Tensor) -> Tensor:
    """Return the mask to add to the scores of a part: 0, or -inf for keys that are not seen."""
    start, first, stop = part
    hidden = like.new_full((stop - first, stop - start), -torch.inf)
    later = hidden.triu(first - start + 1)
    return later + hidden.tril(first - start - window) if window else later


def _isolated(mask: Tensor, documents: Tensor | None, b: int, part: Part) -> Tensor:
    """Return the mask of a part for sequence b, which also hides the keys of other documents."""
    if documents is None:
        return mask
    start, first, stop = part
    keys = torch.arange(start, stop)
    return mask.masked_fill(keys < documents[b, first:stop, None], -torch.inf)


def _scores(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    return torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(q.shape[-1]))


def _place(q: Tensor, first: int, window: int) -> int:
    """Return the offset of the probabilities of the part whose first query is `first`."""
    batch, heads, seq, _ = q.shape
    sizes = ((stop - f) * (stop - start) for start, f, stop in _parts(seq, window) if f < first)
    return batch * heads * sum(sizes)


def _room(q: Tensor, window: int, keep: bool) -> Tensor:
    """Return an empty tensor for the probabilities of all parts, one part after the other."""
    return q.new_empty(_place(q, q.shape[2], window) if keep else 0)


def _kept_part(kept: Tensor, q: Tensor, b: int, part: Part, window: int) -> Tensor:
    """Return the kept probabilities of a part of sequence b."""
    start, first, stop = part
    size = q.shape[1] * (stop - first) * (stop - start)
    at = _place(q, first, window) + b * size
    return kept[at : at + size].view(-1, stop - first, stop - start)


@torch.library.custom_op("lmlib::causal_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, window: int, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return the attended values, and the probabilities of all parts if `keep`."""
    out = torch.empty_like(q)
    kept = _room(q, window, keep)
    for part in _parts(q.shape[2], window):
        start, first, stop = part
        mask = _mask(part, window, q)
        for b in range(len(q)):
            in_document = _isolated(mask, documents, b, part)
            scores = _scores(q[b, :, first:stop], k[b, :, start:stop], in_document)
            p = _kept_part(kept, q, b, part, window) if keep else torch.empty_like(scores)
            torch.softmax(scores, dim=-1, out=p)
            out[b, :, first:stop] = torch.bmm(p, v[b, :, start:stop])
    return out, kept


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, window: int, keep: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), _room(q, window, keep)


@torch.library.custom_op("lmlib::causal_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor | None,
    kept: Tensor,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to q, k and v."""
    grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
    seq, scale = q.shape[2], 1 / math.sqrt(q.shape[-1])
    if window:  # without one, the last part, the first to be added, sees all keys
        grad_k.zero_()
        grad_v.zero_()
    for part in reversed(_parts(seq, window)):
        start, first, stop = part
        mask = _mask(part, window, q)
        for b in range(len(q)):
            queries, keys = q[b, :, first:stop], k[b, :, start:stop]
            if len(kept):
                p = _kept_part(kept, q, b, part, window)
            else:
                in_document = _isolated(mask, documents, b, part)
                p = torch.softmax(_scores(queries, keys, in_document), dim=-1)
            by_out = grad[b, :, first:stop]
            by_p = torch.bmm(by_out, v[b, :, start:stop].transpose(1, 2))
            by_scores = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype)
            by_q = grad_q[b, :, first:stop]
            by_q.copy_(torch.baddbmm(by_q, by_scores, keys, beta=0, alpha=scale))
            by_k, by_v = grad_k[b, :, start:stop], grad_v[b, :, start:stop]
            added = 0 if stop == seq and not window else 1  # with 0, the old content is not read
            transposed = by_scores.transpose(1, 2)
            by_k.copy_(torch.baddbmm(by_k, transposed, queries, beta=added, alpha=scale))
            by_v.copy_(torch.baddbmm(by_v, p.transpose(1, 2), by_out, beta=added))
    return grad_q, grad_k, grad_v


@_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor | None,
    kept: Tensor,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.window = inputs[4]


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.window), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
