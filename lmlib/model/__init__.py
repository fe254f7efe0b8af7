"""The Transformer language model and its layers."""

from lmlib.model.attention import MultiHeadSelfAttention, scaled_dot_product_attention
from lmlib.model.cache import KVCache, StaticKVCache
from lmlib.model.layers import (
    Embedding,
    Linear,
    ReLU2FeedForward,
    RMSNorm,
    SiLUFeedForward,
    SwiGLU,
)
from lmlib.model.loss import NextTokenLoss, linear_cross_entropy
from lmlib.model.mask import documents_of
from lmlib.model.rope import RotaryEmbedding
from lmlib.model.shapes import (
    Shape,
    count_weights,
    flops_per_token,
    model_bytes,
    weight_shapes,
)
from lmlib.model.transformer import ModelParams, TransformerBlock, TransformerLM

__all__ = [
    "Embedding",
    "KVCache",
    "Linear",
    "ModelParams",
    "MultiHeadSelfAttention",
    "NextTokenLoss",
    "RMSNorm",
    "ReLU2FeedForward",
    "RotaryEmbedding",
    "Shape",
    "SiLUFeedForward",
    "StaticKVCache",
    "SwiGLU",
    "TransformerBlock",
    "TransformerLM",
    "count_weights",
    "documents_of",
    "flops_per_token",
    "linear_cross_entropy",
    "model_bytes",
    "scaled_dot_product_attention",
    "weight_shapes",
]
