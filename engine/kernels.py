"""
The ways in which the engine compiles: one place for every compiler flag.

`leaf` is for what the plain path of a command calls: always inlined, because a call passes more than twenty arrays
through the stack (measured: 290 ns a command called, 130 ns inlined, on one noisy machine). `outlined` is
for what few commands need: called, so that the plain path stays small enough for the instruction cache and the compiler.
`kernel` is for what Python calls. All are cached on disk, run without the GIL, and without numba's reference
counting: kernels allocate nothing and keep nothing, and counting cost another 300 ns a command.

One kernel, one compilation: numba compiles a function once more for each combination of constants that it is called with
(`process` three times, one function of the renderer twenty-seven times), which was half of the first start. What is inlined
sees its constants all the same, later, in LLVM.
"""

from collections.abc import Callable
from typing import Any, Final

from numba import config, njit, types

Decorator = Callable[[Callable[..., Any]], Any]


def compiled_once(**flags: Any) -> Decorator:
    """A decorator like `njit`, whose functions are not compiled anew for each constant argument."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(cache=True, nogil=True, _nrt=False, **flags)(function)
        if config.DISABLE_JIT:
            return dispatcher
        template_for = dispatcher.get_call_template

        def get_call_template(arguments: Any, keywords: Any) -> Any:
            return template_for(tuple(map(types.unliteral, arguments)), keywords)

        dispatcher.get_call_template = get_call_template
        return dispatcher

    return decorate


leaf: Final[Decorator] = compiled_once(forceinline=True, no_cfunc_wrapper=True)
outlined: Final[Decorator] = compiled_once(no_cpython_wrapper=True, no_cfunc_wrapper=True)
kernel: Final[Decorator] = compiled_once(no_cfunc_wrapper=True)
