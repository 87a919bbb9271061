"""
`process` through its address: for the kernels of other layers, which would each hold all of matching once more.

LLVM optimises a kernel together with everything it calls. The worker's loop and the follower's, and what they are made of,
were five kernels that each held `process` whole, a third of the first start's compilation. They get its address instead:

    address = address_of_process(t, commands, markers, reports)      Python: compiles or loads it
    process_through(address, t, commands, ...)                       as process(t, commands, ...), an indirect call

Interpreted, and in a simulation, the address says nothing and `process` itself is called.

Fast here because a run of many commands is one call. Slow where it would be called for each command: about 2 ns.
"""

from typing import Any

import numpy as np
from numba import config, typeof, types
from numba.extending import intrinsic, overload

from ringpit.engine.machine import process
from ringpit.engine.tables import Tables

NUMBERS: tuple[Any, ...] = (types.int64, types.int64, types.int64)
REACHED = types.UniTuple(types.int64, 2)  # what `process` answers


def address_of_process(t: Tables, commands: np.ndarray, markers: np.ndarray, reports: np.ndarray) -> int:
    """Where the machine code for arrays of these types begins; it stays there as long as this process. 0 interpreted."""
    if config.DISABLE_JIT:
        return 0
    arguments = (typeof(t), typeof(commands), typeof(markers), *NUMBERS, typeof(reports), *NUMBERS)
    process.compile(arguments)
    compiled = process.overloads[arguments]
    if compiled.signature.return_type != REACHED:
        raise TypeError(f"process must return {REACHED}, was {compiled.signature.return_type}")
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def process_through(_address, t, commands, markers, begin_at, end_at, seq, reports, out, out_limit, ahead):
    """As `process`; interpreted it is that."""
    return process(t, commands, markers, begin_at, end_at, seq, reports, out, out_limit, ahead)


@intrinsic  # type: ignore[misc]  # numba is not typed
def _call_at(_typing: Any, address: Any, arguments: Any) -> Any:
    """Call what lies at an address, which must be `process` for arrays of these types, with its arguments as a tuple."""
    kinds = (*arguments.types[:3], *NUMBERS, arguments.types[6], *NUMBERS)

    def lower(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind = context.call_conv.get_function_type(REACHED, kinds)
        function = builder.inttoptr(values[0], kind.as_pointer())
        unpacked = [
            context.cast(builder, builder.extract_value(values[1], place), given, wanted)
            for place, (given, wanted) in enumerate(zip(arguments.types, kinds, strict=True))
        ]
        status, reached = context.call_conv.call_function(builder, function, REACHED, kinds, unpacked)
        with builder.if_then(status.is_error, likely=False):
            context.call_conv.return_status_propagate(builder, status)
        return reached

    return REACHED(address, arguments), lower


@overload(process_through, jit_options={"_nrt": False, "nogil": True})
def _process_through(_address, t, commands, markers, begin_at, end_at, seq, reports, out, out_limit, ahead):  # noqa: ARG001 - numba looks at their names
    """The compiled form."""
    return lambda _address, t, commands, markers, begin_at, end_at, seq, reports, out, out_limit, ahead: (
        _call_at(_address, (t, commands, markers, begin_at, end_at, seq, reports, out, out_limit, ahead))
    )
