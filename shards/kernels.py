"""
How the kernels of this layer are compiled: once, kept on disk, without the GIL, without reference counts.

A kernel only ever borrows arrays that its caller holds, yet numba counts references to each of them at every
call of one kernel by another, with locked instructions. With `_nrt=False` it emits none of that: measured here,
keeping the depth mirror went from 160 to 40 ns a report. In exchange such a kernel can allocate nothing;
numba refuses to compile one that tries.
"""

from numba import njit

kernel = njit(cache=True, nogil=True, _nrt=False)
# For what each record passes through: inlined always, as a call copies every array's description through the stack.
leaf = njit(cache=True, nogil=True, _nrt=False, forceinline=True)
