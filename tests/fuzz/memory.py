"""Guard pages: a read or write outside of a buffer ends the process.

While `guarded` is active, every NumPy array gets pages of its own. It ends exactly where a page
without access begins, or begins exactly where one ends, and np.empty is filled with 0xA5. So no
knowledge of the kernels is needed: whatever they are given, also by future code, has its documented
size and not a byte more. The memory that kernels allocate themselves is guarded in the same way.
Linux only.
"""

import contextlib
import ctypes
import importlib
import mmap
import os
import signal
from collections.abc import Iterator
from typing import Literal

from lmlib.threads import ThreadPool

Side = Literal["end", "begin"]

PAGE = mmap.PAGESIZE
FILL = 0xA5
C_ALIGNMENT = 16  # of what malloc returns: LLVM may rely on it
SET_HANDLER = 304  # place of PyDataMem_SetHandler in the table of NumPy's C API, which is stable

_c = ctypes.CDLL(None, use_errno=True)
_c.mmap.restype = ctypes.c_void_p
_c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_c.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_c.malloc.restype, _c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
_c.free.argtypes = [ctypes.c_void_p]

_side: Side | None = None  # of the guard page
_blocks: dict[int, tuple[int, int, int]] = {}  # address -> start of the mapping, its size, size


def allocate(size: int, fill: int | None = FILL, alignment: int = 1) -> int:
    """Return the address of `size` bytes next to a page without access; 0 if there is no memory."""
    body = -(-max(size, 1) // PAGE) * PAGE
    base = _c.mmap(None, body + 2 * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if base in (None, ctypes.c_void_p(-1).value):
        return 0
    first = base + PAGE
    if _c.mprotect(first, body, mmap.PROT_READ | mmap.PROT_WRITE):
        return 0
    if fill is not None:
        ctypes.memset(first, fill, body)
    address = first if _side == "begin" else (first + body - size) // alignment * alignment
    _blocks[address] = base, body + 2 * PAGE, size
    return address


def release(address: int) -> None:
    """Give memory back; end the process if the rest of its pages was written to."""
    base, mapped, size = _blocks.pop(address)
    first, last = base + PAGE, base + mapped - PAGE
    edges = (
        ctypes.string_at(first, address - first),
        ctypes.string_at(address + size, last - address - size),
    )
    for edge in edges:
        if edge.strip(bytes([FILL])) and edge.strip(b"\0"):
            os.write(2, b"a kernel wrote next to a buffer\n")
            os.kill(os.getpid(), signal.SIGABRT)
    _c.munmap(base, mapped)


def _malloc(context: int | None, size: int) -> int:
    return allocate(size)


def _calloc(context: int | None, count: int, size: int) -> int:
    return allocate(count * size, fill=None)


def _realloc(context: int | None, address: int | None, size: int) -> int:
    new = allocate(size)
    if new and address:
        ctypes.memmove(new, address, min(size, _blocks[address][2]))
        release(address)
    return new


def _free(context: int | None, address: int | None, size: int) -> None:
    if address:
        release(address)


_place, _size = ctypes.c_void_p, ctypes.c_size_t
_Malloc = ctypes.CFUNCTYPE(_place, _place, _size)
_Calloc = ctypes.CFUNCTYPE(_place, _place, _size, _size)
_Realloc = ctypes.CFUNCTYPE(_place, _place, _place, _size)
_Free = ctypes.CFUNCTYPE(None, _place, _place, _size)


class _Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _place),
        ("malloc", _Malloc),
        ("calloc", _Calloc),
        ("realloc", _Realloc),
        ("free", _Free),
    )


_functions = _Malloc(_malloc), _Calloc(_calloc), _Realloc(_realloc), _Free(_free)
_handler = _Handler(b"guarded", 1, None, *_functions)
_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [_place, ctypes.c_char_p, _place]
_python.PyCapsule_GetPointer.restype = _place
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_CAPSULE_NAME = b"mem_handler"
_capsule = _python.PyCapsule_New(ctypes.addressof(_handler), _CAPSULE_NAME, None)
_numpy = importlib.import_module("numpy._core._multiarray_umath")
_api = ctypes.cast(
    _python.PyCapsule_GetPointer(_numpy._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
)
_set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(_api[SET_HANDLER])


@contextlib.contextmanager
def guarded(side: Side | None) -> Iterator[None]:
    """Guard the arrays that are made within the context; None: do not.

    The guard is this thread's, so a ThreadPool starts no others and calls at once.
    """
    global _side
    if side is None:
        yield
        return
    _side, before = side, _set_handler(_capsule)
    add_thread, ThreadPool._add_thread = ThreadPool._add_thread, lambda self: None
    try:
        yield
    finally:
        _side, ThreadPool._add_thread = None, add_thread
        _set_handler(before)


@ctypes.CFUNCTYPE(_place, _size)
def _kernel_malloc(size: int) -> int:
    return allocate(size, alignment=C_ALIGNMENT) if _side else _c.malloc(size)


@ctypes.CFUNCTYPE(None, _place)
def _kernel_free(address: int | None) -> None:
    if address in _blocks:
        release(address)
    else:
        _c.free(address)


def guard_kernels() -> None:
    """Let kernels that are loaded from now on take their own memory from here."""
    from llvmlite import binding

    for name, function in (("malloc", _kernel_malloc), ("free", _kernel_free)):
        binding.add_symbol(name, ctypes.cast(function, _place).value)
