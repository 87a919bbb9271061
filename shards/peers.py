"""
Peers: the segments of the other processes, as one process sees them.

The board says which incarnation of each process counts. A segment is attached when first asked for, kept, and
attached anew when the board names another incarnation; so callers ask each time, and never hold on to a
dead process's memory longer than they want to.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import Final

from ringpit.ipc.segment import Segment, SegmentLayout, SegmentMissing
from ringpit.shards.config import Config
from ringpit.shards.layout import (
    Role,
    board_layout,
    publisher_layout,
    queries_layout,
    queries_name,
    router_layout,
    segment_name,
    worker_layout,
)

LAYOUTS: Final[dict[Role, Callable[[Config], SegmentLayout]]] = {
    Role.FOLLOWER: worker_layout,
    Role.ROUTER: router_layout,
    Role.WORKER: worker_layout,
    Role.PUBLISHER: publisher_layout,
}
ATTACH_TIMEOUT_SECONDS: Final = 10.0
NAP_SECONDS: Final = 0.001


class Peers:
    """
    The board, and whatever it names.

    Raises SegmentMissing or SegmentMismatch, from the constructor and from `attach`, with the remedy.
    """

    def __init__(self, config: Config, *, writable: bool = True) -> None:
        """Attach the board; whoever only watches attaches nothing writable."""
        self._config = config
        self._writable = writable
        self.board = Segment.attach(
            segment_name(config, "board", 0, 0), board_layout(config), writable=writable
        )
        self._layouts = {role: layout(config) for role, layout in LAYOUTS.items()}
        self._attached: dict[tuple[Role, int], Segment] = {}

    @cached_property
    def queries(self) -> Segment:
        """What clients ask; one segment from the exchange's start to its end."""
        return Segment.attach(queries_name(self._config), queries_layout(self._config))

    def incarnation(self, role: Role, index: int) -> int:
        """Which incarnation of a process counts; 0: it has not been started yet."""
        return self.board.load(f"{role.label}.{index}.incarnation")

    def stop_wanted(self, role: Role, index: int) -> bool:
        """True if the supervisor asked a process to stop."""
        return self.board.load(f"{role.label}.{index}.stop") != 0

    def attach(self, role: Role, index: int) -> Segment:
        """The segment of the incarnation that counts. About 2 microseconds when nothing has changed."""
        incarnation = self.incarnation(role, index)
        segment = self._attached.get((role, index))
        if segment is not None and segment.incarnation == incarnation:
            return segment
        deadline = time.monotonic() + ATTACH_TIMEOUT_SECONDS
        while True:
            incarnation = self.incarnation(role, index)
            if incarnation == 0:
                raise SegmentMissing(f"there is no {role.label} {index} now: the board names none")
            name = segment_name(self._config, role.memory, index, incarnation)
            try:
                segment = Segment.attach(name, self._layouts[role], writable=self._writable)
            except SegmentMissing:  # it has been replaced between our two looks, or is not there yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(NAP_SECONDS)
            else:
                self._attached[role, index] = segment
                return segment
