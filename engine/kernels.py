"""
The two ways in which the engine compiles: one place for every compiler flag.

`leaf` is for functions that other kernels call: always inlined, because a call would pass eleven arrays
through the stack (measured: 290 ns a command called, 130 ns inlined, on one noisy machine). `kernel` is for
what Python calls. Both are cached on disk, run without the GIL, and without numba's reference
counting: kernels allocate nothing and keep nothing, and counting cost another 300 ns a command.
"""

from collections.abc import Callable
from typing import Any, Final

from numba import njit

Decorator = Callable[[Callable[..., Any]], Any]

leaf: Final[Decorator] = njit(cache=True, nogil=True, _nrt=False, forceinline=True)
kernel: Final[Decorator] = njit(cache=True, nogil=True, _nrt=False)
