"""Compile kernels with Numba into object code that needs neither Numba nor Python to run.

In the modules of a package of kernels, `kernel` decorates the functions that Python calls, and
`part` those that kernels call. Both are compiled without Numba's runtime, so they cannot allocate
arrays; they work on memory at the addresses passed to them:

    @kernel
    def total(numbers, count):
        result = np.int64(0)
        for number in view(numbers, count, np.int64):
            result += number
        return result

    load_kernels("package").total(array.ctypes.data, len(array))

All arguments of a kernel are int64s, and so is its result.
"""

import importlib
import os
from collections.abc import Callable
from inspect import signature
from typing import Any

from llvmlite import binding, ir
from numba import extending, njit, types
from numba.core import cgutils
from numba.core.typing.npydecl import parse_dtype
from numba.np.arrayobj import get_itemsize, make_array, populate_array

from lmlib.native import sources_of, target_machine

intrinsic: Any = extending.intrinsic  # passes a function its first argument itself

# The functions that object code may call: it is linked to the C library that Python itself uses.
C_FUNCTIONS = frozenset(
    {
        *("malloc", "free", "memcpy", "memmove", "memset"),
        *("expf", "tanhf", "sqrt", "sqrtf"),
        "sched_yield",
    }
)

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# Numba would otherwise compile wrappers for callers that do not exist.
NO_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def part(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Decorate a function that kernels call; `options` are additional options of numba.njit."""
    decorator = njit(**OPTIONS, **NO_WRAPPERS, **options)
    return decorator(function) if function else decorator


def kernel(function: Callable[..., Any]) -> Any:
    """Decorate a function of int64s that Python calls through `load_kernels`."""
    dispatcher = part(function)
    dispatcher.is_kernel = True
    return dispatcher


@intrinsic
def view(typing_context, address, shape, dtype):
    """Return the memory at an address as an array; `shape` is a length or a tuple of lengths."""
    lengths = getattr(shape, "types", [shape])
    kind = types.Array(parse_dtype(dtype), len(lengths), "C")

    def generate(context, builder, signature, args):
        values = cgutils.unpack_tuple(builder, args[1]) if len(lengths) > 1 else [args[1]]
        values = [
            context.cast(builder, value, length, types.intp)
            for value, length in zip(values, lengths, strict=True)
        ]
        item_size = ir.IntType(64)(get_itemsize(context, kind))
        strides = [item_size]
        for length in values[:0:-1]:
            strides.insert(0, builder.mul(strides[0], length))
        array = make_array(kind)(context, builder)
        data = builder.inttoptr(args[0], array.data.type)
        populate_array(array, data, values, strides, item_size, meminfo=None)
        return array._getvalue()

    return kind(types.int64, shape, dtype), generate


@intrinsic
def address_of(typing_context, array):
    """Return the address of an array's first item."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


@intrinsic
def allocate(typing_context, size):
    """Return the address of `size` bytes of new memory, or 0 if there is none; `free` it."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [ir.IntType(64)])
        malloc = _declared(builder.module, "malloc", kind)
        return builder.ptrtoint(builder.call(malloc, args), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def free(typing_context, address):
    """Free memory that `allocate` returned."""

    def generate(context, builder, signature, args):
        anything = ir.IntType(8).as_pointer()
        function = _declared(builder.module, "free", ir.FunctionType(ir.VoidType(), [anything]))
        builder.call(function, [builder.inttoptr(args[0], anything)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def add_atomically(typing_context, address, number):
    """Add to the int64 at an address, which other threads use too; return what it was before.

    What a thread wrote before its call, every thread sees that reads the sum by such a call.
    """

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def read_atomically(typing_context, address):
    """Return the int64 at an address that other threads change with `add_atomically`."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(types.int64), generate


@intrinsic
def yield_thread(typing_context):
    """Let another thread have the processor, if one waits for it."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(_declared(builder.module, "sched_yield", kind), [])
        return context.get_dummy_value()

    return types.void(), generate


def _declared(module: ir.Module, name: str, kind: ir.FunctionType) -> ir.Function:
    return module.globals.get(name) or ir.Function(module, kind, name)


def prefetch_at(builder: Any, address: Any, locality: int) -> None:
    """Prefetch the bytes at an address to read: into all caches (3), or all but the first (2)."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    builder.call(function, [builder.inttoptr(address, byte), word(0), word(locality), word(1)])


def compile_package(package: str) -> tuple[dict[str, int], bytes]:
    """Return the number of arguments of each kernel in a package's modules, and the object code."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        raise ImportError("NUMBA_DISABLE_JIT is set: cannot compile kernels; unset it")
    modules = [importlib.import_module(package)]
    if hasattr(modules[0], "__path__"):
        names = {path.stem for path in sources_of(package)} - {"__init__"}
        modules += [importlib.import_module(f"{package}.{name}") for name in sorted(names)]
    kernels = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if getattr(value, "is_kernel", False)
    }
    num_arguments = {name: len(signature(k.py_func).parameters) for name, k in kernels.items()}
    program = binding.parse_assembly("")
    for name, number in num_arguments.items():
        program.link_in(_compiled(name, kernels[name], (types.int64,) * number))
    undefined = {f.name for f in program.functions if f.is_declaration}
    unknown = {name for name in undefined - C_FUNCTIONS if not name.startswith("llvm.")}
    if unknown:
        raise ImportError(
            f"the kernels of {package} call {', '.join(sorted(unknown))}, which they cannot link to"
        )
    return num_arguments, target_machine().emit_object(program)


def _compiled(name: str, kernel: Any, arguments: tuple[Any, ...]) -> binding.ModuleRef:
    """Return the module of one kernel, which exports only a C function of its name."""
    kernel.compile(arguments)
    compiled = kernel.overloads[arguments]
    if compiled.signature.return_type != types.int64:
        raise TypeError(f"kernel {name} returns {compiled.signature.return_type}, not int64")
    module = binding.parse_assembly(kernel.inspect_llvm(arguments))
    inner = compiled.fndesc.llvm_func_name
    values = ", ".join(f"i64 %{number}" for number in range(len(arguments)))
    kinds = "".join(", i64" for _ in arguments)
    given = "".join(f", i64 %{number}" for number in range(len(arguments)))
    # Numba's functions return a status, here always 0, and take an address for the result.
    module.link_in(
        binding.parse_assembly(
            f"""
            declare i32 @"{inner}"(ptr, ptr{kinds})
            define i64 @"{name}"({values}) {{
                %result = alloca i64
                %error = alloca ptr
                %status = call i32 @"{inner}"(ptr %result, ptr %error{given})
                %value = load i64, ptr %result
                ret i64 %value
            }}
            """
        )
    )
    for function in module.functions:
        if not function.is_declaration and function.name != name:
            function.linkage = "internal"
    return module
