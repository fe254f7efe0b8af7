"""Models whose losses can be worked out by hand."""

import torch
from torch import Tensor, nn

from lmlib.model import ModelParams, TransformerLM


def bigram(logits: Tensor) -> TransformerLM:
    """Return a model whose logits after token i are logits[i]: blocks that add nothing."""
    vocab_size = len(logits)
    params = ModelParams(
        context_length=8,
        d_model=vocab_size,
        num_layers=1,
        num_heads=1,
        d_ff=1,
        norm="none",
        position="none",
    )
    model = TransformerLM(params, vocab_size)
    with torch.no_grad():
        for weight in model.layers.parameters():
            weight.zero_()
        model.token_embeddings.weight.copy_(torch.eye(vocab_size))
        model.lm_head.weight.copy_(logits.T)
    return model


def successor(vocab_size: int, logit: float) -> TransformerLM:
    """Gives the successor of each token the logit `logit`, all others 0."""
    return bigram(logit * torch.eye(vocab_size).roll(1, dims=1))


def shapes_seen_by(module: nn.Module) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of each input from now on."""
    shapes: list[tuple[int, ...]] = []
    module.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(inputs[0].shape)))
    return shapes
