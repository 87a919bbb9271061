"""
Answers: what a worker says to clients that ask, between two runs of frames, in Python.

    bell ──> lanes whose request is new, ours and still waited for ──> the engine's tables ──> one piece each

An answer is made whole, at one log position, and goes out in pieces of CHUNK_BYTES; the worker keeps the rest until
the lane asks for the last piece, or asks something else. Nothing is logged and nothing is changed.

Fast enough: some tens of microseconds a question, during which the shard matches nothing. Slow, and at the cost
of orders that wait: an account's open orders look at every order slot (a millisecond or so per million), the digest hashes
every open order (tenths of a second for a million). They cannot be cut: half an answer of another moment is a wrong one.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import numpy as np

from ringpit.engine import queries as engine
from ringpit.engine.book import find_book
from ringpit.engine.codes import Side
from ringpit.engine.ladder import NIL
from ringpit.engine.tables import Cell, Tables
from ringpit.ipc.segment import Segment
from ringpit.shards.lanes import (
    ANSWER,
    CHUNK_BYTES,
    LANES,
    LEVEL_ROW,
    LEVELS_MAX,
    Answered,
    Ask,
    bytes_of,
    request_slot,
)


class Made(NamedTuple):
    """An answer, whole."""

    status: Answered
    content: bytes = b""
    seq: int = 0
    engine_ns: int = 0


class Answers:
    """
    One worker's side of the lanes.

    Args:
        shard: Whose questions to answer.
        segment: The worker's own, where answers go.
        queries: The clients'.
        tables: Read, never written.
    """

    def __init__(self, shard: int, segment: Segment, queries: Segment, tables: Tables) -> None:
        """Nothing is answered yet."""
        self._shard = shard
        self._segment = segment
        self._queries = queries
        self._tables = tables
        self._bell = f"bell.{shard}"
        self._seen = [0] * LANES
        self._kept: dict[int, Made] = {}  # by lane: answers of which more may be wanted

    def bell(self) -> int:
        """How often clients have rung."""
        return self._queries.load(self._bell)  # pairs with the swap in Client: requests are complete before

    def answer(self, seq: int, now_ns: int) -> int:
        """Answer every request that waits, all at log position `seq`; how many there were."""
        count = 0
        for lane in range(LANES):
            number = self._queries.load(f"asked.{lane}")  # pairs with the client's store (N1)
            while number != self._seen[lane]:
                slot = request_slot(lane, number)
                request = self._queries.region("requests")[slot].copy()
                self._seen[lane] = number
                number = self._queries.load(f"asked.{lane}")
                if number == self._seen[lane] and self._wanted(
                    request, now_ns
                ):  # else written over, or nobody waits
                    self._tell(lane, number, request, seq)
                    count += 1
        return count

    def _wanted(self, request: np.void, now_ns: int) -> bool:
        """True if a request is ours and somebody still waits for it."""
        return bool(request["shard"] == self._shard and request["deadline_ns"] > now_ns)

    def _tell(self, lane: int, number: int, request: np.void, seq: int) -> None:
        """Write one piece of an answer into its lane (N2, N3)."""
        begin = int(request["begin"])
        if begin == 0:
            status, content = self._make(request)
            made = Made(status, content, seq, int(self._tables.cells[Cell.ENGINE_NS]))
        else:
            made = self._kept.get(lane, Made(Answered.GONE))
        piece = made.content[begin : begin + CHUNK_BYTES] if begin >= 0 else b""
        total = len(made.content)
        self._kept[lane] = made
        if begin + len(piece) >= total:
            del self._kept[lane]
        incarnation = self._segment.incarnation
        row = (made.status, made.seq, begin, len(piece), total, self._shard, made.engine_ns, incarnation)
        self._segment.region("answers")[lane] = np.array([row], ANSWER)[0]
        bytes_of(lane, self._segment.region("answer_bytes"))[: len(piece)] = np.frombuffer(piece, np.uint8)
        self._segment.store(f"answered.{lane}", number)  # pairs with the acquire in Client

    def _make(self, request: np.void) -> tuple[Answered, bytes]:
        """The answer to a request. Whatever a client wrote, the worker goes on."""
        make = MAKERS.get(int(request["kind"]))
        return make(self._tables, request) if make else (Answered.MALFORMED, b"")


def order(t: Tables, request: np.void) -> tuple[Answered, bytes]:
    """One RESTING row."""
    if find_book(t, int(request["event"])) == NIL:
        return Answered.UNKNOWN_EVENT, b""
    rows = engine.order_row(t, int(request["event"]), int(request["order"]))
    return (Answered.DONE, rows.tobytes()) if len(rows) else (Answered.UNKNOWN_ORDER, b"")


def orders(t: Tables, request: np.void) -> tuple[Answered, bytes]:
    """RESTING rows of an account."""
    return Answered.DONE, engine.open_orders(t, int(request["account"])).tobytes()


def depth(t: Tables, request: np.void) -> tuple[Answered, bytes]:
    """LEVEL_ROW rows, bids and then asks, best first."""
    book = find_book(t, int(request["event"]))
    if book == NIL:
        return Answered.UNKNOWN_EVENT, b""
    levels = min(max(int(request["levels"]), 1), LEVELS_MAX)
    parts = []
    for side in Side:
        found = engine.depth(t, book, side, levels)
        rows = np.zeros(len(found), LEVEL_ROW)
        rows["side"] = side
        rows["price"], rows["quantity"] = found[:, 0], found[:, 1]
        parts.append(rows.tobytes())
    return Answered.DONE, b"".join(parts)


def position(t: Tables, request: np.void) -> tuple[Answered, bytes]:
    """Orders and lots before an order, as MessagePack."""
    if find_book(t, int(request["event"])) == NIL:
        return Answered.UNKNOWN_EVENT, b""
    found = engine.queue_position(t, int(request["event"]), int(request["order"]))
    return (
        (Answered.DONE, msgspec.msgpack.encode(found)) if found is not None else (Answered.UNKNOWN_ORDER, b"")
    )


def statistics(t: Tables, _request: np.void) -> tuple[Answered, bytes]:
    """How full the pools are, as MessagePack."""
    return Answered.DONE, msgspec.msgpack.encode(engine.statistics(t))


def digest(t: Tables, _request: np.void) -> tuple[Answered, bytes]:
    """The digest's hexadecimal digits."""
    return Answered.DONE, engine.digest(t).encode()


Maker = Callable[[Tables, np.void], tuple[Answered, bytes]]
MAKERS: Final[dict[int, Maker]] = {
    Ask.ORDER: order,
    Ask.ORDERS: orders,
    Ask.DEPTH: depth,
    Ask.POSITION: position,
    Ask.STATISTICS: statistics,
    Ask.DIGEST: digest,
}
