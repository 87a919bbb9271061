"""
Shared memory that is not shared: segments of one machine as plain arrays, for simulations in one process.

    memory = Memory()
    memory.create("board", layout)      what the supervisor does
    memory.attach("board", layout)      what everybody else does; a handle of its own over the same arrays

`Memory` stands where a module has `Segment` (ipc/segment.py), and a `MemorySegment` has the face of one. A machine that
loses power is a `Memory` that is thrown away.

Fast here: an array of zeros is made where a file would be. Nothing is checked that ipc/segment.py checks.

Invariant:

    MS1  a segment whose name was removed can still be used by whoever holds it, as with files in /dev/shm
"""

from collections.abc import Callable

import numpy as np

from ringpit.ipc.segment import SegmentExists, SegmentLayout, SegmentMissing


class MemorySegment:
    """One handle of a segment. `touched` is called before each load and store: there a simulation may change processes."""

    def __init__(
        self,
        memory: "Memory",
        name: str,
        layout: SegmentLayout,
        incarnation: int,
        cells: np.ndarray,
        regions: dict[str, np.ndarray],
    ) -> None:
        """Made by `Memory`."""
        self._memory = memory
        self.name = name
        self.layout = layout
        self.incarnation = incarnation
        self.cells = cells
        self.regions = regions

    def region(self, name: str) -> np.ndarray:
        """The records of a region."""
        self._memory.touched()
        return self.regions[name]

    def load(self, word: str) -> int:
        """Value of a word."""
        self._memory.touched()
        return int(self.cells[self.layout.index(word)])

    def store(self, word: str, value: int) -> None:
        """Put a value into a word."""
        self._memory.touched()
        self.cells[self.layout.index(word)] = int(value)

    def unlink(self) -> None:
        """Remove the name (MS1)."""
        self._memory.segments.pop(self.name, None)

    def close(self) -> None:
        """Nothing to let go of: the arrays go with their last holder."""


class Memory:
    """The shared memory of one machine: names to segments."""

    def __init__(self, touched: Callable[[], None] = lambda: None) -> None:
        """Holds nothing."""
        self.touched = touched
        self.segments: dict[str, MemorySegment] = {}

    def create(self, name: str, layout: SegmentLayout, incarnation: int = 0) -> MemorySegment:
        """Make a segment of zeros. Raises SegmentExists."""
        if name in self.segments:
            raise SegmentExists(f"segment {name} is there already")
        block = np.zeros(layout.bytes_total, np.uint8)  # one, as in a file: whoever spans several regions may
        regions = {
            region.name: np.frombuffer(block, region.dtype, region.count, layout.offset(region.name))
            for region in layout.regions
        }
        cells = np.zeros(layout.cells_total, np.int64)
        self.segments[name] = MemorySegment(self, name, layout, incarnation, cells, regions)
        return self.segments[name]

    def attach(self, name: str, _layout: SegmentLayout) -> MemorySegment:
        """Another handle. Raises SegmentMissing."""
        made = self.segments.get(name)
        if made is None:
            raise SegmentMissing(f"segment {name} is missing")
        return MemorySegment(self, name, made.layout, made.incarnation, made.cells, made.regions)
