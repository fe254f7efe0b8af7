"""A lower bound on the memory of a training run, computed before it starts."""

import torch

from lmlib.memory import require_memory
from lmlib.model import ModelParams, count_weights, model_bytes
from lmlib.runtime import resolve_dtype
from lmlib.training.settings import Settings

PROCESS_BYTES = 200_000_000
SIZES = "model.d_model, model.d_ff or model.num_layers"


def require_training_memory(
    settings: Settings, vocab_size: int, num_processes: int, device: torch.device
) -> None:
    """Raise MemoryError, naming the parameters to lower, if the run cannot fit.

    Call it before the model is built: on a GPU in each process, else once for all processes, which
    share the memory of the machine.
    """
    parts = training_bytes(settings, vocab_size, num_processes, device)
    advice = {
        "state": f"lower {SIZES}, or tokenizer.vocab_size",
        "activations": (
            f"lower train.batch_size or train.micro_batch_size, model.context_length, {SIZES}"
        ),
        "process": "lower train.num_processes",
        "batch": "lower train.batch_size or model.context_length",
    }
    if device.type == "cuda":  # the weights are drawn on the CPU
        require_memory(model_bytes(settings.model, vocab_size), "the model", advice["state"])
    needed = sum(parts.values()) * (1 if device.type == "cuda" else num_processes)
    largest = max(parts, key=parts.__getitem__)
    require_memory(needed, "a training step", advice[largest], device)


def training_bytes(
    settings: Settings, vocab_size: int, num_processes: int, device: torch.device
) -> dict[str, int]:
    """Return the memory of each process, part by part, rounded down.

    state        float32 weights, their gradients, and one moment of the optimizer (AdamW has two)
    activations  what the backward pass needs; about half of what uncompiled layers keep
    process      Python with PyTorch, in each of several
    batch        the token ids of a step, all of them in each process
    """
    model, params = settings.model, settings.train
    state = 12 * count_weights(model, vocab_size)
    if params.parallel == "fsdp":
        state //= num_processes
    dtype = params.dtype
    if dtype == "auto" and device.type == "cpu":  # auto would ask a GPU
        dtype = str(resolve_dtype(dtype, device, "train.dtype"))
    sequences = params.sequences_at_a_time(num_processes)
    numbers = sequences * model.context_length * model.num_layers * _kept_per_token(model)
    return {
        "state": state,
        "activations": numbers * (4 if "float32" in dtype else 2),
        "process": PROCESS_BYTES if num_processes > 1 else 0,
        "batch": 8 * params.batch_size * (model.context_length + 1),
    }


def _kept_per_token(model: ModelParams) -> int:
    """Return how many numbers a block keeps for each token: inputs of norms, Q, K, V and so on."""
    kept = 6 * model.d_model + 2 * model.d_kv + 3 * model.d_ff
    if model.qk_norm:
        kept += model.d_model + model.d_kv
    if model.attention == "plain":
        kept += model.num_heads * model.context_length
    return kept
