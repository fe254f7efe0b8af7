"""The optimizer of a run."""

import torch

from lmlib.model import TransformerLM
from lmlib.optim.adamw import AdamW, decay_groups
from lmlib.optim.muon import Muon
from lmlib.optim.params import OptimParams


def build_optimizer(
    model: TransformerLM, params: OptimParams, dtype: torch.dtype = torch.float32
) -> AdamW:
    """Return the optimizer `params.name` for all parameters of `model`, on their current device.

    Matrices decay, norm gains do not. With `muon`, Muon updates the matrices of the blocks, with
    matrix products in `dtype`, and AdamW updates the embeddings, lm_head and gains. The learning
    rate of each group is `lr_scale` times the schedule's.
    """
    groups = [{**group, "lr_scale": 1.0} for group in decay_groups(model, params.weight_decay)]
    settings = {"lr": params.lr, "betas": params.betas, "eps": params.eps}
    if params.name == "adamw":
        return AdamW(groups, **settings)
    hidden = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = set(hidden)
    groups[0]["params"] = [p for p in groups[0]["params"] if p not in chosen]
    lr_scale = params.muon_lr / params.lr
    groups.append(
        {
            "params": hidden,
            "weight_decay": params.weight_decay,
            "momentum": params.muon_momentum,
            "lr": params.lr * lr_scale,
            "lr_scale": lr_scale,
        }
    )
    optimizer = Muon(groups, **settings)
    optimizer.dtype = dtype
    return optimizer
