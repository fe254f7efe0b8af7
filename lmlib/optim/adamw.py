"""AdamW."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmlib.native import address_of, load_kernels
from lmlib.runtime import allow_spaces_in_paths, is_of_compiler, to_device
from lmlib.sharding import local
from lmlib.threads import shared_pool

logger = logging.getLogger(__name__)

Tensors = Sequence[Tensor]
Numbers = tuple[float, ...]  # what the update of a parameter needs, apart from its tensors
FOREACH: Any = torch  # type checkers do not know its _foreach_ functions


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay.

        m = beta1 m + (1 - beta1) g                      v = beta2 v + (1 - beta2) g**2
        p = p - lr * weight_decay * p                    then, with t counted from 1,
        p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Every setting may differ between parameter groups, and `group["lr"]` may change at any step.
    Parameters without a gradient are skipped. State: m and v in the parameter's dtype, and t.

    Source:  Loshchilov & Hutter 2019, arXiv:1711.05101.
    """

    compiled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        if lr < 0:
            raise ValueError(f"AdamW: lr is {lr}; it must be at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas are {tuple(betas)}; both must be in [0, 1)")
        if eps < 0:
            raise ValueError(f"AdamW: eps is {eps}; it must be at least 0")
        if weight_decay < 0:
            raise ValueError(f"AdamW: weight_decay is {weight_decay}; it must be at least 0")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def compile(self) -> None:
        """From now on, update with code from `torch.compile`: for a GPU, in one pass over memory.

        Settings that change, such as the learning rate, do not compile it again. If the compiler
        fails, a warning says so, and the updates are the uncompiled ones.
        """
        self.compiled = True
        self._on_device: dict[int, Tensor] = {}  # by group: the numbers of `advance`

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | None = None, *, grad_scale: Tensor | None = None
    ) -> Any:
        """Call `closure` (if any) with gradients enabled, take one step, return its result.

        Gradients are multiplied by `grad_scale`, a scalar tensor (see `clip_scale`), but not
        changed in place.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.advance()
        self.update(None if grad_scale is None else torch.as_tensor(grad_scale))
        return loss

    @torch.no_grad()
    def advance(self) -> None:
        """Count a step, and keep the numbers that its update needs: the first half of `step`.

        Compiled updates read the numbers from memory of the device, at the same place each time, so
        that a CUDA graph that has recorded `update` updates with the numbers of the step.
        """
        self._rows: dict[int, list[Numbers]] = {}  # by group: of each parameter with a gradient
        for index, group in enumerate(self.param_groups):
            settings = group | _numbers(group)
            parameters = _with_gradients(group)
            rows = [self._advance(p, settings) for p in parameters]
            self._rows[index] = rows
            if not self.compiled or not rows:
                continue
            wide = torch.promote_types(parameters[0].dtype, torch.float32)
            numbers = torch.tensor(rows, dtype=wide)
            device = parameters[0].device
            held = self._on_device.get(index)
            if held is not None and held.shape == numbers.shape:
                held.copy_(numbers.pin_memory() if held.is_cuda else numbers, non_blocking=True)
            else:
                self._on_device[index] = to_device(numbers, device)

    @torch.no_grad()
    def update(self, grad_scale: Tensor | None = None) -> None:
        """Update the weights with the numbers of the last `advance`: the second half of `step`."""
        for index, group in enumerate(self.param_groups):
            if parameters := _with_gradients(group):
                self._update(index, group, parameters, grad_scale)

    def _advance(self, p: Tensor, group: dict[str, Any]) -> tuple[float, ...]:
        """Count a step of a parameter; return its numbers."""
        state = self.state[p]
        if not state:
            state["t"] = 0
            state["m"] = torch.zeros_like(p)
            state["v"] = torch.zeros_like(p)
        state["t"] += 1
        t, lr, (beta1, beta2) = state["t"], group["lr"], group["betas"]
        return (
            1 - beta1,
            beta2,
            1 - beta2,
            1 - lr * group["weight_decay"],
            1 / math.sqrt(1 - beta2**t),
            group["eps"],
            lr / (1 - beta1**t),
        )

    def _update(
        self,
        index: int,
        group: dict[str, Any],
        parameters: list[Tensor],
        grad_scale: Tensor | None,
    ) -> None:
        """Update the parameters of a group."""
        plain: dict[torch.dtype, list[tuple[list[Tensor], Numbers]]] = {}
        others: dict[Numbers, list[int]] = {}
        rows = [
            [local(x) for x in (p, p.grad, self.state[p]["m"], self.state[p]["v"])]
            for p in parameters
        ]
        for place, (row, numbers) in enumerate(zip(rows, self._rows[index], strict=True)):
            if not self.compiled and _in_plain_memory(row):
                plain.setdefault(row[0].dtype, []).append((row, numbers))
            else:
                others.setdefault(numbers, []).append(place)
        scale = 1.0 if grad_scale is None or not plain else grad_scale.item()
        for each in plain.values():
            _update_in_one_pass(each, scale)
        for places in others.values():
            lists = map(list, zip(*(rows[place] for place in places), strict=True))
            self._run(_update_lists, index, places[0], grad_scale, *lists)

    def _run(
        self,
        update: Callable[..., None],
        index: int,
        place: int,
        grad_scale: Tensor | None,
        *tensors: list[Tensor],
    ) -> None:
        """Call `update(numbers, grad_scale, *tensors)`, compiled if `compile` has been called.

        The numbers are those of the parameter at `place` in group `index`. Compiled updates get
        them in a tensor, so that nothing is compiled again when they change.
        """
        if self.compiled:
            numbers = self._on_device[index][place]
            scale = numbers.new_ones(()) if grad_scale is None else grad_scale.to(numbers)
            try:
                _compiled(update)(numbers, scale, *tensors)
                return
            except Exception as error:
                if not is_of_compiler(error):
                    raise
                self.compiled = False
                logger.warning("the compiler failed (%r); the optimizer runs uncompiled", error)
        update(self._rows[index][place], grad_scale, *tensors)


@cache
def _compiled(update: Callable[..., None]) -> Callable[..., None]:
    """Return the compiled function; one code for each list of shapes, of which a model has few.

    Dynamo keeps eight codes of a function, for all optimizers of a process, unless told otherwise.
    """
    import torch._dynamo.config as config  # importing it takes a second

    allow_spaces_in_paths()
    config.recompile_limit = max(config.recompile_limit, 64)
    return torch.compile(update, dynamic=False, fullgraph=True)


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group as Python numbers; a scalar tensor may stand for each."""
    settings = {name: float(group[name]) for name in ("lr", "eps", "weight_decay")}
    return settings | {"betas": tuple(map(float, group["betas"]))}


def _with_gradients(group: dict[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


def _update_lists(
    numbers: Numbers | Tensor,
    grad_scale: Tensor | None,
    p: Tensors,
    g: Tensors,
    m: Tensors,
    v: Tensors,
) -> None:
    """Update tensors of any kind, each operation on all at once.

    On a GPU these are few kernels, and one when they are compiled.
    """
    weight1, beta2, weight2, decay, root_scale, eps, rate = numbers
    g = scaled(g, grad_scale)
    interpolate(m, g, weight1)
    if isinstance(numbers, Tensor):  # each list is changed by one operation, and so written once
        interpolate(v, FOREACH._foreach_mul(g, g), weight2)
        roots = FOREACH._foreach_mul(FOREACH._foreach_sqrt(v), root_scale)
        # in a list: a tensor alone would be read as a number, for which the CPU would wait
        changes = FOREACH._foreach_div(m, FOREACH._foreach_add(roots, [eps] * len(p)))
        decays = FOREACH._foreach_sub(p, FOREACH._foreach_mul(p, decay))
        decays = FOREACH._foreach_add(decays, FOREACH._foreach_mul(changes, rate))
        FOREACH._foreach_sub_(p, decays)
        return
    FOREACH._foreach_mul_(v, beta2)
    FOREACH._foreach_addcmul_(v, g, g, weight2)
    denominators = FOREACH._foreach_sqrt(v)
    FOREACH._foreach_mul_(denominators, root_scale)
    FOREACH._foreach_add_(denominators, eps)
    FOREACH._foreach_mul_(p, decay)
    FOREACH._foreach_addcdiv_(p, m, denominators, -rate)


# -- operations on lists, with numbers of Python (one pass over memory) or in tensors (for the
#    compiler, which makes one pass of them)


def scaled(gradients: Tensors, grad_scale: Tensor | None) -> Tensors:
    """Return the gradients times their scale, if there is one."""
    if grad_scale is None:
        return gradients
    return FOREACH._foreach_mul(gradients, grad_scale.to(gradients[0]))


def add(x: Tensors, y: Tensors, factor: float | Tensor) -> None:
    """Add factor * y to each x."""
    if isinstance(factor, Tensor):
        FOREACH._foreach_add_(x, FOREACH._foreach_mul(y, factor))
    else:
        FOREACH._foreach_add_(x, y, alpha=factor)


def interpolate(x: Tensors, y: Tensors, weight: float | Tensor) -> None:
    """Set each x to (1 - weight) x + weight y."""
    if isinstance(weight, Tensor):
        add(x, FOREACH._foreach_sub(y, x), weight)
    else:
        FOREACH._foreach_lerp_(x, y, weight)


def _update_in_one_pass(rows: list[tuple[list[Tensor], Numbers]], grad_scale: float) -> None:
    """Update tensors in plain memory, all of one dtype, with the kernels.

    Nothing is summed over elements, so the bits do not depend on the number of threads.
    """
    kernels = load_kernels("lmlib.optim.kernels")
    dtype = rows[0][0][0].dtype
    scalars = [(grad_scale, *numbers) for _, numbers in rows]
    arrays = (
        np.array([[x.data_ptr() for x in tensors] for tensors, _ in rows], dtype=np.int64),
        np.array([tensors[0].numel() for tensors, _ in rows], dtype=np.int64),
        # as wide as the weights: products with wider numbers would be slow
        np.array(scalars, dtype=np.float32 if dtype == torch.float32 else np.float64),
    )
    work = (*map(address_of, arrays), len(rows))
    update = kernels.adamw_float32 if dtype == torch.float32 else kernels.adamw_float64
    shares = torch.get_num_threads()

    def run(share: int) -> Any:
        update(*work, share, shares)
        return arrays, rows  # whose memory must last until each share is done, whatever happens

    others = []
    try:
        for share in range(1, shares):
            others.append(shared_pool().submit(run, share))
        run(0)
    finally:
        for other in others:
            other.result()


def _in_plain_memory(tensors: list[Tensor]) -> bool:
    """Return whether the kernels can update the tensors, which share their memory with NumPy."""
    p = tensors[0]
    return (
        p.device.type == "cpu"
        and p.dtype in (torch.float32, torch.float64)
        and all(
            x.is_contiguous()
            and not x.is_neg()  # in memory is the negative of what it shows
            and x.dtype == p.dtype
            and x.numel() == p.numel()
            for x in tensors
        )
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices, which decay, and gains of norms, which do not."""
    matrices: list[Tensor] = [p for p in model.parameters() if p.ndim >= 2]
    vectors: list[Tensor] = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
