"""Operations of LLVM that Numba lacks: loads and stores at addresses, atomics, 64-byte masks."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from lmlib.native.compiling import intrinsic, part, prefetch_at

ZERO, ONE = np.uint64(0), np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
# To Numba a plain 0, True or False is a type of its own: it would compile one more version of each
# function that takes it.
START, YES, NO = np.int64(0), np.bool_(True), np.bool_(False)


@intrinsic
def byte_at(typing_context, address):
    """Return the byte at an address, as an int64."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def word_at(typing_context, address):
    """Return the 8 bytes from an address as one uint64, the first byte lowest."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(types.int64), generate


@intrinsic
def write_word(typing_context, address, word):
    """Write one uint64 as the 8 bytes from an address, the lowest byte first."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store(args[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@intrinsic
def id_at(typing_context, address):
    """Return the uint32 at an address, as an int64."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        return builder.zext(builder.load(pointer), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def write_id(typing_context, address, token_id):
    """Write the low 32 bits of an int64 to an address."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        builder.store(builder.trunc(args[1], ir.IntType(32)), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@part
def at(address):
    """Return the int64 at an address."""
    return np.int64(word_at(address))


@part
def put(address, value):
    """Write an int64 to an address."""
    write_word(address, np.uint64(value))


@intrinsic
def published_word(typing_context, address):
    """Return the uint64 at an address; later reads see what was written before publishing it."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.uint64(types.int64), generate


@intrinsic
def publish_word(typing_context, address, word):
    """Write a uint64 to an address, after everything else that this thread has written."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@intrinsic
def claim_word(typing_context, address, word):
    """Replace a 0 by a uint64; return False if another thread was first."""

    def generate(context, builder, signature, args):
        word = ir.IntType(64)
        pointer = builder.inttoptr(args[0], word.as_pointer())
        found = builder.cmpxchg(pointer, word(0), args[1], "acquire", "monotonic")
        return builder.zext(builder.extract_value(found, 1), ir.IntType(8))

    return types.uint8(types.int64, types.uint64), generate


BLOCK = ir.VectorType(ir.IntType(8), 64)


def _load_block(builder, address):
    return builder.load(builder.inttoptr(address, BLOCK.as_pointer()), align=1)


def _mask(builder, found):
    return builder.bitcast(found, ir.IntType(64))


@intrinsic
def class_masks(typing_context, address):
    r"""Return five masks of the 64 bytes from an address: letters, digits, \s, " ", non-ASCII."""

    def generate(context, builder, signature, args):
        block = _load_block(builder, args[0])

        def each(value):
            return ir.Constant(BLOCK, [value] * 64)

        def between(values, low, high):
            distance = builder.sub(values, each(low))
            return builder.icmp_unsigned("<=", distance, each(high - low))

        blanks = builder.icmp_unsigned("==", block, each(0x20))
        found = [
            between(builder.or_(block, each(0x20)), 0x61, 0x7A),
            between(block, 0x30, 0x39),
            builder.or_(between(block, 0x09, 0x0D), blanks),
            blanks,
            builder.icmp_unsigned(">", block, each(0x7F)),
        ]
        masks = [_mask(builder, bits) for bits in found]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 5)(types.int64), generate


@intrinsic
def byte_mask(typing_context, address, byte):
    """Return the mask of those among the 64 bytes from an address that equal `byte`."""

    def generate(context, builder, signature, args):
        place = ir.IntType(32)
        one = builder.insert_element(ir.Constant(BLOCK, None), args[1], place(0))
        same = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(place, 64), None))
        return _mask(builder, builder.icmp_unsigned("==", _load_block(builder, args[0]), same))

    return types.uint64(types.int64, types.uint8), generate


@intrinsic
def lowest_bit(typing_context, mask):
    """Return the index of the lowest bit that is set; the mask must not be 0."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Prefetch the bytes at an address, without waiting for them."""

    def generate(context, builder, signature, args):
        prefetch_at(builder, args[0], 3)
        return context.get_dummy_value()

    return types.void(types.int64), generate


KEYS = 64  # rows of `key_room`


@intrinsic
def key_room(typing_context):
    """Return the address of KEYS rows of four words, valid until the calling function returns."""

    def generate(context, builder, signature, args):
        room = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), 4 * KEYS))
        return builder.ptrtoint(room, ir.IntType(64))

    return types.int64(), generate


@intrinsic
def write_byte(typing_context, address, byte):
    """Write the low 8 bits of an int64 to an address."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        builder.store(builder.trunc(args[1], ir.IntType(8)), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@part
def copy_bytes(target, source, length):
    """Copy bytes from one address to another."""
    for k in range(length):
        write_byte(target + k, byte_at(source + k))
