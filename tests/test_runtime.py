"""The `auto` settings: each choice on machines that have, or lack, a device."""

import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder

from lmlib.runtime import (
    Runtime,
    _warn_once,
    allow_spaces_in_paths,
    resolve_device,
    resolve_dtype,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_CPU, ON_CUDA = Runtime(CPU), Runtime(CUDA)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> "Machine":
    return Machine(monkeypatch)


class Machine:
    """Makes torch report other hardware than is present."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set = monkeypatch.setattr
        self.current: list[torch.device] = []  # the GPUs that became the current one
        _warn_once.cache_clear()
        self.has(gpus=0, mps=False)

    def has(self, *, gpus: int, mps: bool) -> None:
        self.set("torch.cuda.is_available", lambda: gpus > 0)
        self.set("torch.cuda.device_count", lambda: gpus)
        self.set("torch.cuda.set_device", self.current.append)
        self.is_a_gpu(capability=(9, 0), oldest=(7, 5))
        self.set("torch.backends.mps.is_available", lambda: mps)

    def is_a_gpu(self, *, capability: tuple[int, int], oldest: tuple[int, int]) -> None:
        """Let the GPU have a compute capability, and PyTorch be built for some from `oldest` on."""
        self.set("torch.cuda.get_device_capability", lambda: capability)
        self.set("torch.cuda.get_device_name", lambda: "Some GPU")
        archs = ["sm_120", "sm_90a", "sm_{}{}".format(*oldest)]
        self.set("torch.cuda.get_arch_list", lambda: archs)

    def multiplies_bfloat16(self, *, capability: str, avx512_bf16: bool, amx: bool) -> None:
        self.set("torch.backends.cpu.get_cpu_capability", lambda: capability)
        self.set("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
        self.set("torch.cpu._is_amx_tile_supported", lambda: amx)

    def has_compilers(self, *names: str) -> None:
        self.set("shutil.which", lambda name: f"/usr/bin/{name}" if name in names else None)

    def has_headers_of_python_in(self, folder: Path) -> None:
        self.set("sysconfig.get_path", {"include": str(folder)}.__getitem__)


@pytest.mark.parametrize(
    ("gpus", "mps", "expected"),
    [(1, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")],
)
def test_auto_device(machine: Machine, gpus: int, mps: bool, expected: str) -> None:
    machine.has(gpus=gpus, mps=mps)
    assert resolve_device("auto", "train.device") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_named_device_that_is_there(machine: Machine, name: str) -> None:
    """A numbered GPU becomes the current one: else memory is pinned through GPU 0."""
    machine.has(gpus=2, mps=True)
    assert resolve_device(name, "train.device") == torch.device(name)
    assert machine.current == ([torch.device("cuda:1")] if name == "cuda:1" else [])


def test_a_gpu_too_old_for_this_pytorch(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.has(gpus=1, mps=False)
    machine.is_a_gpu(capability=(7, 0), oldest=(7, 5))
    for _ in range(2):
        assert resolve_device("auto", "train.device") == CPU
    (message,) = caplog.messages
    assert message.startswith("Some GPU has compute capability 7.0, and PyTorch ")
    assert " needs 7.5: not using it" in message
    machine.is_a_gpu(capability=(7, 5), oldest=(7, 5))
    assert resolve_device("auto", "train.device") == CUDA


@pytest.mark.parametrize(
    ("cuda", "visible", "message"),
    [
        (None, None, " is built without CUDA$"),
        ("13.0", None, " cannot use it: its driver is missing, or too old for CUDA 13.0"),
        ("13.0", "", ""),  # hidden on purpose
        ("13.0", "-1", ""),
    ],
)
def test_a_gpu_that_pytorch_cannot_use(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    cuda: str | None,
    visible: str | None,
    message: str,
) -> None:
    """One line says why the CPU trains; without a GPU there is nothing to say."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine.set("torch.version.cuda", cuda)
    machine.set("lmlib.runtime.NVIDIA_DEVICE", str(tmp_path / "nvidia0"))
    assert resolve_device("auto", "train.device") == CPU
    assert not caplog.messages
    (tmp_path / "nvidia0").touch()
    assert resolve_device("auto", "train.device") == CPU
    assert bool(caplog.messages) == bool(message)
    assert not message or re.search(message, caplog.messages[0])


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "xpu", "meta"])
def test_unknown_device(machine: Machine, name: str) -> None:
    machine.has(gpus=1, mps=True)
    message = f" is '{name}'; choose auto, cpu, cuda, cuda:N or mps$"
    with pytest.raises(ValueError, match=f"^train.device{message}"):
        resolve_device(name, "train.device")
    with pytest.raises(ValueError, match=f"^--device{message}"):
        resolve_device(name, "--device")


@pytest.mark.parametrize(("name", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("mps", 1)])
def test_device_that_is_not_there(machine: Machine, name: str, gpus: int) -> None:
    machine.has(gpus=gpus, mps=False)
    message = f" is '{name}', which this machine does not have; `auto` takes"
    with pytest.raises(ValueError, match=f"^train.device{message}"):
        resolve_device(name, "train.device")
    with pytest.raises(ValueError, match=f"^evaluation.device{message}"):
        resolve_device(name, "evaluation.device")


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_named_dtype(device: torch.device) -> None:
    assert resolve_dtype("float32", device, "train.dtype") == torch.float32
    assert resolve_dtype("bfloat16", device, "train.dtype") == torch.bfloat16


def test_float16_is_for_cuda() -> None:
    assert resolve_dtype("float16", CUDA, "train.dtype") == torch.float16
    message = "^train.dtype is float16, which trains on CUDA only, and the device is cpu; choose"
    with pytest.raises(ValueError, match=message):
        resolve_dtype("float16", CPU, "train.dtype")


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "expected"),
    [
        ("AVX2", True, True, torch.float32),
        ("AVX512", False, False, torch.float32),
        ("AVX512", True, False, torch.bfloat16),
        ("AVX512_BF16", True, False, torch.bfloat16),
        ("AVX512", False, True, torch.bfloat16),
        ("DEFAULT", False, False, torch.float32),
    ],
)
def test_auto_dtype_on_a_cpu(
    machine: Machine, capability: str, avx512_bf16: bool, amx: bool, expected: torch.dtype
) -> None:
    """Where bfloat16 is only emulated, it is slower than float32."""
    machine.multiplies_bfloat16(capability=capability, avx512_bf16=avx512_bf16, amx=amx)
    assert resolve_dtype("auto", CPU, "train.dtype") == expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), torch.bfloat16),
        ((8, 0), torch.bfloat16),  # Ampere, the first with bfloat16; older ones emulate it
        ((7, 5), torch.float16),  # T4: eight times as fast as in float32
        ((7, 0), torch.float16),
        ((6, 1), torch.float32),  # multiplies float16 slower
    ],
)
def test_auto_dtype_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    """The GPU that is asked is the one that trains, not the current one."""
    second = torch.device("cuda:1")
    monkeypatch.setattr(
        "torch.cuda.get_device_capability", lambda device: capability if device == second else None
    )
    assert resolve_dtype("auto", second, "train.dtype") == expected


def test_auto_dtype_on_mps() -> None:
    assert resolve_dtype("auto", torch.device("mps"), "train.dtype") == torch.float32


def test_autocast_multiplies_in_the_dtype_and_keeps_weights() -> None:
    weight = torch.ones(2, 2)
    with Runtime(CPU, torch.bfloat16).autocast():
        assert (weight @ weight).dtype == torch.bfloat16
    assert weight.dtype == torch.float32
    with Runtime(CPU, torch.float32).autocast():
        assert (weight @ weight).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("off", CPU, False),
        ("off", CUDA, False),
        ("on", CPU, True),
        ("on", CUDA, True),
        ("graphs", CPU, True),
    ],
)
def test_should_compile(machine: Machine, name: Any, device: torch.device, expected: bool) -> None:
    machine.has_compilers("g++", "gcc")
    for operations in (1, 1e20):
        assert Runtime(device).should_compile(name, operations) is expected


@pytest.mark.parametrize(
    ("name", "least"), [("cuda", 1e16), ("cpu", 3e14), ("mps", None)], ids=["cuda", "cpu", "mps"]
)
def test_auto_compiles_long_runs(machine: Machine, name: str, least: float | None) -> None:
    """Compiling takes half a minute or more, which a short run does not win back."""
    machine.has_compilers("g++", "gcc")
    runtime = Runtime(torch.device(name))
    if least is None:
        assert not runtime.should_compile("auto", 1e20)
    else:
        assert not runtime.should_compile("auto", 0.99 * least)
        assert runtime.should_compile("auto", least)


@pytest.mark.parametrize(
    ("device", "others", "missing"),
    [(CPU, ["gcc"], "g++, clang++"), (CUDA, ["g++", "cc"], "gcc, clang")],
)
def test_does_not_compile_without_a_compiler(
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    others: list[str],
    missing: str,
) -> None:
    machine.has_compilers(*others)
    with caplog.at_level(logging.WARNING):
        assert not Runtime(device).should_compile("on", 1.0)
    assert caplog.messages == [f"none of {missing} found; the model runs uncompiled"]


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_does_not_compile_without_the_headers_of_python(
    machine: Machine, caplog: pytest.LogCaptureFixture, tmp_path: Path, device: torch.device
) -> None:
    """Debian has them in a separate package; the code of torch.compile includes them."""
    machine.has_compilers("g++", "gcc")
    machine.has_headers_of_python_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert not Runtime(device).should_compile("on", 1.0)
    assert "no Python.h found (Debian: apt install python3-dev)" in caplog.text
    (tmp_path / "Python.h").touch()
    assert Runtime(device).should_compile("on", 1.0)


def strictness() -> tuple[bool, bool, bool]:
    memory: Any = torch.utils.deterministic
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
    )


def test_deterministic_is_strict_on_cuda_and_ends_with_its_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under `warn_only` attention would keep its random order. An exception ends it, too."""
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)

    def interrupted() -> None:
        with ON_CUDA.deterministic():
            assert strictness() == (True, False, False)
            raise KeyboardInterrupt

    assert strictness() == (False, False, True)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert strictness() == (False, False, True)
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_deterministic_restores_the_settings_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    monkeypatch.setattr("os.environ", environment)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with ON_CUDA.deterministic():
            assert strictness() == (True, False, False)
        assert strictness() == (True, True, True)
        assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_changes_nothing_on_the_cpu() -> None:
    with ON_CPU.deterministic():
        assert strictness() == (False, False, True)


# -- compiling


class Double(nn.Module):
    """A module whose compiler fails in the forward or in the backward pass, or not at all."""

    def __init__(self, failing: str, error: Exception) -> None:
        super().__init__()
        self.failing, self.error = failing, error

    def forward(self, x: Tensor) -> Tensor:
        if self.failing == "forward":
            raise self.error
        y = 2 * x
        if self.failing == "backward":
            y.register_hook(self._fail)
        return y

    def _fail(self, _gradient: Tensor) -> None:
        raise self.error


def compiler_error() -> Exception:
    return BackendCompilerFailed(lambda: None, RuntimeError("no such backend"), None)


class OutOfResources(RuntimeError):
    """As Triton's, which is raised when a kernel needs more than the GPU has."""


def trial(module: nn.Module) -> None:
    module(torch.ones(1, requires_grad=True)).backward()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (compiler_error(), "RuntimeError: no such backend"),
        (OutOfResources("shared memory"), "shared memory"),
        (OutOfResources(), "OutOfResources"),
    ],
)
@pytest.mark.parametrize("failing", ["forward", "backward"])
def test_stays_uncompiled_where_the_compiler_fails(
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    failing: str,
    error: Exception,
    reason: str,
) -> None:
    machine.has_compilers("g++")
    plain = nn.Identity()
    monkeypatch.setattr("torch.compile", lambda _, **__: Double(failing, error))
    with caplog.at_level(logging.INFO):
        assert ON_CPU.compile(plain, trial, "on", 1.0) is plain
    assert caplog.messages == [
        "compiling the model, which can take a minute",
        f"the compiler failed ({reason}); the model runs uncompiled",
    ]


def test_compiled_where_the_compiler_works(
    monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    fast = Double("", compiler_error())
    machine.has_compilers("g++")
    monkeypatch.setattr("torch.compile", lambda _, **__: fast)
    assert ON_CPU.compile(nn.Identity(), trial, "on", 1.0) is fast


def test_errors_of_the_model_are_not_taken_for_the_compilers(
    monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    machine.has_compilers("g++")
    monkeypatch.setattr("torch.compile", lambda _, **__: Double("forward", RuntimeError("bug")))
    with pytest.raises(RuntimeError, match=r"^bug$"):
        ON_CPU.compile(nn.Identity(), trial, "on", 1.0)


@pytest.mark.parametrize("folder", ["/My Models ü/lib", "/it's/lib", "/plain/lib"])
def test_links_with_libraries_in_any_folder(folder: str) -> None:
    """PyTorch writes the options of the C++ compiler as a text, and splits it as a shell does."""
    allow_spaces_in_paths()
    options = BuildOptionsBase(compiler="g++", libraries_dirs=[folder])
    command = CppBuilder("name", "source.cpp", options).get_command_line()
    assert f"-L{folder}" in shlex.split(command)


def test_compiles_only_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("torch.compile was called"))
    plain = nn.Identity()
    assert ON_CPU.compile(plain, trial, "auto", 1.0) is plain


def test_the_environment_names_what_bits_depend_on() -> None:
    values = Runtime(CPU, torch.bfloat16).environment()
    assert values["device"] == "cpu"
    assert values["dtype"] == "bfloat16"
    assert values["threads"] == str(torch.get_num_threads())
    assert values["torch"] == torch.__version__


def test_peak_memory_holds_what_was_allocated() -> None:
    """200 MB are written, so the peak is at least that much."""
    assert torch.ones(50_000_000).sum() == 50_000_000
    peak = ON_CPU.peak_memory_bytes()
    assert peak is not None
    assert 200e6 < peak < 1e12
