"""Scaled dot-product attention and its multi-head, causal form."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lmlib.functional import softmax
from lmlib.model.cache import LayerCache
from lmlib.model.cpu_attention import blocked_is_faster, causal_attention
from lmlib.model.layers import Linear
from lmlib.model.rope import RotaryEmbedding

AttentionKernel = Literal["auto", "sdpa", "blocked", "plain"]


def scaled_dot_product_attention(
    Q: Float[Tensor, "... queries d_k"],  # Q, K, V as in the paper
    K: Float[Tensor, "... keys d_k"],
    V: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
) -> Float[Tensor, "... queries d_v"]:
    """Return softmax(Q K^T / sqrt(d_k)) V; a query attends only where `mask` is True.

    A query that may attend to no key gets NaN, the softmax of nothing.

    Source:  Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return softmax(scores, dim=-1) @ V


class MultiHeadSelfAttention(nn.Module):
    """Causal multi-head self-attention: each token attends to itself and all earlier ones.

    kernel:  `plain` calls `scaled_dot_product_attention` above, which holds the whole (seq, seq)
             score matrix in memory; `sdpa` uses PyTorch's fused kernel, `blocked` the one in
             cpu_attention.py; `auto` takes the faster of these two.
    rope:    rotates queries and keys; None for a model without position embedding.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        rope: RotaryEmbedding | None = None,
        kernel: AttentionKernel = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(
                f"MultiHeadSelfAttention: d_model={d_model} is not divisible by "
                f"num_heads={num_heads}"
            )
        self.num_heads = num_heads
        self.kernel = kernel
        self.rope = rope
        self.q_proj = Linear(d_model, d_model, generator=generator)
        self.k_proj = Linear(d_model, d_model, generator=generator)
        self.v_proj = Linear(d_model, d_model, generator=generator)
        self.output_proj = Linear(d_model, d_model, generator=generator)

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Return the attended values; positions are (seq,), (1, seq) or (batch, seq).

        With a cache, the tokens follow the cached ones and attend to them too; the cache sets
        their positions.
        """
        Q, K, V = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # each (..., heads, seq, d_head)
        positions = token_positions if cache is None else cache.positions
        if self.rope is not None:
            if isinstance(positions, Tensor) and positions.ndim > 1:
                positions = positions.unsqueeze(-2)  # the same for every head
            Q, K = self.rope(Q, positions), self.rope(K, positions)
        mask = None
        if cache is not None:
            K, V, mask = cache.append(K, V)
        attended = self._attend(Q, K, V, mask)
        return self.output_proj(attended.transpose(-3, -2).flatten(-2))

    def _attend(self, Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attended values; without a mask, the queries are the last of the tokens."""
        queries, keys = Q.shape[-2], K.shape[-2]
        if self.kernel == "plain":
            if mask is None:
                causal = torch.ones(queries, keys, dtype=torch.bool, device=Q.device)
                mask = causal.tril(keys - queries)
            return scaled_dot_product_attention(Q, K, V, mask)
        if mask is not None or queries != keys:
            return nn.functional.scaled_dot_product_attention(Q, K, V, mask)
        if self.kernel == "blocked" or (self.kernel == "auto" and blocked_is_faster(V)):
            return causal_attention(Q, K, V)
        return nn.functional.scaled_dot_product_attention(Q, K, V, is_causal=True)
