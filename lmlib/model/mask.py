"""The causal mask: which earlier tokens a token attends to."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def causal_mask(
    positions: Int[Tensor, "... queries"],
    num_keys: int,
    window: int = 0,
    documents: Int[Tensor, "... queries"] | None = None,
) -> Bool[Tensor, "... queries keys"]:
    """Return True where a query at a position sees the key at 0, 1, ..., num_keys - 1.

    It sees its own key and all before it, or, with a window, its own and the window - 1 before it.
    With the `documents_of` the queries, it sees no key of another document.

    Source:  Beltagy et al. 2020 (Longformer), arXiv:2004.05150, for the window; as many keys as in
             Mistral's `sliding_window`, Jiang et al. 2023, arXiv:2310.06825. Llama Team 2024
             (Llama 3), arXiv:2407.21783, section 3.2, and Zhao et al. 2024, arXiv:2402.13991, for
             documents.
    """
    keys = torch.arange(num_keys, device=positions.device)
    distance = positions.unsqueeze(-1) - keys
    seen = distance >= 0
    if window:
        seen = seen & (distance < window)
    return seen if documents is None else seen & (keys >= documents.unsqueeze(-1))


def documents_of(token_ids: Int[Tensor, "... seq"], separator_id: int) -> Int[Tensor, "... seq"]:
    """Return, for each token, the place in its sequence at which its document begins.

    A document begins with the separator before it. Tokens before the first separator belong to a
    document that begins at 0, wherever it began in the text.
    """
    places = torch.arange(token_ids.shape[-1], device=token_ids.device)
    begins = torch.where(token_ids == separator_id, places, torch.zeros_like(places))
    return begins.cummax(dim=-1).values
