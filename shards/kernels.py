"""
How the kernels of this layer are compiled: as the engine's (engine/kernels.py), and for the same reasons.

A kernel only ever borrows arrays that its caller holds, yet numba counts references to each of them at every
call of one kernel by another, with locked instructions. Without it keeping the depth mirror went from 160 to 40 ns a report.
"""

from ringpit.engine.kernels import kernel, leaf

__all__ = ["kernel", "leaf"]
