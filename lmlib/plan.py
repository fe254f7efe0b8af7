"""What a run takes, known before it begins: weights, FLOPs, memory.

The memory of a step is counted, not guessed: a forward and backward pass runs on fake tensors,
which have shapes and no values, and the memory of each tensor is added up until it is freed. That
takes seconds for any size of model. What a process on a CPU takes apart from its tensors is an
estimate.
"""

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmlib.memory import available_bytes, gigabytes
from lmlib.model import (
    ModelParams,
    NextTokenLoss,
    TransformerLM,
    count_weights,
    documents_of,
    flops_per_token,
    weight_shapes,
)
from lmlib.optim.muon import BATCH, newton_schulz
from lmlib.training import Settings

USUAL_TOKENS_PER_WEIGHT = 20  # Hoffmann et al. 2022 (Chinchilla), arXiv:2203.15556
NUMBER = 4  # bytes of a float32
PROGRAM = 400_000_000  # bytes of Python, PyTorch and the kernels
# The gaps between tensors, which the C library keeps (see Runtime.keep_freed_memory), as a share
# of the tensors: 0.2 to 0.8 in the shapes of tests/test_plan.py.
FRAGMENTATION = 0.45
# What can be counted within a minute, since each layer and each part of the logits takes its time
MOST_LAYERS = 500
MOST_WEIGHTS = 10**13
MOST_TOKENS = 1 << 21  # at a time


def weights_by_part(params: ModelParams, vocab_size: int) -> dict[str, int]:
    """Return how many weights the embedding, attention, feed-forward, norms and output have.

    A matrix that is both embedding and output counts as embedding.
    """
    parts: Counter[str] = Counter()
    for name, shape in weight_shapes(params, vocab_size):
        parts[_part(name, len(shape))] += prod(shape)
    return dict(parts)


def _part(name: str, axes: int) -> str:
    if axes == 1:
        return "norms"
    for key, part in (
        ("token_embeddings", "embedding"),
        ("lm_head", "output"),
        (".attn.", "attention"),
    ):
        if key in name:
            return part
    return "feed-forward"


@dataclass(frozen=True)
class Work:
    """The size of a run: its weights, the tokens of all steps, and their FLOPs."""

    weights: int
    tokens: int
    flops: int


def require_countable(settings: Settings, vocab_size: int) -> None:
    """Raise ValueError if counting what a run takes would take minutes."""
    model = settings.model
    tokens = settings.train.sequences_at_a_time(1) * model.context_length
    for number, most, what in (
        (model.num_layers, MOST_LAYERS, "layers"),
        (tokens, MOST_TOKENS, "tokens at a time"),
        (count_weights(model, vocab_size), MOST_WEIGHTS, "weights"),
    ):
        if number > most:
            raise ValueError(f"{number:,} {what} are too many to plan for; {most:,} can be counted")


def count_work(settings: Settings, vocab_size: int) -> Work:
    """Return the size of a run."""
    tokens = settings.train.num_steps * settings.train.batch_size * settings.model.context_length
    return Work(
        weights=count_weights(settings.model, vocab_size),
        tokens=tokens,
        flops=tokens * flops_per_token(settings.model, vocab_size),
    )


@dataclass(frozen=True)
class Memory:
    """What a training step takes at its peak, in bytes.

    weights, gradients       float32
    moments                  of the optimizer
    best                     the best weights so far, with train.patience
    logits, activations      what else there is at the peak, tensors as wide as the vocabulary apart
    program, fragmentation   of a process on a CPU, beyond its tensors; 0 on a GPU. Estimates.
    """

    weights: int
    gradients: int
    moments: int
    best: int
    activations: int
    logits: int
    program: int
    fragmentation: int

    @property
    def tensors(self) -> int:
        """Return the bytes of all tensors."""
        return self.total - self.program - self.fragmentation

    @property
    def total(self) -> int:
        """Return all of it."""
        return sum(vars(self).values())

    @property
    def saving(self) -> int:
        """Return what saving a state takes in addition, in the machine's memory: two copies."""
        return 2 * (self.weights + self.moments)


def count_memory(
    settings: Settings, vocab_size: int, dtype: torch.dtype, sequences_at_a_time: int
) -> Memory:
    """Return the memory of a step in one process, uncompiled, with products in `dtype`.

    Attention and the parts of the loss are those of a CPU.
    """
    weights = NUMBER * count_weights(settings.model, vocab_size)
    moments = _moments(settings, vocab_size)
    best = weights if settings.train.patience else 0
    gradients, live = _passes(settings, vocab_size, dtype, sequences_at_a_time)
    activations, logits = live.peak - live.peak_of_width - gradients, live.peak_of_width
    updating = _orthogonalising(settings, vocab_size, dtype)
    if updating > activations + logits:
        activations, logits = updating, 0
    on_cpu = settings.device.type == "cpu"
    tensors = weights + gradients + moments + best + activations + logits
    return Memory(
        weights=weights,
        gradients=gradients,
        moments=moments,
        best=best,
        activations=activations,
        logits=logits,
        program=PROGRAM if on_cpu else 0,
        fragmentation=int(FRAGMENTATION * tensors) if on_cpu else 0,
    )


def cache_bytes(params: ModelParams) -> int:
    """Return the bytes of the keys and values that sampling keeps of a full context, in float32."""
    return NUMBER * 2 * params.num_layers * params.context_length * params.d_kv


def _hidden_matrices(settings: Settings, vocab_size: int) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of the matrices that Muon updates, if it does."""
    for name, shape in weight_shapes(settings.model, vocab_size):
        if settings.optim.name == "muon" and name.startswith("layers.") and len(shape) == 2:
            yield shape


def _moments(settings: Settings, vocab_size: int) -> int:
    hidden = sum(map(prod, _hidden_matrices(settings, vocab_size)))
    return NUMBER * (2 * count_weights(settings.model, vocab_size) - hidden)


def _orthogonalising(settings: Settings, vocab_size: int, dtype: torch.dtype) -> int:
    """Return what Muon takes for its largest batch of matrices, apart from weights and moments."""
    most = 0
    for shape, count in Counter(_hidden_matrices(settings, vocab_size)).items():
        together = min(count, max(1, BATCH // prod(shape)))
        with _fake(), Live() as live:
            lists = [torch.empty(together, *shape) for _ in range(2)]  # scaled gradients, updates
            result = newton_schulz(torch.stack(list(lists[1])).to(dtype)).to(torch.float32)
        del lists, result
        most = max(most, live.peak)
    return most


def _passes(
    settings: Settings, vocab_size: int, dtype: torch.dtype, size: int
) -> tuple[int, "Live"]:
    """Return the bytes of the gradients, and the count of what the passes of a step make."""
    params, context = settings.train, settings.model.context_length
    parts = min(2, params.batch_size // size)  # the second has the gradients of the first
    with torch.device("meta"):  # where drawing weights does nothing
        model = TransformerLM(settings.model, vocab_size)
    with _fake():
        model.to_empty(device="cpu")
        if params.residual == "dtype":
            model.residual_dtype = dtype
        next_token_loss = NextTokenLoss(model)
        ids = torch.zeros((params.batch_size, context), dtype=torch.int64)
        batch: dict[str, Tensor] = {"inputs": ids, "targets": ids}
        if params.copy_weight > 1:
            batch["weights"] = torch.zeros((params.batch_size, context))
        if params.windows == "isolated":
            batch["documents"] = documents_of(ids, 0)
        with Live(width=vocab_size) as live:
            for first in range(0, parts * size, size):
                part = {name: x[first : first + size] for name, x in batch.items()}
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    loss, _ = next_token_loss(**part)
                loss.backward()
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    return gradients, live


def _fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a while to import

    return FakeTensorMode(allow_non_fake_inputs=True)


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make until they are freed.

    bytes            now
    peak             the most so far
    peak_of_width    of these, the bytes of tensors whose last axis is `width` long
    """

    def __init__(self, width: int = -1) -> None:
        super().__init__()
        self.bytes = self.peak = self.peak_of_width = 0
        self._width, self._of_width = width, 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation; count what it returns."""
        given = {id(x.untyped_storage()) for x in _tensors((args, kwargs or {}))}
        result = func(*args, **(kwargs or {}))
        for x in _tensors(result):
            storage = x.untyped_storage()
            if id(storage) in given or storage in self._known:
                continue
            size = storage.nbytes()
            of_width = size if x.ndim and x.shape[-1] == self._width else 0
            self._known.add(storage)
            self._add(size, of_width)
            weakref.finalize(storage, self._add, -size, -of_width)
        if self.bytes > self.peak:
            self.peak, self.peak_of_width = self.bytes, self._of_width
        return result

    def _add(self, size: int, of_width: int) -> None:
        self.bytes += size
        self._of_width += of_width


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        yield from itertools.chain.from_iterable(map(_tensors, values))


def summary(settings: Settings, vocab_size: int, num_processes: int = 1) -> str:
    """Return what a run takes, in two lines: weights, tokens, FLOPs, memory of a process.

    The memory is that of a process with the whole model; with fsdp each has less.
    """
    work, device = count_work(settings, vocab_size), settings.device
    size = settings.train.sequences_at_a_time(num_processes)
    memory = count_memory(settings, vocab_size, settings.runtime(device).dtype, size)
    return (
        f"plan: {work.weights:,} weights, {work.tokens:,} tokens ({work.tokens / work.weights:.1f} "
        f"a weight; {USUAL_TOKENS_PER_WEIGHT} are usual)\n"
        f"      {work.flops:.1e} FLOPs, about {gigabytes(memory.total)} of memory "
        f"({gigabytes(available_bytes(device))} free)"
    )


def largest_micro_batch(
    settings: Settings, vocab_size: int, dtype: torch.dtype, available: int
) -> int:
    """Return the most sequences at a time whose step fits into `available` bytes; 0: not even one.

    The answer divides train.batch_size, as train.micro_batch_size must.
    """
    batch = settings.train.batch_size
    small = [size for size in range(1, math.isqrt(batch) + 1) if batch % size == 0]
    most = MOST_TOKENS // settings.model.context_length
    sizes = sorted(size for size in {*small, *(batch // size for size in small)} if size <= most)
    low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        if count_memory(settings, vocab_size, dtype, sizes[middle]).total <= available:
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else 0
