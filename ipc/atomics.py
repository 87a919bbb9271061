"""
Memory ordering: the only code in the project that says who may see what when.

Everything that processes share are int64 cells in one-dimensional arrays. A kernel reads and writes
its *own* cells as plain array items, and touches the cells that somebody else reads or writes through
the six operations below. Each is one instruction of the machine, with the ordering in its name:

    load_acquire      nothing after it is read early       partner: store_release, compare_and_swap
    store_release     nothing before it is written late    partner: load_acquire
    compare_and_swap  both, if it swaps; acquire if not    partner: load_acquire, fetch_or
    fetch_or          both                                 partner: compare_and_swap, load_acquire
    fence_acquire     nothing before it is read late       partner: store_release, of whoever may write over it
    fence_streamed    no streaming store before is late    partner: load_acquire of what is stored after it

Fast here, because on x86 the acquiring load and the releasing store are plain moves (and `ldar`,
`stlr` on ARM) and no call is left in the machine code. Slow here: compare_and_swap and fetch_or are
locked instructions, about 20 cycles even when nobody contends. There is no store-load fence: no
protocol of ours needs one, as every cell has one writer, or is written by compare_and_swap alone.

In a kernel use the operations by name. From Python use `load_cell`, `store_cell`, `swap_cell` and
`or_cell`, compiled one by one: the same order, for 0.2 to 1 microsecond of call. With NUMBA_DISABLE_JIT=1 every
operation is its Python twin, which orders nothing and so serves one process and one thread only.

Invariants:

    A1  cells are contiguous int64 arrays of one dimension: anything else is refused by name when the
        kernel is compiled; that they are aligned is the work of `ipc/segment.py` and of numpy
    A2  no operation here touches a reference count, takes the GIL, allocates or raises
"""

import os
import platform
import signal
import time
from typing import TYPE_CHECKING, Final

from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

CELL_BYTES: Final = 8
CLOCK_REALTIME: Final = 0  # <time.h>; the same number on every Linux
NS_PER_SECOND: Final = 1_000_000_000

# The instruction by which a waiting core tells its sibling "after you": LLVM's name and its argument, if any.
PAUSES: Final = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),  # hint 1 is `yield`
}


def _require_cells(cells):
    """Refuse, at compile time, anything that A1 does not allow."""
    fits = isinstance(cells, types.Array) and cells.dtype == types.int64 and cells.ndim == 1
    if not fits or cells.layout != "C":
        raise TypingError(f"cells must be a contiguous one-dimensional int64 array, was {cells}")


def _address(context, builder, signature, args):
    """Where the cell of (cells, index, ...) lies."""
    return builder.gep(make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])


@intrinsic
def _load_acquire(_context, cells, _index):
    _require_cells(cells)

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_address(context, builder, signature, args), "acquire", CELL_BYTES)

    return types.int64(cells, types.intp), codegen


@intrinsic
def _store_release(_context, cells, _index, _value):
    _require_cells(cells)

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _address(context, builder, signature, args), "release", CELL_BYTES)
        return context.get_dummy_value()

    return types.void(cells, types.intp, types.int64), codegen


@intrinsic
def _compare_and_swap(_context, cells, _index, _expected, _desired):
    _require_cells(cells)

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(address, args[2], args[3], "acq_rel", "acquire"), 1)

    return types.boolean(cells, types.intp, types.int64, types.int64), codegen


@intrinsic
def _fetch_or(_context, cells, _index, _bits):
    _require_cells(cells)

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("or", _address(context, builder, signature, args), args[2], "acq_rel")

    return types.int64(cells, types.intp, types.int64), codegen


@intrinsic
def _fence_acquire(_context):
    def codegen(context, builder, _signature, _args):
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _fence_streamed(_context):
    def codegen(context, builder, _signature, _args):
        builder.fence("release")
        if platform.machine() == "x86_64":  # streaming stores pass others there, whatever the compiler was told
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.sfence"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _pause(_context):
    if platform.machine() not in PAUSES:
        raise TypingError(
            f"pause() knows {', '.join(PAUSES)}, this machine is {platform.machine()}: add it to PAUSES"
        )

    def codegen(context, builder, _signature, _args):
        name, operands = PAUSES[platform.machine()]
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)] * len(operands))
        instruction = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(instruction, [ir.Constant(ir.IntType(32), operand) for operand in operands])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _clock_ns(_context):
    def codegen(_context, builder, _signature, _args):
        cell = ir.IntType(64)
        timespec = cgutils.alloca_once(builder, ir.ArrayType(cell, 2))  # seconds, nanoseconds: 64 bits each
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), timespec.type])
        gettime = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(gettime, [ir.Constant(ir.IntType(32), CLOCK_REALTIME), timespec])
        seconds, nanoseconds = cgutils.unpack_tuple(builder, builder.load(timespec), 2)
        return builder.add(builder.mul(seconds, ir.Constant(cell, NS_PER_SECOND)), nanoseconds)

    return types.int64(), codegen


if TYPE_CHECKING or config.DISABLE_JIT:  # the interpreter, and mypy, see plain Python

    def load_acquire(cells, index):
        """The cell's value; whatever was written before it was stored is seen by all that follows."""
        return int(cells[index])

    def store_release(cells, index, value):
        """Store a value; whoever acquires it sees all that was written before."""
        cells[index] = value

    def compare_and_swap(cells, index, expected, desired):
        """Store `desired` if the cell holds `expected`, and say whether it did."""
        if cells[index] != expected:
            return False
        cells[index] = desired
        return True

    def fetch_or(cells, index, bits):
        """Set bits of a cell and return the value before."""
        before = int(cells[index])
        cells[index] = before | bits
        return before

    def fence_acquire():
        """Nothing before is read after what follows: between reading what may be written over and asking whether it was."""

    def fence_streamed():
        """Whatever was stored past the caches is there before what is stored after: see `copying.stream_records`."""

    def pause():
        """Wait some 10 to 100 cycles, leaving the execution units to the sibling core."""

    def yield_core():
        """Let another runnable thread have the core; return at once if there is none."""
        os.sched_yield()

    def nap_us(duration_us):
        """Sleep for at least so many microseconds, below a million; Linux adds about 50 of timer slack."""
        time.sleep(duration_us / 1_000_000)

    def clock_ns():
        """Nanoseconds since the epoch (CLOCK_REALTIME): about 25 ns, and may step when the clock is set."""
        return time.time_ns()

    def signal_self(number):
        """Send this process a signal: fault points of tests kill or stop it in the middle of a kernel."""
        signal.raise_signal(number)

else:
    load_acquire, store_release = _load_acquire, _store_release
    compare_and_swap, fetch_or = _compare_and_swap, _fetch_or
    fence_acquire, fence_streamed, pause, clock_ns = _fence_acquire, _fence_streamed, _pause, _clock_ns
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())
    _usleep = types.ExternalFunction("usleep", types.int32(types.int32))
    _raise = types.ExternalFunction("raise", types.int32(types.int32))

    @njit(cache=True, nogil=True)
    def yield_core():
        """Let another runnable thread have the core; return at once if there is none."""
        _sched_yield()

    @njit(cache=True, nogil=True)
    def nap_us(duration_us):
        """Sleep for at least so many microseconds, below a million; Linux adds about 50 of timer slack."""
        _usleep(duration_us)

    @njit(cache=True, nogil=True)
    def signal_self(number):
        """Send this process a signal: fault points of tests kill or stop it in the middle of a kernel."""
        _raise(number)


@njit(cache=True)
def load_cell(cells, index):
    """`load_acquire`, from Python."""
    return load_acquire(cells, index)


@njit(cache=True)
def store_cell(cells, index, value):
    """`store_release`, from Python."""
    store_release(cells, index, value)


@njit(cache=True)
def swap_cell(cells, index, expected, desired):
    """`compare_and_swap`, from Python."""
    return compare_and_swap(cells, index, expected, desired)


@njit(cache=True)
def or_cell(cells, index, bits):
    """`fetch_or`, from Python."""
    return fetch_or(cells, index, bits)
