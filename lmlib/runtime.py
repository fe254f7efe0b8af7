"""What a model runs on: the device, the dtype of matrix products, the compiler, the memory."""

import contextlib
import ctypes
import logging
import math
import os
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# auto: where it pays; graphs: on, and a whole training step is one CUDA graph
CompileMode = Literal["auto", "on", "off", "graphs"]
# Floating-point operations of a run from which on compiling, which takes half a minute or more,
# saves more than that: the work of a minute on a large GPU, of ten minutes on two cores.
COMPILE_OPERATIONS = {"cuda": 1e16, "cpu": 3e14}

NVIDIA_DEVICE = "/dev/nvidia0"  # which the kernel's driver makes
# by name, since importing them takes seconds
_COMPILER_ERRORS = {
    "TorchDynamoException",
    "FailOnRecompileLimitHit",
    "OutOfResources",
    "NoTritonConfigsError",
    "PTXASError",
    "CompilationError",
}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def resolve_device(name: str, where: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    A numbered GPU becomes the current one: pinned memory would open a context on GPU 0 as well. A
    GPU that `auto` cannot take is named in a warning.

    Raises ValueError for an unknown or missing device; the message begins with `where`, the setting
    that holds the name.
    """
    if name == "auto":
        if (obstacle := _obstacle_to_cuda()) is None:
            return torch.device("cuda")
        if obstacle:
            _warn_once(obstacle)
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
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _obstacle_to_cuda() -> str | None:
    """Return why CUDA cannot be used: "" where there is no GPU; None where it can."""
    if torch.cuda.is_available():
        if torch.version.hip is not None:  # AMD's architectures have no such order
            return None
        oldest = min(map(_capability, torch.cuda.get_arch_list()), default=(0, 0))
        found = torch.cuda.get_device_capability()
        if found >= oldest:
            return None
        return (
            f"{torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}, and "
            f"PyTorch {torch.__version__} needs {oldest[0]}.{oldest[1]}: not using it. Builds for "
            "an older CUDA serve older GPUs: https://pytorch.org/get-started/locally/"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not Path(NVIDIA_DEVICE).exists():
        return ""
    if torch.version.cuda is None:
        return (
            f"this machine has an NVIDIA GPU, and PyTorch {torch.__version__} is built without CUDA"
        )
    return (
        f"this machine has an NVIDIA GPU, and PyTorch {torch.__version__} cannot use it: its "
        f"driver is missing, or too old for CUDA {torch.version.cuda} (13.0 needs 580 or newer)"
    )


def _capability(arch: str) -> tuple[int, int]:
    """Return the compute capability of an architecture: (9, 0) for sm_90 and sm_90a."""
    digits = "".join(filter(str.isdigit, arch))
    return int(digits[:-1]), int(digits[-1])


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def resolve_dtype(name: str, device: torch.device, where: str) -> torch.dtype:
    """Return the dtype of matrix products; `auto` takes 16 bits if the device multiplies them.

    That is bfloat16, or float16 on GPUs from before Ampere, with the loss scaled in training.

    Raises ValueError for float16 on any device but CUDA; the message begins with `where`.
    """
    if name == "float16" and device.type != "cuda":
        raise ValueError(
            f"{where} is float16, which trains on CUDA only, and the device is {device}; "
            "choose auto, bfloat16 or float32"
        )
    if name != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):  # Ampere; older ones only emulate bfloat16
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else torch.float32
    native = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has AVX-512 BF16 or AMX; without them bfloat16 is slower."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread for operations on a CPU, as on a few rows of logits.

    Another thread saves nothing there. It costs up to milliseconds when others use the cores, and
    it spins for a while after each operation, in the way of threads that are not PyTorch's.
    """
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return `x` on `device`, without waiting for a copy to CUDA."""
    if device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


@dataclass(frozen=True)
class Runtime:
    """A device, and the dtype in which it multiplies matrices; weights stay float32."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    def environment(self) -> dict[str, str]:
        """Return what the bits of a run depend on, apart from its settings and data."""
        on_cuda = self.device.type == "cuda"
        values = {
            "device": torch.cuda.get_device_name(self.device) if on_cuda else self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": str(torch.get_num_threads()),
            "torch": str(torch.__version__),
        }
        if on_cuda:
            values["cuda"] = str(torch.version.cuda)
            values["cudnn"] = str(torch.backends.cudnn.version())
            values["driver"] = _driver_version()
        return values

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products run in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @contextlib.contextmanager
    def deterministic(self) -> Iterator[None]:
        """Within the context, CUDA sums in the same order in every run, as the CPU always does.

        An operation that PyTorch cannot do in a fixed order raises RuntimeError. With `warn_only`,
        the gradients of attention would be summed in random order, too.
        """
        if self.device.type != "cuda":
            yield
            return
        # cuBLAS reads this at its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        enabled = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        memory: Any = torch.utils.deterministic  # a module with a property, unknown to the checker
        fill = memory.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # 6% faster, and nothing reads it
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
            memory.fill_uninitialized_memory = fill

    def should_compile(self, mode: CompileMode, operations: float) -> bool:
        """Return whether to call `torch.compile`; `auto` does where it pays off.

        That is, on CUDA or a CPU if the run has many `operations` (floating-point, in all).

        If the compiler that PyTorch calls (C++ for the CPU, C for CUDA) or the Python headers
        that it includes are missing, nothing is compiled, and a warning says why.
        """
        on_cuda = self.device.type == "cuda"
        if mode == "off":
            return False
        if mode == "auto" and operations < COMPILE_OPERATIONS.get(self.device.type, math.inf):
            return False
        compilers = ("gcc", "clang") if on_cuda else ("g++", "clang++")
        missing = ""
        if not any(map(shutil.which, compilers)):
            missing = f"none of {', '.join(compilers)} found"
        elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
            missing = "no Python.h found (Debian: apt install python3-dev)"
        if missing:
            logger.warning("%s; the model runs uncompiled", missing)
        return not missing

    def compile(
        self,
        module: nn.Module,
        trial: Callable[[nn.Module], object],
        mode: CompileMode,
        operations: float,
    ) -> nn.Module:
        """Return `module` compiled if it should be (`should_compile`) and can be, else unchanged.

        `trial` calls the module as it will be called later, forward and, in training, backward:
        PyTorch compiles in the first call. If the compiler fails, or on a GPU the first launch of
        what it wrote, a warning says so; any other error is raised.
        """
        if not self.should_compile(mode, operations):
            return module

        allow_spaces_in_paths()
        logger.info("compiling the model, which can take a minute")
        # a module, though its type does not say so
        compiled: Any = torch.compile(module, dynamic=False)
        try:
            trial(compiled)
        except Exception as error:
            if not is_of_compiler(error):
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            # the first line may name the backend alone, and the second what it raised
            if lines[0].endswith(" raised:") and len(lines) > 1:
                del lines[0]
            logger.warning("the compiler failed (%s); the model runs uncompiled", lines[0])
            return module
        return compiled

    def record(
        self,
        function: Callable[[], tuple[Tensor, ...]],
        stream: torch.cuda.Stream | None = None,
    ) -> Callable[[], tuple[Tensor, ...]]:
        """Record the kernels that `function` launches on CUDA; return what launches them again.

        That is a CUDA graph: one launch in place of hundreds, for models so small that launching
        kernels takes longer than running them. Recording runs none of them. Each call reads the
        same tensors as the recorded one, and overwrites the tensors that it returns. It is recorded
        on `stream`, or on a new one.

        Raises RuntimeError if `function` waits for the GPU, or does what cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.graph(graph, stream=stream or torch.cuda.Stream(self.device)):
                results = function()
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # which a failed recording does not do
            raise error.__context__ or error from None  # the first one says what was wrong

        def launch() -> tuple[Tensor, ...]:
            graph.replay()
            return results

        return launch

    def keep_freed_memory(self) -> None:
        """Let the process keep the CPU memory that tensors have freed, for the next tensors.

        By default the C library of Linux returns large blocks to the system and requests them
        again, and the system zeroes them page by page: a quarter of a second per gigabyte in
        each training step. On other systems and devices this does nothing.
        """
        if self.device.type != "cpu" or not sys.platform.startswith("linux"):
            return
        with contextlib.suppress(OSError, AttributeError):  # a C library other than GNU's
            mallopt = ctypes.CDLL(None).mallopt
            # allocate up to 1 GiB (older versions: 32 MiB) on the heap, and do not trim it
            if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
                mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)

    def peak_memory_bytes(self) -> int | None:
        """Return the peak memory: of tensors on CUDA, of all of MPS, of the process on a CPU.

        None on Windows, which does not report it.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        if sys.platform == "win32":
            return None
        import resource  # Unix only

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@cache
def allow_spaces_in_paths() -> None:
    """Let `torch.compile` link where PyTorch or Python is installed in a folder with a space.

    PyTorch 2.13 writes the `-L` options of the C++ compiler without quotes:
    https://github.com/pytorch/pytorch/pull/191010.
    """
    from torch._inductor.cpp_builder import BuildOptionsBase  # importing it takes a second

    plain = BuildOptionsBase.get_libraries_dirs

    def quoted(self: BuildOptionsBase) -> list[str]:
        return [shlex.quote(folder) for folder in plain(self)]

    BuildOptionsBase.get_libraries_dirs = quoted


def is_of_compiler(error: Exception) -> bool:
    """Return whether torch.compile raised the error: while it compiled, or when Triton launched.

    What Triton raises at the first launch, such as a kernel that needs more shared memory than the
    GPU has, are plain RuntimeErrors.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint(_COMPILER_ERRORS)


def _driver_version() -> str:
    """Return the version of NVIDIA's driver; empty where Linux does not say."""
    with contextlib.suppress(OSError):
        about = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"\d+\.\d+(\.\d+)?", about):
            return found[0]
    return ""
