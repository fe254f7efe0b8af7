"""Let PyTorch's CUDA build believe in a GPU: enough to trace and to write code, not to run it.

It needs Linux, g++, and torch with CUDA and Triton in the environment; no driver and no GPU.
"""

import ctypes
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

GUARD = "LMLIB_PRETENDED_GUARD"  # the library that is preloaded
# of an H100, whose kernels are written; other capabilities change what a kernel may use
MULTIPROCESSORS, SHARED_MEMORY, MEMORY = 132, 233_472, 80 << 30


def restart_with_guard() -> None:
    """Compile guard.cpp and start this Python again with it; return if that has been done."""
    if GUARD in os.environ:
        ctypes.CDLL(os.environ[GUARD]).lmlib_install()
        return
    if torch.version.cuda is None:
        raise SystemExit("error: this needs a PyTorch with CUDA; `make check-cuda` installs one")
    from torch.utils.cpp_extension import include_paths

    site = Path(sysconfig.get_path("purelib"))
    folders = [site / "torch" / "lib", *sorted(site.glob("nvidia/*/lib"))]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "guard.so"
        command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", "-w"]
        command += [f"-I{path}" for path in include_paths()]
        command += [str(Path(__file__).with_name("guard.cpp")), "-o", str(library)]
        command += [f"-L{folders[0]}", "-lc10", "-ltorch_cpu"]
        subprocess.run(command, check=True)
        env = os.environ | {GUARD: str(library), "LD_PRELOAD": str(library)}
        env["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, folders))
        raise SystemExit(subprocess.run([sys.executable, *sys.orig_argv[1:]], env=env).returncode)


def pretend(capability: tuple[int, int] = (9, 0)) -> None:
    """Replace what asks the driver about the GPU."""
    major, minor = capability
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=major,
        minor=minor,
        multi_processor_count=MULTIPROCESSORS,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65_536,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=SHARED_MEMORY - 1024,
        shared_memory_per_multiprocessor=SHARED_MEMORY,
        warp_size=32,
        total_memory=MEMORY,
        L2_cache_size=50 << 20,
        clock_rate=1_980_000,
        memory_clock_rate=2_619_000,
        memory_bus_width=5120,
        is_integrated=0,
        is_multi_gpu_board=0,
        gcnArchName="",
    )
    stream = SimpleNamespace(
        cuda_stream=0, stream_id=0, device_index=0, device_type=1, device=torch.device("cuda", 0)
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": properties,
        "get_device_capability": capability,
        "get_device_name": properties.name,
        "get_arch_list": [f"sm_{major}{minor}"],
        "is_bf16_supported": major >= 8,
        "synchronize": None,
        "set_device": None,
        "current_stream": stream,
        "mem_get_info": (MEMORY, MEMORY),
        "max_memory_allocated": 0,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, _always(answer))
    for name in ("_cuda_exchangeDevice", "_cuda_maybeExchangeDevice", "_cuda_getDevice"):
        setattr(torch._C, name, _always(0))
    torch._C._cuda_getDeviceCount = _always(1)  # type: ignore[assignment]
    torch.backends.cudnn.version = _always(0)  # type: ignore[assignment]
    _pretend_to_the_compiler(properties, capability)


def _always(answer: Any) -> Any:
    return lambda *_, **__: answer


def _pretend_to_the_compiler(properties: Any, capability: tuple[int, int]) -> None:
    """Replace what Dynamo, Inductor and Triton ask."""
    import torch._dynamo.device_interface as interface
    import torch._inductor.config as config
    import torch._inductor.fx_passes.fuse_attention
    import torch._inductor.fx_passes.misc_patterns
    import torch._inductor.fx_passes.pad_mm
    import torch._subclasses.fake_tensor
    import torch.utils._triton
    from triton.backends.compiler import GPUTarget  # type: ignore[import-not-found]
    from triton.runtime.driver import driver  # type: ignore[import-not-found]

    major, minor = capability
    cuda: Any = interface.CudaInterface
    answers: dict[str, Any] = {
        "get_device_properties": properties,
        "get_compute_capability": 10 * major + minor,
        "current_device": 0,
        "device_count": 1,
        "is_available": True,
        "is_bf16_supported": major >= 8,
        "is_triton_capable": True,
        "raise_if_triton_unavailable": None,
        "synchronize": None,
        "get_raw_stream": 0,
    }
    for name, answer in answers.items():
        setattr(cuda, name, staticmethod(_always(answer)))
    for name in ("get_device_properties", "current_device"):
        setattr(cuda.Worker, name, staticmethod(_always(answers[name])))
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("torch.") and hasattr(module, "has_triton"):
            module.has_triton = _always(True)  # type: ignore[attr-defined]
    torch._subclasses.fake_tensor.init_gpu_context = _always(None)
    target = GPUTarget("cuda", 10 * major + minor, 32)
    driver.set_active(
        SimpleNamespace(
            get_current_target=_always(target),
            get_current_device=_always(0),
            get_current_stream=_always(0),
            get_device_interface=_always(torch.cuda),
            is_active=_always(True),
        )
    )
    # these run small tensors on the device
    config.joint_graph_constant_folding = False
    torch._inductor.fx_passes.fuse_attention._sfdp_init = _always(None)
    torch._inductor.fx_passes.pad_mm._pad_mm_init = _always(None)
    torch._inductor.fx_passes.misc_patterns._misc_patterns_init = _always(None)


def flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any = None, *, is_causal: bool
) -> torch.Tensor:
    """Return what `scaled_dot_product_attention` does on a GPU, which would ask the driver."""
    if mask is not None:
        raise NotImplementedError("flash attention takes no mask")
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    if q.dtype == torch.float32:
        attend = torch.ops.aten._scaled_dot_product_efficient_attention
        return attend(q, k, v, None, True, 0.0, is_causal)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]


class Indexing(TorchFunctionMode):
    """Does `x[...]` of a fake CUDA tensor with operations that need no driver."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.Tensor.__getitem__ or args[0].device.type != "cuda":
            return func(*args, **(kwargs or {}))
        x, index = args
        index = index if isinstance(index, tuple) else (index,)
        if any(i is Ellipsis for i in index):
            at = next(place for place, i in enumerate(index) if i is Ellipsis)
            given = sum(i is not None for i in index) - 1
            index = (*index[:at], *[slice(None)] * (x.ndim - given), *index[at + 1 :])
        axis, tensors = 0, []
        for i in index:
            if isinstance(i, int):
                x = x.select(axis, i)
                continue
            if i is None:
                x = x.unsqueeze(axis)
            elif isinstance(i, slice) and i != slice(None):
                x = torch.ops.aten.slice.Tensor(x, axis, i.start, i.stop, i.step or 1)
            tensors.append(i if isinstance(i, torch.Tensor) else None)
            axis += 1
        if any(i is not None for i in tensors):
            x = torch.ops.aten.index.Tensor(x, tensors)
        return x
