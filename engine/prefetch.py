"""
Prefetching: asking for a cache line before it is needed.

`prefetch` and its kin take an array and a row, and ask the memory for the line where the row begins. They change
nothing and never fault, so a row may be out of range; interpreted, they do nothing at all.

Fast here because some ten lines can be on their way at once, while a load that is needed stops the core for each in turn.
Useless, and a little harmful, where the tables fit the second-level cache.
"""

from typing import TYPE_CHECKING, Final

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

READ: Final = 0
WRITE: Final = 1
KEEP: Final = 3  # locality: into all levels of the cache
DATA: Final = 1
LINE_BYTES: Final = 64


def _codegen(intention, offset_bytes=0):
    """Code for a prefetch of row `args[1]` of array `args[0]`, so many bytes behind its beginning."""

    def codegen(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        byte = ir.IntType(8).as_pointer()
        place = builder.add(builder.mul(args[1], stride), context.get_constant(types.intp, offset_bytes))
        address = builder.gep(builder.bitcast(array.data, byte), [place])
        number = ir.IntType(32)
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(
            ir.VoidType(), [byte, number, number, number]
        ))  # fmt: skip
        builder.call(function, [address, *(ir.Constant(number, value) for value in (intention, KEEP, DATA))])
        return context.get_dummy_value()

    return codegen


@intrinsic
def _prefetch(_context, array, _row):
    return types.void(array, types.intp), _codegen(READ)


@intrinsic
def _prefetch_for_write(_context, array, _row):
    return types.void(array, types.intp), _codegen(WRITE)


@intrinsic
def _prefetch_second_line(_context, array, _row):
    return types.void(array, types.intp), _codegen(READ, LINE_BYTES)


if TYPE_CHECKING or config.DISABLE_JIT:  # mypy and the interpreter see plain Python

    def prefetch(array, row):
        """Ask for the line where a row begins."""

    def prefetch_second_line(array, row):
        """Ask for the line behind the one where a row begins."""

    def prefetch_for_write(array, row):
        """Ask for the line where a row begins, to write to it."""

else:
    prefetch, prefetch_second_line, prefetch_for_write = _prefetch, _prefetch_second_line, _prefetch_for_write
