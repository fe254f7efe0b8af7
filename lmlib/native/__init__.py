"""Kernels that start at once: compiled by Numba one time, then loaded as object code.

A kernel takes int64s, which are numbers or addresses, and returns an int64. It is written in a
subset of Python in the modules of a package (see compiling.py) and called through ctypes, without
the GIL. Loading the kernels of a package takes milliseconds and imports neither Numba nor the
modules that define them.

The object code is kept in a file in the virtual environment, or else in the user's cache folder.
The file's name contains the hash of everything the code depends on: the sources of the package and
of this one, the versions of Numba and llvmlite, and the processor. A file that is missing, damaged
or not writable costs time but never changes a result: the kernels are compiled again.
"""

import ctypes
import hashlib
import importlib.util
import json
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lmlib.files import open_regular, write_atomically

if TYPE_CHECKING:  # llvmlite maps 200 MB: it is imported where kernels are needed
    from llvmlite.binding import TargetMachine

logger = logging.getLogger(__name__)

KEPT_FILES = 8  # per package and folder: one for each of the latest versions of its sources

_lock = threading.RLock()
_loaded: dict[str, SimpleNamespace] = {}


def load_kernels(package: str) -> Any:
    """Return the kernels of a package or module, such as "lmlib.optim.kernels", as attributes.

    The first time on a machine they are compiled, which takes up to a minute and logs a warning.
    Raises ImportError if Numba is not available to compile them, and MemoryError.
    """
    if package in _loaded:  # without the lock, which is held while others are compiled
        return _loaded[package]
    with _lock:
        if package not in _loaded:
            code = ObjectCode.read(package) or ObjectCode.compile(package)
            _loaded[package] = code.link()
        return _loaded[package]


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # a child has no thread that could release the lock
    os.register_at_fork(after_in_child=_renew_lock)


def is_loaded(package: str) -> bool:
    """Return whether the kernels of a package are loaded."""
    return package in _loaded


def is_compiled(package: str) -> bool:
    """Return whether the kernels of a package can be loaded without compiling them."""
    return is_loaded(package) or ObjectCode.read(package) is not None


def address_of(array: NDArray[Any]) -> int:
    """Return the address of an array's first item; it is valid as long as the array exists."""
    return array.__array_interface__["data"][0]


def record(kind: np.dtype[Any], **fields: int | NDArray[Any]) -> NDArray[Any]:
    """Return a record as an array of length 1; an array is stored as its address, the rest is 0."""
    array = np.zeros(1, kind)
    for name, value in fields.items():
        array[name] = address_of(value) if isinstance(value, np.ndarray) else value
    return array


@dataclass(frozen=True)
class ObjectCode:
    """The machine code of a package's kernels for this processor, and each one's argument count.

    A file of it holds a SHA-256 of what follows, a line of JSON (kernel -> number of arguments),
    and the object file.
    """

    num_arguments: dict[str, int]
    code: bytes

    @classmethod
    def compile(cls, package: str) -> Self:
        """Compile the kernels of a package, and keep them in the first writable folder."""
        logger.warning("compiling the kernels of %s, once: up to a minute", package)
        from lmlib.native.compiling import compile_package  # here: it imports Numba

        compiled = cls(*compile_package(package))
        body = json.dumps(compiled.num_arguments).encode() + b"\n" + compiled.code
        for folder in cache_folders():
            with suppress(OSError):  # read-only or full: try the next one
                write_atomically(folder / file_name(package), hashlib.sha256(body).digest() + body)
                _remove_old(folder, package)
                break
        return compiled

    @classmethod
    def read(cls, package: str) -> Self | None:
        """Return the object code kept for a package, or None."""
        for folder in cache_folders():
            with suppress(OSError):
                path = folder / file_name(package)
                with open_regular(path) as file:
                    content = file.read()
                digest, body = content[:32], content[32:]
                if hashlib.sha256(body).digest() == digest:
                    with suppress(OSError):
                        os.utime(path)  # files that are in use are not removed as old ones
                    header, _, code = body.partition(b"\n")
                    return cls(json.loads(header), code)
        return None

    def link(self) -> SimpleNamespace:
        """Return the kernels as functions; the code stays in memory until the process ends."""
        from llvmlite import binding

        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target_machine())
        engine.add_object_file(binding.ObjectFileRef.from_data(self.code))
        engine.finalize_object()
        kernels = SimpleNamespace(engine=engine)
        for name, number in self.num_arguments.items():
            kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * number)
            setattr(kernels, name, kind(engine.get_function_address(name)))
        return kernels


def target_machine() -> "TargetMachine":
    """Return LLVM's code generator for this processor."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )


def cache_folders() -> Iterator[Path]:
    """Yield the folders for object code: the virtual environment's, then the user's."""
    if sys.prefix != sys.base_prefix:
        yield Path(sys.prefix) / "lmlib"
    with suppress(RuntimeError):  # a user without a home
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        yield (cache if cache.is_absolute() else Path.home() / ".cache") / "lmlib"


@cache
def file_name(package: str) -> str:
    """Return the name of the file with the object code of a package's current sources."""
    from llvmlite import __version__, binding

    parts = [numba_version(), __version__, platform.machine(), platform.system()]
    parts += [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]
    parts += sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_"))
    for name in (__name__, package):
        for path in sources_of(name):
            parts += [path.name, path.read_text(encoding="utf-8")]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{package}-{key[:32]}.o"


def numba_version() -> str:
    """Return the version of Numba, from a file name: importlib.metadata takes 12 ms to import."""
    import llvmlite

    names = Path(str(llvmlite.__file__)).parents[1].glob("numba-*.dist-info")
    if found := ", ".join(sorted(path.name for path in names)):
        return found
    from importlib.metadata import version

    return version("numba")


def sources_of(name: str) -> list[Path]:
    """Return the source files of a module or package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"no module {name}", name=name)
    origin = Path(spec.origin)
    return sorted(origin.parent.glob("*.py")) if spec.submodule_search_locations else [origin]


def _remove_old(folder: Path, package: str) -> None:
    files = sorted(folder.glob(f"{package}-*.o"), key=lambda path: path.stat().st_mtime)
    for path in files[:-KEPT_FILES]:
        path.unlink(missing_ok=True)
