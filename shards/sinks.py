"""
Sinks: where a publisher's messages go, and when they count as delivered.

A publisher hands over one cycle's messages and then a *barrier*, a token that says how far the output ring
has been read. When everything before the token is safe, `poll` returns it, and only then does the
publisher give the ring's slots back. So a sink never needs to remember what it was given for longer than
it takes to confirm it, and a crash repeats messages but never loses one.

    publisher: reports, trades, price, book, ..., barrier(token)  ──>  sink
    publisher: head and confirmed seq  <──  poll() = token, with every token before it

Four sinks live here: files, standard output, none, memory. RabbitMQ's is `outlet.py`. The file sink is
fast because a cycle is one write of some megabytes to each file; it is slow when cycles are small, for it
never waits to make them larger.

What is sent is NDJSON (content type JSON_LINES) or raw REPORT records (PACKED). A restart may send again
what was not confirmed: whoever reads keeps the identity (generation, shard, seq, index) of each report and
drops what he has. Lines of prices and books are absolute, so repeats of those do no harm.

Invariants:

    S1  a token is returned by `poll` only when all messages before its barrier are safe
    S2  tokens are returned in the order of their barriers; one that is passed over is confirmed with the next
    S3  a payload belongs to the publisher: a sink copies or writes it before it returns
    S4  a file never holds a torn line from an earlier run: opening cuts it off, and as it was never
        confirmed it comes again
"""

import errno
import os
import select
from collections import deque
from functools import partialmethod
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ringpit.engine.records import RECORD_BYTES

JSON_LINES: Final = "application/x-ndjson"
PACKED: Final = "application/x-ringpit-reports"
SUFFIXES: Final = {JSON_LINES: "ndjson", PACKED: "records"}
TAIL_BYTES: Final = 1 << 16  # a line is far shorter: the last newline of a file lies in its last 64 KiB

Payload = bytes | bytearray | memoryview


class SinkFailed(OSError):
    """Output cannot go on; the sentence names the place and the remedy, the process ends with it."""


class Identity(NamedTuple):
    """Names the first report of a message; of a price or book, the last seq that it includes."""

    generation: int
    shard: int
    seq: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here


class Token(NamedTuple):
    """How far a publisher had read a shard's output ring when it asked for a barrier."""

    number: int  # barriers of this publisher, counted
    shard: int
    position: int  # output ring position just behind what was sent
    seq: int  # every report up to this seq lies before the position
    frame_ns: int  # engine time of the frame in which the position lies
    told: bool  # a report of the shard was sent before, under its present epoch


class Sink(Protocol):
    """
    What a publisher asks of a sink. The four message methods take the same arguments:

    Args:
        account, event: Whom it is for; 0 for what is addressed to nobody, and always 0 if not `addressed`.
        payload: Lines or records; valid during the call only (S3).
        count: Reports (trades, prices, books) in the payload.
        content_type: JSON_LINES or PACKED.
        identity: Of the first report in the payload.

    Raises:
        SinkFailed: Output cannot go on. What merely takes long, or comes back, is no error: `ready` is False.
    """

    addressed: bool  # True: one message per account or event; False: a whole cycle at once, in log order

    def reports(
        self, account: int, payload: Payload, count: int, content_type: str, identity: Identity
    ) -> None:  # fmt: skip
        """What happened to an account's orders."""

    def trades(
        self, event: int, payload: Payload, count: int, content_type: str, identity: Identity
    ) -> None:  # fmt: skip
        """What traded in an event."""

    def price(
        self, event: int, payload: Payload, count: int, content_type: str, identity: Identity
    ) -> None:  # fmt: skip
        """Best prices and last trade of an event, absolute."""

    def book(
        self, event: int, payload: Payload, count: int, content_type: str, identity: Identity
    ) -> None:  # fmt: skip
        """Depth of an event, absolute."""

    def ready(self) -> bool:
        """False while another cycle would be too much; the publisher then leaves the ring alone."""

    def barrier(self, token: Token) -> None:
        """Everything given so far lies before this token."""

    def poll(self, timeout_seconds: float, /) -> Token | None:
        """Do what input and output there is; the newest token that is confirmed now, or None."""

    def flush(self, timeout_seconds: float, /) -> bool:
        """Try to get everything confirmed; True if it is. Tokens are still fetched by `poll`."""

    def close(self) -> None:
        """Let go of files and connections. What is not confirmed comes again at the next start."""


class _Confirmed:
    """What sinks have in common that are done with a message when its method returns."""

    addressed = False

    def __init__(self) -> None:
        self._newest: Token | None = None

    def ready(self) -> bool:
        return True

    def barrier(self, token: Token) -> None:
        self._newest = token

    def poll(self, _timeout_seconds: float) -> Token | None:
        newest, self._newest = self._newest, None
        return newest

    def flush(self, _timeout_seconds: float) -> bool:
        return True

    def close(self) -> None:
        """Nothing to let go of."""


class NoSink(_Confirmed):
    """Takes everything, keeps nothing: for measuring what comes before."""

    def _drop(self, _key: int, _payload: Payload, _count: int, _content_type: str, _identity: Identity) -> None:
        """Nothing: that is the point."""

    reports = trades = price = book = _drop


class StreamSink(_Confirmed):
    """
    Everything into one open file, usually standard output; a line's "Kind" tells what it is.

    The descriptor stays the caller's: `close` leaves it open. Lines are in the operating system's hands when
    a token is confirmed, no further.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.name = name

    def _write(self, _key: int, payload: Payload, _count: int, _content_type: str, _identity: Identity) -> None:
        write_all(self.descriptor, payload, self.name)

    reports = trades = price = book = _write


class FileSink(_Confirmed):
    """
    Appends to reports, trades, prices and books files in a folder, which belongs to this publisher alone.

    Written is not fsynced: the lines outlive the process, not a power cut (the log does, and recovery makes
    every unconfirmed report again).

    Raises SinkFailed if the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._descriptors: dict[tuple[str, str], int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(error, str(folder)) from error

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def path(self, stem: str, content_type: str) -> Path:
        """Where messages of a kind go."""
        return self.folder / f"{stem}.{SUFFIXES[content_type]}"

    def _append(
        self, stem: str, _key: int, payload: Payload, _count: int, content_type: str, _identity: Identity
    ) -> None:
        path = self.path(stem, content_type)
        descriptor = self._descriptors.get((stem, content_type))
        if descriptor is None:
            descriptor = self._descriptors[stem, content_type] = open_whole(path, content_type)
        write_all(descriptor, payload, str(path))

    reports = partialmethod(_append, "reports")
    trades = partialmethod(_append, "trades")
    price = partialmethod(_append, "prices")
    book = partialmethod(_append, "books")


class ReportsOnly:
    """Another sink without trades, prices and books: market data is switched off, or nobody asked for it."""

    def __init__(self, sink: Sink) -> None:
        """Hands everything else on to `sink`."""
        self._sink = sink
        self.addressed = sink.addressed
        self.reports, self.ready, self.barrier = sink.reports, sink.ready, sink.barrier
        self.poll, self.flush, self.close = sink.poll, sink.flush, sink.close

    def trades(self, *_message: object) -> None:
        """Nothing."""

    price = book = trades


class Message(NamedTuple):
    """One message that a MemorySink was given."""

    topic: str
    key: int
    payload: bytes
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants here
    content_type: str
    identity: Identity


class MemorySink:
    """
    Keeps messages in a list, for tests and notebooks.

    With `confirms=False` a token waits until `confirm` is called, as over a slow broker.
    """

    def __init__(self, *, addressed: bool = True, confirms: bool = True) -> None:
        self.addressed = addressed
        self.confirms = confirms
        self.messages: list[Message] = []
        self.waiting: deque[Token] = deque()
        self.is_ready = True
        self.closed = False
        self._newest: Token | None = None

    def _keep(
        self, topic: str, key: int, payload: Payload, count: int, content_type: str, identity: Identity
    ) -> None:
        self.messages.append(Message(topic, key, bytes(payload), count, content_type, identity))

    reports = partialmethod(_keep, "reports")
    trades = partialmethod(_keep, "trades")
    price = partialmethod(_keep, "prices")
    book = partialmethod(_keep, "books")

    def ready(self) -> bool:
        """As a test has set `is_ready`."""
        return self.is_ready

    def barrier(self, token: Token) -> None:
        """Let a token wait for `confirm`, which comes at once unless told otherwise."""
        self.waiting.append(token)
        if self.confirms:
            self.confirm(1)

    def confirm(self, count: int) -> None:
        """Confirm the oldest `count` tokens that wait."""
        for _ in range(count):
            self._newest = self.waiting.popleft()

    def poll(self, _timeout_seconds: float) -> Token | None:
        """The newest token confirmed since the last call."""
        newest, self._newest = self._newest, None
        return newest

    def flush(self, _timeout_seconds: float) -> bool:
        """True if no token waits."""
        return not self.waiting

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def of(self, topic: str) -> list[Message]:
        """The messages of one topic, in the order in which they came."""
        return [message for message in self.messages if message.topic == topic]


def write_all(descriptor: int, payload: Payload, name: str) -> None:
    """
    Write a payload whole, waiting where the reader of a pipe is slow.

    Raises SinkFailed naming the place and what to do.
    """
    rest = memoryview(payload)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody made our standard output non-blocking, as terminals' owners may
            select.select([], [descriptor], [])
        except OSError as error:
            raise failure(error, name) from error


def open_whole(path: Path, content_type: str) -> int:
    """
    Open a file for appending, without the torn line or record that a full disk or a kill may have left (S4).

    Raises SinkFailed naming the path and what to do.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size_bytes = os.fstat(descriptor).st_size
        if content_type == PACKED:
            whole_bytes = size_bytes - size_bytes % RECORD_BYTES
        else:
            start = max(size_bytes - TAIL_BYTES, 0)
            whole_bytes = start + os.pread(descriptor, TAIL_BYTES, start).rfind(b"\n") + 1
        if whole_bytes < size_bytes:
            os.ftruncate(descriptor, whole_bytes)
    except OSError as error:
        raise failure(error, str(path)) from error
    return descriptor


def failure(error: OSError, name: str) -> SinkFailed:
    """What an error of the operating system means for the output `name`, and what to do about it."""
    remedies = {
        errno.ENOSPC: "no space left on the device: free some, or name another folder in exchange.data",
        errno.EDQUOT: "the disk quota is used up: free some space, or name another folder in exchange.data",
        errno.EPIPE: "its reader has gone: keep the reading program running, or choose another sink in [output]",
        errno.EACCES: "permission denied: name a folder in exchange.data that this user may write",
        errno.EROFS: "the file system is read-only: name another folder in exchange.data",
        errno.ENOTDIR: "a part of the path is a file: name another folder in exchange.data",
        errno.EEXIST: "a file of that name is in the way: name another folder in exchange.data",
        errno.EISDIR: "a folder of that name is in the way: remove it, or name another folder in exchange.data",
    }
    reason = remedies.get(
        error.errno or 0, f"{error.strerror}: see to it, or name another folder in exchange.data"
    )
    return SinkFailed(error.errno, f"cannot write {name}: {reason}")
