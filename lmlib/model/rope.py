"""Rotary position embedding."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Rotate the pairs (2k, 2k+1) of a head by angle position * theta**(-2k / d_head).

    The tables of cosines and sines, (max_positions, d_head / 2) each, are computed once in float32,
    move with the module to its device, and are not saved with it. The angles are float32 too, which
    makes them wrong by up to 0.004 at position 100,000. Llama and `transformers` do the same, and
    weights can be exchanged with them only if the angles are equal.

    Source:  Su et al. 2021, arXiv:2104.09864; pairs are interleaved as in the paper (Llama's
             Hugging Face checkpoints pair k with k + d_head / 2 instead).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, d_head: int, max_positions: int, theta: float) -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"RotaryEmbedding: d_head is {d_head}; pairs need an even head size")
        inv_freq = 1.0 / theta ** (torch.arange(0, d_head, 2, dtype=torch.float32) / d_head)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), inv_freq)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "... d_head"],
        token_positions: Int[Tensor, "..."] | slice | None,
        *,
        heads_last: bool = False,
    ) -> Float[Tensor, "... d_head"]:
        """Return x rotated, in x.dtype; positions default to 0, 1, 2, ...

        x is (..., seq, d_head), and `token_positions` (..., seq) broadcasts against its leading
        axes; a slice means consecutive positions. With `heads_last` x is (..., seq, heads, d_head),
        as a projection leaves it, and the heads of a token share its position. Raises ValueError
        when the sequence is longer than the tables and no positions are given; IndexError (on CPU)
        for a given position beyond the tables.
        """
        seq = x.shape[-3 if heads_last else -2]
        if token_positions is None:
            if seq > self.cos.shape[0]:
                raise ValueError(
                    f"RotaryEmbedding: a sequence of {seq} tokens is longer than the "
                    f"{self.cos.shape[0]} positions this model was made for"
                )
            cos, sin = self.cos[:seq], self.sin[:seq]
        else:
            cos, sin = self.cos[token_positions], self.sin[token_positions]
        if heads_last:
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        even, odd = x[..., 0::2], x[..., 1::2]
        rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return rotated.flatten(-2).to(x.dtype)
