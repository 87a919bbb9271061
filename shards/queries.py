"""
Queries: what a running exchange can be asked, from any process of the same user on the same machine.

    with Client(config) as client:
        client.depth(7)                  bids and asks
        client.open_orders(10)           of an account, from every shard
        client.digests()                 one a shard, to compare with a replay's

Every answer is of one moment of its shard: of whole commands up to a log position, `seq`. With `release = "durable"` it is
given out when the log has that position, so that no answer tells of what a crash could take back.

A question travels through a lane of shared memory (lanes.py). It is answered by the shard's worker between two
runs of frames; it is not logged and changes nothing.

Fast enough: a fraction of a millisecond when the worker is awake, its nap and the log's round trip besides. Slow: see
answers.py; and each client maps the whole segment of every worker that it asks.
"""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np

from ringpit.engine.codes import Side
from ringpit.engine.digest import RESTING
from ringpit.ipc.atomics import load_cell, swap_cell
from ringpit.ipc.idle import SPINS_MAX, Idle
from ringpit.ipc.segment import SHARED_MEMORY, Segment, SegmentMissing
from ringpit.shards.config import Config
from ringpit.shards.lanes import (
    LANES,
    LEVEL_ROW,
    LEVELS_MAX,
    REQUEST,
    Answered,
    Ask,
    bytes_of,
    request_slot,
)
from ringpit.shards.layout import Role, State, queries_name
from ringpit.shards.peers import Peers

PATIENCE_SECONDS: Final = 5.0
NAP_SECONDS: Final = 0.001
LOCK: Final = struct.Struct("hh4xqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, process
STATISTIC_WORDS: Final = ("epoch", "matched_seq", "durable_seq", "log_bytes")  # read without asking


class QueryFailed(Exception):
    """A question without an answer. The message says why, and what to do."""


class NotRunning(QueryFailed):
    """There is no exchange of this name on this machine."""


class ShardAway(QueryFailed):
    """A shard's worker is starting, recovering or leaving."""


class NoAnswer(QueryFailed):
    """Time is up."""


class Unknown(QueryFailed):
    """The exchange has no such event, or no such open order."""


class Moment(NamedTuple):
    """When an answer was true: of a life of a shard's worker, up to a log position, at an engine time."""

    shard: int
    incarnation: int
    seq: int
    engine_ns: int

    @classmethod
    def of(cls, answer: np.void) -> Self:
        """That of an ANSWER row."""
        return cls(*(int(answer[name]) for name in cls._fields))


class Answer(NamedTuple):
    """What a worker said, whole."""

    status: Answered
    moment: Moment
    content: bytes


class Depth(NamedTuple):
    """Int64 arrays of (price in ticks of YES, lots), best first."""

    bids: np.ndarray
    asks: np.ndarray


class Client:
    """
    Asks a running exchange. A context manager; for one thread.

    Args:
        config: The one that the exchange was started with.
        patience_seconds: For each question: then NoAnswer.

    Attributes: `moment`, of the last answer; `shards`, the numbers of all shards.

    Raises NotRunning, SegmentMismatch (the exchange was started with other sizes), or NoAnswer if all lanes are taken.
    """

    def __init__(self, config: Config, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Attach, and take a lane."""
        self._config = config
        self._patience_seconds = patience_seconds
        self._file = -1
        self.moment = Moment(0, 0, 0, 0)
        self.shards = range(config.exchange.shards)
        with self._while_it_runs():
            self._peers = Peers(config)
            self._queries = self._peers.queries
            self._file = os.open(SHARED_MEMORY / queries_name(config), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._lane = self._take_lane()
        except NoAnswer:
            self.close()
            raise
        self._number = self._queries.load(f"asked.{self._lane}")

    def close(self) -> None:
        """Give the lane back."""
        if self._file >= 0:
            os.close(self._file)  # the lock goes with it
        self._file = -1

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    # What can be asked ---------------------------------------------------------------------------------

    def order_status(self, event: int, order: int) -> np.void:
        """An open order: a RESTING row. Raises Unknown if it is not open."""
        answer = self._ask_about(event, Ask.ORDER, order=order)
        row: np.void = np.frombuffer(answer.content, RESTING)[0]
        return row

    def open_orders(self, account: int) -> np.ndarray:
        """An account's open orders on all shards: RESTING rows, shard by shard, each of a moment of its own."""
        found = [self._ask(shard, Ask.ORDERS, account=account) for shard in self.shards]
        return np.concatenate([np.frombuffer(answer.content, RESTING) for answer in found])

    def depth(self, event: int, levels: int = 10) -> Depth:
        """The best levels (1 to LEVELS_MAX) of both sides, in terms of YES. Raises Unknown, ValueError."""
        if not 1 <= levels <= LEVELS_MAX:
            raise ValueError(f"levels must be from 1 to {LEVELS_MAX}, was {levels}")
        rows = np.frombuffer(self._ask_about(event, Ask.DEPTH, levels=levels).content, LEVEL_ROW)
        table = np.stack([rows["price"], rows["quantity"]], axis=1)
        return Depth(table[rows["side"] == Side.BUY], table[rows["side"] == Side.SELL])

    def queue_position(self, event: int, order: int) -> tuple[int, int]:
        """
        Orders that stand before an open order at its price, and their lots that trade first. Raises Unknown if it is not open.

        Of an iceberg in front what it shows now counts; of hidden and waiting orders all that is open.
        """
        content = self._ask_about(event, Ask.POSITION, order=order).content
        return msgspec.msgpack.decode(content, type=tuple[int, int])

    def best(self, event: int) -> tuple[int | None, int | None]:
        """Best bid and best ask in ticks of YES, None where there is none. Raises Unknown."""
        bids, asks = self.depth(event, 1)
        return (int(bids[0, 0]) if len(bids) else None, int(asks[0, 0]) if len(asks) else None)

    def statistics(self, shard: int) -> dict[str, int]:
        """How full a shard's pools are, and what its worker and its log say."""
        answer = self._ask(shard, Ask.STATISTICS)
        worker = self._worker(shard)
        words = {word: worker.load(word) for word in STATISTIC_WORDS}
        told: dict[str, int] = msgspec.msgpack.decode(answer.content)
        return {"shard": shard, "seq": answer.moment.seq, "incarnation": worker.incarnation, **words, **told}

    def digest(self, shard: int) -> str:
        """A hash of a shard's open orders; `moment` says of when."""
        return self._ask(shard, Ask.DIGEST).content.decode()

    def digests(self) -> list[str]:
        """One digest a shard, each of a moment of its own."""
        return [self.digest(shard) for shard in self.shards]

    def event(self, event: int) -> np.void:
        """What an event's prices are: an EVENT row (layout.py), without asking anybody. Raises Unknown, ShardAway."""
        return self._place(event)[1]

    # How -----------------------------------------------------------------------------------------------

    @contextmanager
    def _while_it_runs(self) -> Iterator[None]:
        """What is missing, is missing because the exchange does not run."""
        try:
            yield
        except (SegmentMissing, FileNotFoundError):
            name = self._config.exchange.name
            raise NotRunning(
                f"no exchange {name!r} runs on this machine: start it with `ringpit run`, or name its configuration with -c"
            ) from None

    def _take_lane(self) -> int:
        """Lock the first lane that is free. Raises NoAnswer if all are taken for longer than our patience."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            for lane in range(LANES):
                try:
                    lock = LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, lane, 1, 0)
                    fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, lock)
                except BlockingIOError:
                    continue
                return lane
            if time.monotonic() > deadline:
                raise NoAnswer(
                    f"all {LANES} lanes have been taken by other clients for {self._patience_seconds:g} s: "
                    "close one of them, or ask again"
                )
            time.sleep(NAP_SECONDS)

    def _worker(self, shard: int) -> Segment:
        """The segment of the worker that counts. Raises ShardAway unless it serves."""
        with self._while_it_runs():
            worker = self._peers.attach(Role.WORKER, shard)
        state = State(worker.load("state"))
        if state is not State.RUNNING:
            doing = "has stopped" if state is State.DRAINED else f"is {state.name.lower()}"
            raise ShardAway(f"shard {shard} {doing} and answers nothing now: ask again when it is running")
        return worker

    def _place(self, event: int) -> tuple[int, np.void]:
        """An event's shard and its EVENT row."""
        away = None
        for shard in self.shards:
            try:
                worker = self._worker(shard)
            except ShardAway as error:
                away = error
                continue
            events = worker.region("events")[
                : worker.load("events_count")
            ]  # pairs with the store in tell_events
            found = np.flatnonzero(events["event"] == event)
            if len(found):
                row: np.void = events[found[0]].copy()
                return shard, row
        if away:
            raise away  # it may be the one
        raise Unknown(f"no shard knows event {event}: create it first")

    def _ask_about(self, event: int, kind: Ask, **fields: int) -> Answer:
        """Ask the shard of an event. Raises Unknown."""
        shard, _ = self._place(event)
        answer = self._ask(shard, kind, event=event, **fields)
        if answer.status == Answered.UNKNOWN_EVENT:
            raise Unknown(f"shard {shard} knows no event {event}")
        if answer.status == Answered.UNKNOWN_ORDER:
            raise Unknown(
                f"event {event} has no open order {fields['order']}: it never came, was filled or cancelled"
            )
        return answer

    def _ask(self, shard: int, kind: Ask, **fields: int) -> Answer:
        """One question to one shard, and the whole answer. Raises ShardAway or NoAnswer."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            answer = self._whole(shard, kind, deadline, fields)
            if answer is not None and self._durable(answer, deadline):
                self.moment = answer.moment
                return answer

    def _whole(self, shard: int, kind: Ask, deadline: float, fields: dict[str, int]) -> Answer | None:
        """All pieces of an answer; None if the worker was replaced between two."""
        head, piece = self._piece(shard, kind, 0, deadline, fields)
        pieces = [piece]
        got = len(piece)
        while got < head["total"]:
            row, piece = self._piece(shard, kind, got, deadline, fields)
            if row["status"] == Answered.GONE or Moment.of(row) != Moment.of(head) or not piece:
                return None
            pieces.append(piece)
            got += len(piece)
        return Answer(Answered(int(head["status"])), Moment.of(head), b"".join(pieces))

    def _piece(
        self, shard: int, kind: Ask, begin: int, deadline: float, fields: dict[str, int]
    ) -> tuple[np.void, bytes]:
        """Ask for one piece of an answer, and wait for it."""
        self._worker(shard)  # before anything is asked
        self._number += 1
        left_ns = int((deadline - time.monotonic()) * 1e9)
        row = np.zeros(1, REQUEST)
        for name, value in (("kind", kind), ("shard", shard), ("begin", begin), *fields.items()):
            row[name] = value
        row["deadline_ns"] = time.time_ns() + left_ns
        self._queries.region("requests")[request_slot(self._lane, self._number)] = row[0]
        self._queries.store(f"asked.{self._lane}", self._number)  # pairs with the worker's acquire (N1)
        self._ring(shard)
        idle = Idle("sleep", skipped=SPINS_MAX)
        answered = f"answered.{self._lane}"
        while True:
            worker = self._worker(shard)
            if worker.load(answered) == self._number:  # pairs with the worker's store (N3)
                break
            if time.monotonic() > deadline:
                raise NoAnswer(
                    f"shard {shard} gave no answer within {self._patience_seconds:g} s: it may wait for its log or its "
                    "publisher, or hang; look at what `ringpit run` printed"
                )
            idle(0)
        answer: np.void = worker.region("answers")[self._lane].copy()
        piece = bytes_of(self._lane, worker.region("answer_bytes"))[: answer["count"]].tobytes()
        return answer, piece

    def _ring(self, shard: int) -> None:
        """Advance the shard's bell, which other clients ring, too."""
        cells, index = self._queries.cells, self._queries.layout.index(f"bell.{shard}")
        while True:
            rung = load_cell(cells, index)
            if swap_cell(cells, index, rung, rung + 1):  # pairs with the acquire in `serve`
                return

    def _durable(self, answer: Answer, deadline: float) -> bool:
        """
        Wait until the log has all that an answer tells of; False if the worker was replaced: then it may tell too much.

        With release mode "matched" nobody waits.
        """
        if self._config.output.release == "matched":
            return True
        shard, incarnation, seq, _ = answer.moment
        idle = Idle("sleep", skipped=SPINS_MAX)
        while True:
            worker = self._worker(shard)
            if worker.incarnation != incarnation:
                return False
            if worker.load("durable_seq") >= seq:
                return True
            if time.monotonic() > deadline:
                raise NoAnswer(
                    f"shard {shard} has answered, but its log has not taken what the answer tells of within "
                    f"{self._patience_seconds:g} s: look at the log"
                )
            idle(0)
