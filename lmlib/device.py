"""Which device, which dtype, whether to compile (the `auto` settings), and the order of sums."""

import contextlib
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU."""
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
        raise ValueError(f"train.device is '{name}'; choose auto, cpu, cuda, cuda:N or mps")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not available[device.type]() or (device.index or 0) >= count:
        raise ValueError(
            f"train.device is '{name}', which this machine does not have; `auto` takes the best "
            "one it has"
        )
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; `auto` is bfloat16 where the device multiplies it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
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


def should_compile(name: str, device: torch.device) -> bool:
    """Return whether to `torch.compile`; `auto` does on CUDA, where it pays in every training.

    Without the compiler that PyTorch calls (C++ for the CPU, C for CUDA), or without the headers
    of Python that it includes, nothing is compiled.
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
        logger.warning("train.compile: %s; training uncompiled", missing)
    return not missing
