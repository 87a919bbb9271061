"""
The way through shared memory: deliveries into an embedded exchange's ingress ring, replies from its file of reports.

    prepared slots ──due──> ingress ring ──> router, worker, log, publisher ──> reports file ──tail──> matcher
                                 ^ head: acknowledged (durable, and its reports confirmed to have been taken over)

All slots are laid out before the clock runs, header, type and body; when a delivery is due a kernel copies them into the
ring, with the position and the time, and moves the tail. Every delivery that is due goes out in the same call.

What is measured: `report` is from when an order was due to when this process has read its reply from the file;
`acknowledged` to when this process sees the router's head behind the delivery: the log has it. With an output
that is no file the second is all there is.

Fast: about 100 ns a delivery and a copy. Slow: the file is asked for every NAP_SECONDS at most, so a figure is up to
that, and the timer's slack, too large, never too small.

Invariants:

    N1  this process is the only feeder of the ring, as every feeder must be
    N2  a delivery goes out whole, after the one before it, and not before it is due
"""

import os
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numba import njit

from ringpit.engine.codes import Reason, ReportKind
from ringpit.engine.records import REPORT
from ringpit.ipc import histogram
from ringpit.ipc.atomics import clock_ns, load_acquire, store_release
from ringpit.ipc.histogram import record_many
from ringpit.ipc.segment import Segment
from ringpit.perf.load_flow import Bodies
from ringpit.shards.config import Config
from ringpit.shards.delivery import publisher_key
from ringpit.shards.ingress import INGRESS, INGRESS_MAGIC, SLOT_BYTES, padded, slots_of
from ringpit.shards.layout import Role, ingress_layout, segment_name
from ringpit.shards.peers import Peers
from ringpit.shards.sinks import JSON_LINES, PACKED, SUFFIXES

WORDS: Final = len(INGRESS.names or ())
POSITION, SENT_NS = 1, 7  # words of a header
LATE_NS: Final = 1_000_000  # a send counts as late from here on
CALL_DELIVERIES: Final = 256  # sent in one call of the kernel
READ_BYTES: Final = 1 << 20


class Sent(IntEnum):
    """Cells of a sender."""

    NEXT = 0  # next delivery to be sent
    POSITION = 1  # of the ring, behind the last one
    ACKNOWLEDGED = 2  # deliveries
    LATE = 3  # orders sent more than LATE_NS after they were due


@njit(cache=True, nogil=True)
def count_acknowledged(head, now_ns, first, due_ns, own, ends, acknowledged):
    """Time the deliveries that the router's head has passed since the last call."""
    done = own[Sent.ACKNOWLEDGED]
    while done < own[Sent.NEXT] and ends[done] <= head:
        record_many(acknowledged, now_ns - due_ns[done], first[done + 1] - first[done])
        done += 1
    own[Sent.ACKNOWLEDGED] = done


@njit(cache=True, nogil=True)
def write_delivery(prepared, start, slots, ring, position, now_ns):
    """Copy a prepared delivery to a position of the ring, with what its header says of here and now."""
    mask = ring.shape[0] - 1
    for i in range(slots):
        for word in range(WORDS):
            ring[(position + i) & mask, word] = prepared[start + i, word]
    ring[position & mask, POSITION] = position
    ring[position & mask, SENT_NS] = now_ns


@njit(cache=True, nogil=True)
def offer_due(
    prepared, starts, first, due_ns, ring, tail_cells, tail_index, head_cells, head_index, own, ends, late, acknowledged
):  # fmt: skip
    """
    Send what is due, and count what is acknowledged.

    Args:
        prepared: int64 (slots, WORDS): all deliveries; delivery d lies from starts[d] to starts[d + 1].
        first: As in Bodies.
        due_ns: int64, for each delivery, ns since the epoch.
        ring: int64 (slots, WORDS): the ingress ring.
        own: int64, see Sent.
        ends: int64, for each delivery that was sent the position behind it.
        late, acknowledged: Histograms over orders.

    Returns the deliveries sent.
    """
    sent = 0
    head = load_acquire(head_cells, head_index)  # pairs with the release in IngressIntake.acknowledge
    now_ns = clock_ns()
    count_acknowledged(head, now_ns, first, due_ns, own, ends, acknowledged)
    while sent < CALL_DELIVERIES:
        delivery = own[Sent.NEXT]
        if delivery == due_ns.shape[0] or due_ns[delivery] > now_ns:
            break
        position = own[Sent.POSITION]
        slots = starts[delivery + 1] - starts[delivery]
        if position + slots - head > ring.shape[0]:
            break
        write_delivery(prepared, starts[delivery], slots, ring, position, now_ns)
        own[Sent.POSITION] = ends[delivery] = position + slots
        store_release(tail_cells, tail_index, position + slots)  # pairs with the acquire in IngressIntake.poll
        behind_ns = now_ns - due_ns[delivery]
        orders = first[delivery + 1] - first[delivery]
        record_many(late, behind_ns, orders)
        if behind_ns > LATE_NS:
            own[Sent.LATE] += orders
        own[Sent.NEXT] = delivery + 1
        sent += 1
        now_ns = clock_ns()
    return sent


class RingSender:
    """
    Feeds a router of a running exchange. Raises SegmentMissing if none runs, ValueError for a delivery that never fits.
    """

    def __init__(self, config: Config, index: int) -> None:
        """Attach to the ring and the router."""
        self._peers = Peers(config)
        self._index = index
        self._ingress = Segment.attach(segment_name(config, "ingress", index, 0), ingress_layout(config))
        self._router = self._peers.attach(Role.ROUTER, index)
        self._ring = self._ingress.region("slots").view(np.int64).reshape(-1, WORDS)
        self.late = self.acknowledged = histogram.empty()

    def prepare(self, bodies: Bodies, due_ns: np.ndarray, name: str) -> None:
        """Lay out deliveries, each with a key of `name` and its number."""
        kind = bodies.content_type.encode()
        sizes = np.array([slots_of(len(kind), len(body)) for body in bodies.bodies], np.int64)
        if len(sizes) and sizes.max() > len(self._ring):
            raise ValueError(
                f"a delivery of {sizes.max()} slots does not fit rings.ingress_slots = {len(self._ring)}: make that larger, "
                "or --frame smaller"
            )
        self._starts = np.append(0, np.cumsum(sizes))
        self._prepared = np.zeros((int(self._starts[-1]), WORDS), np.int64)
        flat = memoryview(self._prepared.view(np.uint8).reshape(-1))  # type: ignore[arg-type]  # numpy says it is none
        for number, (start, body) in enumerate(zip(self._starts.tolist(), bodies.bodies, strict=False)):
            low, high = publisher_key(b"", b"ringpit.load", f"{name}-{number}".encode())
            header = (INGRESS_MAGIC, 0, int(sizes[number]), len(kind), len(body), low, high, 0)
            self._prepared[start] = header
            at = (start + 1) * SLOT_BYTES
            flat[at : at + len(kind)] = kind
            at += padded(len(kind))
            flat[at : at + len(body)] = body
        self._first, self._due_ns = bodies.first, due_ns
        self._own, self._ends = np.zeros(len(Sent), np.int64), np.zeros(len(sizes), np.int64)
        self._own[Sent.POSITION] = self._ingress.load("tail")
        self.late, self.acknowledged = histogram.empty(), histogram.empty()

    def begin(self, start_ns: int) -> None:
        """Fix when each delivery is due."""
        self._due_ns = self._due_ns + start_ns

    def step(self) -> int:
        """Send what is due; how much that was."""
        self._router = self._peers.attach(Role.ROUTER, self._index)  # it may have been started again
        return int(
            offer_due(
                self._prepared,
                self._starts,
                self._first,
                self._due_ns,
                self._ring,
                self._ingress.cells,
                self._ingress.layout.index("tail"),
                self._router.cells,
                self._router.layout.index("ingress_head"),
                self._own,
                self._ends,
                self.late,
                self.acknowledged,
            )
        )

    def next_due_ns(self) -> int:
        """When the next delivery is due; 0: none is left."""
        number = int(self._own[Sent.NEXT])
        return int(self._due_ns[number]) if number < len(self._due_ns) else 0

    @property
    def sent(self) -> int:
        """Orders sent."""
        return int(self._first[self._own[Sent.NEXT]])

    @property
    def settled(self) -> int:
        """Orders acknowledged."""
        return int(self._first[self._own[Sent.ACKNOWLEDGED]])

    @property
    def late_orders(self) -> int:
        """Orders sent more than LATE_NS after they were due."""
        return int(self._own[Sent.LATE])

    def close(self) -> None:
        """Let go of the shared memory."""
        self._ingress.close()


class ReportLine(msgspec.Struct):
    """What a line of a report says that matters here."""

    Seq: int
    Kind: str
    OrderID: int = 0
    Reason: str = "NONE"


KINDS: Final = {kind.name.title().replace("_", ""): int(kind) for kind in ReportKind}
LINE: Final = msgspec.json.Decoder(ReportLine)


def reports_of(content_type: str, content: bytes) -> np.ndarray:
    """REPORT records of whole lines or records; of lines only seq, kind, order and reason."""
    if content_type == PACKED:
        return np.frombuffer(content, REPORT)
    lines: list[Any] = LINE.decode_lines(content)
    reports = np.zeros(len(lines), REPORT)
    if lines:
        reports["seq"] = [line.Seq for line in lines]
        reports["kind"] = [KINDS.get(line.Kind, 0) for line in lines]
        reports["order"] = [line.OrderID for line in lines]
        reports["reason"] = [Reason[line.Reason] for line in lines]
    return reports


class FileTail:
    """
    What an exchange appends to its file of reports from now on.

    Args:
        folder: Where its output lies.
        encoding: json or packed, as it is configured.
    """

    def __init__(self, folder: Path, encoding: str) -> None:
        """Stand at the end of what is there."""
        self.content_type = PACKED if encoding == "packed" else JSON_LINES
        self.path = folder / f"reports.{SUFFIXES[self.content_type]}"
        self._descriptor = -1
        self._at = self.path.stat().st_size if self.path.exists() else 0
        self._rest = b""

    def poll(self) -> np.ndarray:
        """REPORT records that came since the last call."""
        if self._descriptor < 0:
            if not self.path.exists():
                return np.zeros(0, REPORT)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        content = self._rest + os.pread(self._descriptor, READ_BYTES, self._at)
        self._at += len(content) - len(self._rest)
        if self.content_type == PACKED:
            whole = len(content) - len(content) % REPORT.itemsize
        else:
            whole = content.rfind(b"\n") + 1
        self._rest = content[whole:]
        return reports_of(self.content_type, content[:whole])

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class NoReports:
    """Where nobody can read the reports: only acknowledgements are timed."""

    def poll(self) -> np.ndarray:
        """Nothing."""
        return np.zeros(0, REPORT)

    def close(self) -> None:
        """Nothing to let go of."""
