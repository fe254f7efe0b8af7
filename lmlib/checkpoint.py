"""Checkpoints of a model with its optimizer, and finished models."""

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lmlib.digests import check_digests, write_digests
from lmlib.files import write_atomically, write_json
from lmlib.model import ModelParams, TransformerLM
from lmlib.params import from_dict

# BytesIO explicitly: it lacks `mode`, so a run-time checker rejects it as IO[bytes]
PathOrFile = str | os.PathLike[str] | IO[bytes] | io.BytesIO


def plain_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a model, compiled or not, under the model's own names."""
    return {key.removeprefix("_orig_mod."): value for key, value in model.state_dict().items()}


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    out: PathOrFile,
) -> None:
    """Write weights, optimizer state and the number of finished steps to a path or file object.

    A file at a path is replaced atomically.
    """
    with serialise(checkpoint_state(model, optimizer, iteration)) as content:
        if isinstance(out, str | os.PathLike):
            write_atomically(Path(out), content)
        else:
            out.write(content)


def load_checkpoint(
    src: PathOrFile,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore what `save_checkpoint` wrote; return the number of finished steps."""
    state = torch.load(src, map_location="cpu", weights_only=True)
    getattr(model, "_orig_mod", model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["iteration"]


def checkpoint_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int
) -> dict[str, Any]:
    """Return the content of a checkpoint; its tensors are the live ones, not copies."""
    return {
        "model": plain_state_dict(model),
        "optimizer": optimizer.state_dict(),
        "iteration": iteration,
    }


def serialise(state: dict[str, Any], room: int = 0) -> memoryview:
    """Return the bytes of `state`, preceded by `room` bytes for the caller to fill.

    Release the view after use: Python 3.13 warns if a buffer is collected while viewed.
    """
    # through a buffer: given a file, torch.save would write its name into the bytes
    buffer = io.BytesIO(bytes(room))
    buffer.seek(room)
    torch.save(state, buffer)
    return buffer.getbuffer()


def save_model(
    folder: str | Path, model: TransformerLM, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write `model.safetensors`, `config.json` (params, vocabulary size) and their SHA256SUMS.

    `weights` is the state dict to write, by default the model's own.
    """
    folder = Path(folder)
    state = dict(plain_state_dict(model) if weights is None else weights)
    if model.params.tie_embeddings:
        del state["lm_head.weight"]  # safetensors refuses to store shared memory twice
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(folder / "model.safetensors", save(tensors))
    config = {"vocab_size": model.vocab_size, **asdict(model.params)}
    write_json(folder / "config.json", config)
    write_digests(folder, "config.json", "model.safetensors")


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> TransformerLM:
    """Return the model that `save_model` wrote, on `device`, in evaluation mode.

    Raises FileNotFoundError when one of the two files is missing, ValueError when one is damaged
    or they do not belong together.
    """
    config_path, weights_path = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    for path in (config_path, weights_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; there is no model here")
    check_digests(folder, config_path.name, weights_path.name)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        vocab_size = int(config.pop("vocab_size"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config_path}: not the configuration of a model: {error!r}") from error
    model = TransformerLM(from_dict(ModelParams, config, str(config_path)), vocab_size)
    try:
        state = load_file(weights_path)
        if model.params.tie_embeddings:
            state["lm_head.weight"] = state["token_embeddings.weight"]
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{weights_path}: damaged, or not the weights of {config_path.name}: {error}"
        ) from error
    return model.to(device).eval()
