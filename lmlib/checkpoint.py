"""Checkpoints of a model with its optimizer, and finished models."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from lmlib.digests import check_digests, write_digests
from lmlib.files import read_json, write_atomically, write_json
from lmlib.memory import require_memory
from lmlib.model import ModelParams, Shape, TransformerLM, model_bytes, weight_shapes
from lmlib.params import from_dict, shown

FLOATS = ("F32", "BF16", "F16", "F64")  # as safetensors calls them
MISSING = "missing; there is no model here"
# params that models of earlier versions were saved without, with the values that these models have
ADDED_LATER = {"num_kv_heads": 0, "attention_window": 0, "qk_norm": False, "logit_softcap": 0.0}

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
    or they do not belong together, MemoryError when the model does not fit.
    """
    config_path, weights_path = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    check_digests(folder, config_path.name, weights_path.name)
    config = read_json(config_path, missing=MISSING)
    vocab_size = config.pop("vocab_size", None)
    if type(vocab_size) is not int or vocab_size < 1:
        raise ValueError(
            f"{config_path}: not the configuration of a model: vocab_size is {shown(vocab_size)}"
        )
    params = from_dict(ModelParams, ADDED_LATER | config, str(config_path))
    state = read_weights([weights_path], weight_shapes(params, vocab_size), config_path)
    return build_model(params, vocab_size, state, config_path).to(device)


def build_model(
    params: ModelParams, vocab_size: int, state: dict[str, torch.Tensor], config_path: Path
) -> TransformerLM:
    """Return a model with the weights of `weight_shapes`, in evaluation mode.

    Raises MemoryError, naming the configuration, when it does not fit.
    """
    what, advice = f"{config_path}: its model", "lower its context length, or take another model"
    require_memory(model_bytes(params, vocab_size), what, advice)
    if params.tie_embeddings:
        state["lm_head.weight"] = state["token_embeddings.weight"]
    model = TransformerLM(params, vocab_size)
    model.load_state_dict(state)
    return model.eval()


def read_weights(
    paths: Iterable[Path],
    shapes: Iterable[tuple[str, Shape]],
    config_path: Path,
    ignores: Callable[[str], bool] = lambda name: False,
) -> dict[str, torch.Tensor]:
    """Return the weights in safetensors files, which must have these names and shapes.

    The headers are compared first. `ignores` tells which other names are allowed. Raises
    FileNotFoundError for a missing file, and ValueError, naming file and weight, for a damaged file
    and for weights that are missing, unknown, of another shape, not floating-point, or not finite.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[Path, Any]] = {}
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: {MISSING}")
            try:
                file = stack.enter_context(safe_open(path, "pt"))
            except SafetensorError as error:
                raise ValueError(f"{path}: damaged, or not a file of weights: {error}") from error
            for name in file.keys():  # noqa: SIM118  # it is not a dict
                if name in found:
                    raise ValueError(f"{path}: has {name}, which {found[name][0]} has too")
                found[name] = path, file
        state = {}
        for name, shape in shapes:
            if name not in found:
                raise ValueError(
                    f"{config_path.parent}: the weights have no {name}, which "
                    f"{config_path.name} calls for"
                )
            path, file = found.pop(name)
            stored = file.get_slice(name)
            if tuple(stored.get_shape()) != shape:
                raise ValueError(
                    f"{path}: {name} has the shape {tuple(stored.get_shape())}; by "
                    f"{config_path.name} it should have {shape}"
                )
            if stored.get_dtype() not in FLOATS:
                raise ValueError(
                    f"{path}: {name} holds {stored.get_dtype()}; weights should be one of "
                    f"{', '.join(FLOATS)}"
                )
            state[name] = path, file
        if unknown := [name for name in found if not ignores(name)]:
            raise ValueError(
                f"{found[unknown[0]][0]}: has {unknown[0]!r:.200}, which a model of "
                f"{config_path.name} does not have"
            )
        return {name: _finite(path, name, file) for name, (path, file) in state.items()}


def _finite(path: Path, name: str, file: Any) -> torch.Tensor:
    """Return a weight in float32; raise ValueError for one that holds NaN or infinities."""
    weight = file.get_tensor(name).float()
    if not all(bound.isfinite() for bound in weight.aminmax()):  # both are NaN if any value is
        raise ValueError(f"{path}: {name} holds values that are not finite; its training diverged")
    return weight
