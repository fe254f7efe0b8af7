"""What a model runs on: the device, its dtype, its compiler, the order of sums, its memory."""

import contextlib
import ctypes
import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def resolve_device(name: str, where: str = "train.device") -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    `where` the name was set begins the text of the ValueError for one that cannot be had.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    available = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device is None or device.type not in available:
        raise ValueError(f"{where} is '{name}'; choose auto, cpu, cuda, cuda:N or mps")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not available[device.type]() or (device.index or 0) >= count:
        raise ValueError(
            f"{where} is '{name}', which this machine does not have; `auto` takes the best one "
            "it has"
        )
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; `auto` is bfloat16 where the device multiplies it.

    Raises ValueError for float16 anywhere but on CUDA.
    """
    if name == "float16" and device.type != "cuda":
        raise ValueError(
            f"train.dtype is float16, which trains on CUDA only, and the device is {device}; "
            "choose auto, bfloat16 or float32"
        )
    if name != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has AVX-512 BF16 or AMX instructions; without them bfloat16 is slower."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which matrix products run in `dtype`; weights stay float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Within `with`, CUDA adds in the same order at every run, as the CPU does anyway.

    An operation that PyTorch cannot do in a fixed order raises RuntimeError: were it only to warn
    (`warn_only`), the gradients of its attention kernels would keep their random order, too.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module with a property, unknown to type checkers
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # 6% faster, and nothing reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


def should_compile(name: str, device: torch.device, where: str = "train.compile") -> bool:
    """Return whether to `torch.compile`; `auto` does on CUDA, where it pays in every training.

    `graphs` does, too: see `compiled`.

    Without the compiler that PyTorch calls (C++ for the CPU, C for CUDA), or without the headers
    of Python that it includes, nothing is compiled, and a warning, which begins with `where`,
    says why.
    """
    if name == "off" or (name == "auto" and device.type != "cuda"):
        return False
    compilers = ("gcc", "clang") if device.type == "cuda" else ("g++", "clang++")
    missing = ""
    if not any(map(shutil.which, compilers)):
        missing = f"none of {', '.join(compilers)} found"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing = "no Python.h found (Debian: apt install python3-dev)"
    if missing:
        logger.warning("%s: %s; the model runs uncompiled", where, missing)
    return not missing


def compiled(
    module: nn.Module,
    trial: Callable[[nn.Module], object],
    where: str = "train.compile",
    *,
    graphs: bool = False,
) -> nn.Module:
    """Return `module` compiled; or as it is, with a warning, where the compiler fails in `trial`.

    With `graphs` the kernels of a call on CUDA are recorded and started as one (CUDA graphs), for
    models so small that starting them takes longer than running them; elsewhere that is nothing.

    `trial` calls the module as it will be called, in a training forwards and backwards (PyTorch
    compiles at the first call), and leaves no trace. Any other error than the compiler's is
    raised. `where` begins what is logged.
    """
    from torch._dynamo.exc import TorchDynamoException  # importing it takes a second

    logger.info("%s: compiling the model, which can take a minute", where)
    mode = "reduce-overhead" if graphs else None
    # a module, which the types do not say
    fast: Any = torch.compile(module, dynamic=False, mode=mode)
    try:
        trial(fast)
    except TorchDynamoException as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        logger.warning("%s: the compiler failed (%s); the model runs uncompiled", where, first_line)
        return module
    return fast


class Environment:
    """What the bits of a training depend on beside its settings; part of each saved state."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        on_cuda = device.type == "cuda"
        self.values = {
            "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "threads": str(torch.get_num_threads()),
            "torch": str(torch.__version__),
        }

    def state_dict(self) -> dict[str, str]:
        """Return what a state says of where it was saved."""
        return self.values

    def load_state_dict(self, saved: dict[str, str]) -> None:
        """Warn of each value that is another than where the state was saved."""
        for name, value in self.values.items():
            if saved.get(name) != value:
                logger.warning(
                    "resuming with %s %s from a state saved with %s: sums may be added in "
                    "another order, so the result may differ from that of an uninterrupted run",
                    name,
                    value,
                    saved.get(name),
                )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return `x` on `device`; a copy to CUDA runs beside the CPU, which does not wait for it."""
    if device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def keep_freed_memory(device: torch.device) -> None:
    """Let the process keep the memory that its tensors on the CPU have freed, for the next ones.

    Without this the C library of Linux gives large blocks back to the system and asks for them
    anew, which fills them with zeros page by page: a quarter of a second for each gigabyte, in
    each step of a training. Elsewhere nothing is done.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        mallopt = ctypes.CDLL(None).mallopt
        # up to a GiB from the heap (older versions: 32 MiB), which is not cut back
        if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
            mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the most memory used at once: tensors on CUDA, all of MPS, the process on a CPU.

    None on Windows, which does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return None
    import resource  # Unix alone has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
