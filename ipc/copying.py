"""
Copying records: whole, by the widest moves that the machine has, and past the caches where that pays.

    copy_records    array to array, as memcpy                    for what the same core reads again soon
    put_record      one record, in place of `target[i] = source[j]`
    stream_records  array to array, around the writer's caches   for what only another core will read

A plain store must own its line first: it takes the line away from the core that read it last, and that core takes it
back to read what was written. Two trips between cores a line, and where the cores share no cache they are all that
there is: measured on one machine whose cores were now near, now far from each other (a cache line to and
fro in 57 and in 250 ns one way), 64-byte records in batches of 256 went through a ring at 120 and at 34 million a second. A
streaming store of a whole line asks nobody and goes to memory: 190 and 240 million.

Slow here: streaming ends with a fence that waits for memory, some 200 ns, so fewer than STREAM_RECORDS_MIN records are copied
plainly; and who reads back what it streamed reads from memory.

Arrays have one dimension, are contiguous, and their records of one size: anything else is refused when a kernel is compiled.
Nobody checks ranges. Interpreted, all are numpy's copies.
"""

import platform
from typing import TYPE_CHECKING, Final

from llvmlite import ir
from numba import config, njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from ringpit.ipc.atomics import fence_streamed

STREAM_RECORDS_MIN: Final = 32  # fewer are faster through the caches, wherever the reader is
VECTOR_BYTES: Final = 32
VECTOR_CELLS: Final = VECTOR_BYTES // 8
STREAMING: Final = ("x86_64", "aarch64")  # machines whose streaming stores `fence_streamed` orders
BYTE: Final = ir.IntType(8).as_pointer()
CELL: Final = ir.IntType(64)


def _require_records(target, source):
    """Refuse, at compile time, arrays that cannot be copied byte by byte."""
    for array in (target, source):
        if not isinstance(array, types.Array) or array.ndim != 1 or array.layout != "C":
            raise TypingError(f"records must be a contiguous one-dimensional array, was {array}")
    if _record_bytes(target) != _record_bytes(source):
        raise TypingError(f"records must be of one size, were {target.dtype} and {source.dtype}")


def _record_bytes(array):
    """Size of a record, or of a number."""
    return array.dtype.size if isinstance(array.dtype, types.Record) else array.dtype.bitwidth // 8


def _place(context, builder, kind, array, index):
    """Address of a record, as bytes."""
    return builder.bitcast(builder.gep(make_array(kind)(context, builder, array).data, [index]), BYTE)


def _copy(context, builder, signature, args, count_bytes):
    """Emit a memcpy between the places that (target, target_at, source, source_at) name."""
    target = _place(context, builder, signature.args[0], args[0], args[1])
    source = _place(context, builder, signature.args[2], args[2], args[3])
    function = builder.module.declare_intrinsic("llvm.memcpy", [BYTE, BYTE, CELL])
    builder.call(function, [target, source, count_bytes, ir.Constant(ir.IntType(1), 0)])
    return context.get_dummy_value()


@intrinsic
def _copy_records(_context, target, _target_at, source, _source_at, _count):
    _require_records(target, source)

    def codegen(context, builder, signature, args):
        count_bytes = builder.mul(args[4], ir.Constant(CELL, _record_bytes(target)))
        return _copy(context, builder, signature, args, count_bytes)

    return types.void(target, types.intp, source, types.intp, types.intp), codegen


@intrinsic
def _put_record(_context, target, _target_at, source, _source_at):
    _require_records(target, source)

    def codegen(context, builder, signature, args):
        return _copy(context, builder, signature, args, ir.Constant(CELL, _record_bytes(target)))

    return types.void(target, types.intp, source, types.intp), codegen


@intrinsic
def _stream_record(_context, target, _target_at, source, _source_at):
    _require_records(target, source)
    vectors = _record_bytes(target) // VECTOR_BYTES

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(CELL, VECTOR_CELLS).as_pointer()
        to = builder.bitcast(_place(context, builder, signature.args[0], args[0], args[1]), kind)
        here = builder.bitcast(_place(context, builder, signature.args[2], args[2], args[3]), kind)
        hint = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        for vector in range(vectors):
            at = [ir.Constant(ir.IntType(32), vector)]
            value = builder.load(builder.gep(here, at), align=8)
            builder.store(value, builder.gep(to, at), align=VECTOR_BYTES).set_metadata("nontemporal", hint)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


@intrinsic
def _streams(_context, target):
    whole = _record_bytes(target) % VECTOR_BYTES == 0 and platform.machine() in STREAMING

    def codegen(context, builder, signature, args):
        if not whole:
            return ir.Constant(ir.IntType(1), 0)
        address = builder.ptrtoint(make_array(signature.args[0])(context, builder, args[0]).data, CELL)
        beyond = builder.and_(address, ir.Constant(CELL, VECTOR_BYTES - 1))
        return builder.icmp_unsigned("==", beyond, ir.Constant(CELL, 0))

    return types.boolean(target), codegen


if TYPE_CHECKING or config.DISABLE_JIT:  # the interpreter, and mypy, see plain Python

    def copy_records(target, target_at, source, source_at, count):
        """Copy `count` records from `source[source_at]` on to `target[target_at]` on. The two do not overlap."""
        target[target_at : target_at + count] = source[source_at : source_at + count]

    def put_record(target, target_at, source, source_at):
        """Copy one record."""
        target[target_at] = source[source_at]

    def stream_record(target, target_at, source, source_at):
        """Copy one record past the caches, where `streams(target)`; `fence_streamed` before it is published."""
        target[target_at] = source[source_at]

    def streams(_target):
        """True if records of the array can be streamed: whole vectors, at aligned addresses."""
        return True

else:
    copy_records, put_record, stream_record, streams = _copy_records, _put_record, _stream_record, _streams


@njit(cache=True, nogil=True, _nrt=False)
def stream_records(target, target_at, source, source_at, count):
    """
    Copy records that another core will read and this one will not, as `copy_records`.

    May be published right after it, as after any copy.
    """
    if count < STREAM_RECORDS_MIN or not streams(target):
        copy_records(target, target_at, source, source_at, count)
        return
    for i in range(count):
        stream_record(target, target_at + i, source, source_at + i)
    fence_streamed()
