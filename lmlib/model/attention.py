"""Scaled dot-product attention and its multi-head, causal form."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lmlib.functional import softmax
from lmlib.model.cache import LayerCache
from lmlib.model.cpu_attention import blocked_is_faster, causal_attention
from lmlib.model.layers import Linear, RMSNorm, products
from lmlib.model.mask import causal_mask
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

    With fewer heads for keys and values than for queries (`num_kv_heads`; 0: equally many), each of
    them serves the same number of consecutive query heads. With a `window`, a token attends to
    itself and the window - 1 before it; 0: to all before it. With a `qk_norm_eps`, each head's
    queries and keys go through an RMSNorm with this eps before RoPE; its gains, one vector of size
    d_head for queries and one for keys, are shared by all heads, as in Qwen3.

    Source:  Ainslie et al. 2023, arXiv:2305.13245, for grouped queries; `causal_mask` for windows;
             Henry et al. 2020, arXiv:2010.04245, and Dehghani et al. 2023, arXiv:2302.05442, for
             norms of queries and keys.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int = 0,
        window: int = 0,
        rope: RotaryEmbedding | None = None,
        kernel: AttentionKernel = "auto",
        qk_norm_eps: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(
                f"MultiHeadSelfAttention: d_model={d_model} is not divisible by "
                f"num_heads={num_heads}"
            )
        num_kv_heads = num_kv_heads or num_heads
        if num_heads % num_kv_heads:
            raise ValueError(
                f"MultiHeadSelfAttention: num_heads={num_heads} is not divisible by "
                f"num_kv_heads={num_kv_heads}"
            )
        self.d_head = d_model // num_heads
        self.queries_per_key = num_heads // num_kv_heads
        self.window = window
        self.kernel = kernel
        self.rope = rope
        d_kv = num_kv_heads * self.d_head
        self.q_proj = Linear(d_model, d_model, generator=generator)
        self.k_proj = Linear(d_model, d_kv, generator=generator)
        self.v_proj = Linear(d_model, d_kv, generator=generator)
        self.output_proj = Linear(d_model, d_model, generator=generator)
        self.q_norm, self.k_norm = (
            nn.Sequential() if qk_norm_eps is None else RMSNorm(self.d_head, qk_norm_eps)
            for _ in range(2)
        )

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
        documents: Int[Tensor, "... seq"] | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Return the attended values; positions are (seq,), (1, seq) or (batch, seq).

        With a cache, the tokens follow the cached ones and attend to them too; the cache sets
        their positions. With `documents` (see `documents_of`), which cannot be combined with a
        cache, no token attends to one of another document.
        """
        Q, K, V = (
            projected.unflatten(-1, (-1, self.d_head))
            for projected in products(x, self.q_proj, self.k_proj, self.v_proj)
        )  # each (..., seq, heads, d_head)
        Q, K = self.q_norm(Q), self.k_norm(K)
        if self.rope is not None:
            positions = token_positions if cache is None else cache.positions
            Q, K = (self.rope(part, positions, heads_last=True) for part in (Q, K))
        # views, whose memory stays as the projection of the output wants it
        Q, K, V = (part.transpose(-3, -2) for part in (Q, K, V))
        mask = None
        if cache is not None:
            K, V, mask = cache.append(K, V)
        if self.queries_per_key > 1:
            K, V = (x.repeat_interleave(self.queries_per_key, dim=-3) for x in (K, V))
        attended = self._attend(Q, K, V, mask, documents)
        return self.output_proj(attended.transpose(-3, -2).flatten(-2))

    def _attend(
        self, Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None, documents: Tensor | None
    ) -> Tensor:
        """Return the attended values; without a mask, the queries are the last of the tokens."""
        queries, keys = Q.shape[-2], K.shape[-2]
        window = self.window if self.window < keys else 0  # a larger one hides nothing
        is_whole = mask is None and queries == keys
        if is_whole and (
            self.kernel == "blocked" or (self.kernel == "auto" and blocked_is_faster(V))
        ):
            return causal_attention(Q, K, V, window=window, documents=documents)
        if mask is None and (window or documents is not None or self.kernel == "plain"):
            positions = torch.arange(keys - queries, keys, device=Q.device)
            mask = causal_mask(positions, keys, window, documents)
            if documents is not None:
                mask = mask.unsqueeze(-3)  # the same for every head
        if self.kernel == "plain":
            return scaled_dot_product_attention(Q, K, V, mask)
        is_causal = is_whole and mask is None
        return nn.functional.scaled_dot_product_attention(Q, K, V, mask, is_causal=is_causal)
