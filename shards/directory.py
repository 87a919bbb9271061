"""
Directory: which shard an event lives on, and how its prices are written.

An event's shard is decided once, when it is created: the shard that `[placement]` names, else a fixed
hash of its id. Workers show the events of their logs in shared memory, and a router reads them before it takes
anything in; so a directory needs no log and no lock of its own, and an event stays where it was created even
when the placement is changed later.

The hash is version PLACEMENT_VERSION of ours, shared by all routers; it must never change for a running log.
Orders for unknown events go where the event would live, and are refused there, in the log.

Fast here because the kernels that deal (dealing.py) ask once a command, or once a row of commands of one event. Slow for JSON,
where each order's decimal price needs the event's spec as a Python object.
"""

from typing import Final, NamedTuple

import numpy as np

from ringpit.engine import index
from ringpit.ipc.atomics import load_cell
from ringpit.ipc.segment import Segment
from ringpit.shards.kernels import kernel
from ringpit.shards.prices import PriceSpec, PriceSpecError
from ringpit.shards.sections import Placement

PLACEMENT_VERSION: Final = 1
EVERYWHERE: Final = Placement()  # no event has a place of its own


class Homes(NamedTuple):
    """Event to shard, as kernels see it."""

    events: np.ndarray  # int64, by slot
    shards: np.ndarray  # int64, by slot
    index: np.ndarray  # type: ignore[assignment]  # int64 entries: event to slot; hides tuple.index
    cells: np.ndarray  # int64: [0] slots used
    ranges: np.ndarray  # int64, a row each: first id, last id, shard
    open_shards: np.ndarray  # int64: those that a hash may choose


@kernel
def home_of(homes, event):
    """The shard of an event: where it lives, or where it would."""
    fingerprint = index.fingerprint_of(0, event)
    position = index.seek(homes.index, fingerprint, fingerprint)
    while position != index.MISSING:
        slot = index.slot_at(homes.index, position)
        if homes.events[slot] == event:
            return homes.shards[slot]
        position = index.seek(homes.index, fingerprint, position + 1)
    for row in range(homes.ranges.shape[0]):
        if homes.ranges[row, 0] <= event <= homes.ranges[row, 1]:
            return homes.ranges[row, 2]
    return homes.open_shards[fingerprint % homes.open_shards.shape[0]]


@kernel
def settle_home(homes, event, shard):
    """Remember where an event lives that is not known yet. False if the table is full."""
    slot = homes.cells[0]
    if slot == homes.events.shape[0]:
        return False
    homes.events[slot] = event
    homes.shards[slot] = shard
    index.insert(homes.index, index.fingerprint_of(0, event), slot)
    homes.cells[0] = slot + 1
    return True


class Directory:
    """
    The events that a router knows.

    Args:
        shards: How many there are.
        events_max: Events that can be known at once; later ones still go to their shard by hash.
        placement: Where events live that shall not go by hash. Its ranges are gone through one by one: some tens cost nothing.

    `spec_of(event)` is how the event's prices are written, or None if it is not known.
    """

    def __init__(self, shards: int, events_max: int, placement: Placement = EVERYWHERE) -> None:
        """Knows nothing but the placement."""
        slots = events_max + len(placement.events)
        reserved = set(placement.reserved)
        self.homes = Homes(
            np.zeros(slots, np.int64),
            np.zeros(slots, np.int64),
            index.make_index(slots),
            np.zeros(1, np.int64),
            np.array(placement.rows(), np.int64).reshape(-1, 3),
            np.array([shard for shard in range(shards) if shard not in reserved], np.int64),
        )
        self._known: set[int] = set()
        self._specs: dict[int, PriceSpec] = {}
        self.spec_of = (
            self._specs.get
        )  # asked for each decimal price: a method of ours would cost twice as much
        self._learned = [0] * shards
        self._placement = placement.events

    def place(self) -> None:
        """Apply the placement to events that no log has placed yet; call it after the first `learn` of each shard."""
        for event, shard in self._placement.items():
            self._settle(event, shard)

    def _settle(self, event: int, shard: int) -> None:
        """Fix an event's home once."""
        if event not in self._known and settle_home(self.homes, event, shard):
            self._known.add(event)

    def shard_of(self, event: int) -> int:
        """The shard of an event: where it lives, or where it would."""
        return int(home_of(self.homes, event))

    def create(self, event: int, spec: PriceSpec) -> None:
        """A CREATE_EVENT is on its way to its shard: later orders may use its prices."""
        self._specs.setdefault(event, spec)

    def learn(self, shard: int, worker: Segment) -> int:
        """Take over events that a worker shows, as far as they are new; how many there were."""
        count = load_cell(worker.cells, worker.layout.index("events_count"))  # pairs with tell_events
        start = self._learned[shard]
        if count == start:
            return 0
        rows = worker.region("events")
        for row in rows[start:count]:
            event = int(row["event"])
            self._settle(event, shard)
            try:
                self._specs[event] = PriceSpec(
                    low_ticks=int(row["low"]),
                    high_ticks=int(row["high"]),
                    payout_ticks=int(row["payout"]),
                    tick_units=int(row["tick_units"]),
                    decimals=int(row["decimals"]),
                )
            except (
                PriceSpecError
            ):  # of a decimal or tick that only the engine has: its prices are written in ticks
                self._specs.pop(event, None)
        self._learned[shard] = count
        return int(count - start)
