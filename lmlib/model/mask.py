"""The causal mask: which earlier tokens a token attends to."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def causal_mask(
    positions: Int[Tensor, "... queries"], num_keys: int, window: int = 0
) -> Bool[Tensor, "... queries keys"]:
    """Return True where a query at a position sees the key at 0, 1, ..., num_keys - 1.

    It sees its own key and all before it, or, with a window, its own and the window - 1 before it.

    Source:  Beltagy et al. 2020 (Longformer), arXiv:2004.05150, for the window; as many keys as in
             Mistral's `sliding_window`, Jiang et al. 2023, arXiv:2310.06825.
    """
    distance = positions.unsqueeze(-1) - torch.arange(num_keys, device=positions.device)
    seen = distance >= 0
    return seen & (distance < window) if window else seen
