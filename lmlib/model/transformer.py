"""The decoder-only Transformer language model."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmlib.functional import soft_cap
from lmlib.model.attention import AttentionKernel, MultiHeadSelfAttention
from lmlib.model.cache import Cache, KVCache, LayerCache
from lmlib.model.layers import (
    Embedding,
    Linear,
    ReLU2FeedForward,
    RMSNorm,
    SiLUFeedForward,
    SwiGLU,
)
from lmlib.model.rope import RotaryEmbedding
from lmlib.params import Count, CountOrZero, Positive, PositiveOrZero, check_bounds

_FEED_FORWARD = {"swiglu": SwiGLU, "silu": SiLUFeedForward, "relu2": ReLU2FeedForward}


@dataclass(frozen=True)
class ModelParams:
    """Shape of the Transformer: the section `model` of params.yaml.

    The vocabulary size is not here: the tokenizer determines it.
    """

    context_length: Count
    d_model: Count
    num_layers: Count
    num_heads: Count
    d_ff: Count
    num_kv_heads: Annotated[CountOrZero, "0: as many as num_heads"] = 0
    attention_window: Annotated[CountOrZero, "0: all tokens"] = 0
    rope_theta: Positive = 10_000.0
    norm_eps: Positive = 1e-5
    norm: Literal["pre", "post", "none"] = "pre"
    qk_norm: bool = False
    position: Literal["rope", "none"] = "rope"
    ffn: Literal["swiglu", "silu", "relu2"] = "swiglu"
    tie_embeddings: bool = False
    logit_softcap: Annotated[PositiveOrZero, "0: no cap"] = 0.0
    attention: AttentionKernel = "auto"

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model is {self.d_model}, not divisible by num_heads {self.num_heads}; "
                "each head takes an equal part of d_model"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads is {self.num_kv_heads}, which does not divide num_heads "
                f"{self.num_heads}; each head of keys and values serves equally many query heads "
                "(0: as many as num_heads)"
            )
        if self.position == "rope" and self.d_head % 2:
            raise ValueError(
                f"d_model {self.d_model} / num_heads {self.num_heads} gives heads of size "
                f"{self.d_head}; RoPE rotates pairs and needs an even size (or position: none)"
            )

    @property
    def d_head(self) -> int:
        """The size of a head: of its queries, keys and values."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def d_kv(self) -> int:
        """The size of a token's keys, and of its values, in a layer."""
        return self.kv_heads * self.d_head


class TransformerBlock(nn.Module):
    """Attention and feed-forward network, each with a residual connection.

    norm=pre   x + f(norm(x))     Xiong et al. 2020, arXiv:2002.04745
    norm=post  norm(x + f(x))     Vaswani et al. 2017
    norm=none  x + f(x)
    """

    def __init__(
        self,
        params: ModelParams,
        rope: RotaryEmbedding | None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.post = params.norm == "post"
        self.ln1 = _norm(params)
        self.attn = MultiHeadSelfAttention(
            params.d_model,
            params.num_heads,
            num_kv_heads=params.kv_heads,
            window=params.attention_window,
            rope=rope,
            kernel=params.attention,
            qk_norm_eps=params.norm_eps if params.qk_norm else None,
            generator=generator,
        )
        self.ln2 = _norm(params)
        self.ffn = _FEED_FORWARD[params.ffn](params.d_model, params.d_ff, generator=generator)

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
        documents: Int[Tensor, "... seq"] | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Return the block's output, shaped as x."""
        if self.post:
            x = self.ln1(x + self.attn(x, token_positions, cache, documents))
            return self.ln2(x + self.ffn(x))
        x = x + self.attn(self.ln1(x), token_positions, cache, documents)
        return x + self.ffn(self.ln2(x))


def _norm(params: ModelParams) -> nn.Module:
    if params.norm == "none":
        return nn.Sequential()  # the identity
    return RMSNorm(params.d_model, params.norm_eps)


class TransformerLM(nn.Module):
    """Decoder-only Transformer: token ids (..., seq) to logits (..., seq, vocab_size).

    Weights are drawn on the CPU from a generator seeded with `seed`, so that a seed gives the
    same model on every device. With `params.tie_embeddings` the output uses the embedding matrix
    (Press & Wolf 2017, arXiv:1608.05859); its rows are then drawn with the variance of a Linear;
    otherwise the initial logits would have variance d_model.

    residual_dtype:  of the residual stream, to which the blocks add; None: that of the embeddings
    """

    residual_dtype: torch.dtype | None = None

    def __init__(self, params: ModelParams, vocab_size: int, *, seed: int = 0) -> None:
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"TransformerLM: vocab_size is {vocab_size}; it must be at least 1")
        self.params = params
        self.vocab_size = vocab_size
        generator = torch.Generator().manual_seed(seed)
        std = (2.0 / (vocab_size + params.d_model)) ** 0.5 if params.tie_embeddings else 1.0
        self.token_embeddings = Embedding(vocab_size, params.d_model, std=std, generator=generator)
        rope = None
        if params.position == "rope":
            rope = RotaryEmbedding(params.d_head, params.context_length, params.rope_theta)
        self.layers = nn.ModuleList(
            TransformerBlock(params, rope, generator) for _ in range(params.num_layers)
        )
        # post-norm blocks end in a norm of their own
        self.ln_final = _norm(params) if params.norm == "pre" else nn.Sequential()
        self.lm_head = Linear(params.d_model, vocab_size, generator=generator)
        if params.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight

    def forward(
        self,
        token_ids: Int[Tensor, "... seq"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        *,
        cache: Cache | None = None,
        documents: Int[Tensor, "... seq"] | None = None,
    ) -> Float[Tensor, "... seq vocab"]:
        """Return logits for the token after each position; raise ValueError if seq is too long.

        With a cache (see `empty_cache`), the tokens follow those that it holds. With `documents`
        (see `documents_of`), a token sees only those of its own document; with both, ValueError.
        """
        hidden = self.hidden(token_ids, token_positions, cache=cache, documents=documents)
        return self.logits(hidden)

    def logits(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Return the logits of what `hidden` returned: `lm_head`, then the soft cap if any."""
        return soft_cap(self.lm_head(hidden), self.params.logit_softcap)

    def hidden(
        self,
        token_ids: Int[Tensor, "... seq"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        *,
        cache: Cache | None = None,
        documents: Int[Tensor, "... seq"] | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Return the input of `lm_head` for each token; arguments and errors as in `forward`."""
        if token_ids.shape[-1] > self.params.context_length:
            raise ValueError(
                f"TransformerLM: {token_ids.shape[-1]} tokens do not fit context_length="
                f"{self.params.context_length}; pass the last {self.params.context_length}"
            )
        if cache is not None and documents is not None:
            raise ValueError(
                "TransformerLM: a cache does not know where documents begin; pass the whole "
                "sequence with its documents, or begin a cache with each document"
            )
        caches = [None] * len(self.layers) if cache is None else cache.extend(token_ids.shape[-1])
        x = self.token_embeddings(token_ids)
        if self.residual_dtype is not None:
            x = x.to(self.residual_dtype)
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, token_positions, layer_cache, documents)
        if self.residual_dtype is not None:
            x = x.to(self.token_embeddings.weight.dtype)
        return self.ln_final(x)

    def empty_cache(self, batch: int, dtype: torch.dtype | None = None) -> KVCache:
        """Return a cache for `batch` rows of up to context_length tokens, on the model's device.

        dtype:  of keys and values; default: that of the embeddings
        """
        params, weight = self.params, self.token_embeddings.weight
        shape = (params.num_layers, 2, batch, params.kv_heads, params.context_length, params.d_head)
        # zeros: a masked value is multiplied by 0, and 0 * NaN would be NaN
        return KVCache(weight.new_zeros(shape, dtype=dtype), [0] * batch, params.attention_window)

    def num_parameters(self) -> int:
        """Return the number of trainable weights, counting tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
