"""
The ways in which the engine compiles: one place for every compiler flag.

`leaf` is for what the plain path of a command calls: always inlined, because a call passes more than twenty arrays
through the stack (measured: 290 ns a command called, 130 ns inlined, on one noisy machine). `outlined` is
for what few commands need: called, so that the plain path stays small enough for the instruction cache and the compiler.
`kernel` is for what Python calls. All are cached on disk, run without the GIL, and without numba's reference
counting: kernels allocate nothing and keep nothing, and counting cost another 300 ns a command.
"""

from collections.abc import Callable
from typing import Any, Final

from numba import njit

Decorator = Callable[[Callable[..., Any]], Any]

leaf: Final[Decorator] = njit(cache=True, nogil=True, _nrt=False, forceinline=True)
outlined: Final[Decorator] = njit(
    cache=True, nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True
)
kernel: Final[Decorator] = njit(cache=True, nogil=True, _nrt=False)
