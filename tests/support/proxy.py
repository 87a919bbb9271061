"""
A proxy between a Kafka client and the real Kafka, which can spoil single requests.

    client ──request──> proxy ──request──> Kafka           one thread for each direction of each connection
           <──answer──        <──answer──

What matters most to a log is the answer that never comes: Kafka has appended, and nobody knows. The proxy reads the
protocol just far enough for that: frames, the request's kind, and which answer belongs to which request. In the
answers that name the broker's address it writes its own instead, so that clients stay with it.

    with KafkaProxy(kafka_bootstrap()) as proxy:
        proxy.plan(PRODUCE, [Fault.NONE, Fault.DROP_AND_CUT])     # the first passes, the second is appended twice or once
        log = KafkaLog(KafkaSettings(bootstrap_servers=proxy.bootstrap, ...), 0)

Slow here: Python copies each frame twice. Good for some hundred megabytes a second, and for tests only.

Invariants:

    P1  a request without a planned fault passes untouched, and so does its answer, but for the address
    P2  a connection is cut on both sides at once, and answers to what was cut are never sent
"""

import contextlib
import socket
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import TracebackType
from typing import Final, Self

PRODUCE: Final = 0  # kinds of requests, Kafka's numbers
METADATA: Final = 3
FIND_COORDINATOR: Final = 10
ADD_PARTITIONS_TO_TRANSACTION: Final = 24
END_TRANSACTION: Final = 26
DESCRIBE_CLUSTER: Final = 60
NAME_ADDRESSES: Final = frozenset({METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER})
LENGTH_BYTES: Final = 4
CONNECT_SECONDS: Final = 10.0
JOIN_SECONDS: Final = 10.0


class Fault(Enum):
    """What happens to one request."""

    NONE = "passes"
    DELAY = "is done, and its answer comes late"
    DROP = "is done, and its answer never comes"
    DROP_AND_CUT = "is done, and the connection is cut instead of an answer"
    CUT_BEFORE = "is cut off before it reaches Kafka"
    CUT_HALFWAY = "is cut off in the middle of its bytes"


class KafkaProxy:
    """
    Listens on a port of its own and forwards to a Kafka that advertises the address it is reached at.

    Attributes: `bootstrap`, where clients connect; `delay_seconds`, of Fault.DELAY; `done`, how often each fault was.
    """

    def __init__(self, bootstrap: str, *, delay_seconds: float = 0.2) -> None:
        """Listen; `bootstrap` is one host:port, the host written as Kafka advertises it."""
        host, _, port = bootstrap.rpartition(":")
        self._kafka = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        own_port = self._listener.getsockname()[1]
        self.bootstrap = f"127.0.0.1:{own_port}"
        if len(host) != len("127.0.0.1"):
            raise ValueError(f"the proxy writes 127.0.0.1 over the host, so {host!r} must be as long")
        self._kafka_address = host.encode() + int(port).to_bytes(4, "big")
        self._own_address = b"127.0.0.1" + int(own_port).to_bytes(4, "big")
        self.delay_seconds = delay_seconds
        self.done: Counter[Fault] = Counter()
        self._faults: defaultdict[int, deque[Fault]] = defaultdict(deque)
        self._standing: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._flowing: defaultdict[int, threading.Event] = defaultdict(_set_event)
        self._closing = threading.Event()
        self._connections: list[_Connection] = []
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def plan(self, kind: int, faults: Iterable[Fault]) -> None:
        """The next requests of a kind meet these faults, one each, after what was planned before."""
        with self._lock:
            self._faults[kind].extend(faults)

    def planned_count(self, kind: int) -> int:
        """How many faults wait for a request of a kind."""
        with self._lock:
            return len(self._faults[kind])

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()

    @contextmanager
    def requests_held(self, kind: int) -> Iterator[None]:
        """Let no request of a kind pass during the body; afterwards all of them go on their way. Answers pass."""
        with self._lock:
            flowing = self._flowing[kind]
        flowing.clear()
        try:
            yield
        finally:
            flowing.set()

    def standing_count(self, kind: int) -> int:
        """How many requests of a kind are held on their way to Kafka now."""
        with self._lock:
            return self._standing[kind]

    def close(self) -> None:
        """Cut everything and stop listening."""
        self._closing.set()
        with self._lock:
            for flowing in self._flowing.values():
                flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()
        self._thread.join(JOIN_SECONDS)
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _accept(self) -> None:
        """The listener's thread."""
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                broker = socket.create_connection(self._kafka, CONNECT_SECONDS)
            except OSError:  # Kafka is away: the client tries again
                client.close()
                continue
            broker.settimeout(None)
            connection = _Connection(self, client, broker)
            with self._lock:
                self._connections.append(connection)
            connection.start()

    def next_fault(self, kind: int) -> Fault:
        """What happens to a request that has just come."""
        with self._lock:
            fault = self._faults[kind].popleft() if self._faults[kind] else Fault.NONE
            self.done[fault] += 1
        return fault

    def wait_until_flowing(self, kind: int) -> None:
        """Let a request stand still while they are held."""
        with self._lock:
            self._standing[kind] += 1
            flowing = self._flowing[kind]
        flowing.wait()
        with self._lock:
            self._standing[kind] -= 1

    def wait_a_while(self) -> None:
        """The delay of an answer; ends at once when the proxy closes."""
        self._closing.wait(self.delay_seconds)

    def with_own_address(self, answer: bytes) -> bytes:
        """An answer with our address instead of Kafka's: of equal length, so nothing else moves."""
        return answer.replace(self._kafka_address, self._own_address)


class _Connection:
    """A client's connection, and ours to Kafka that belongs to it."""

    def __init__(self, proxy: KafkaProxy, client: socket.socket, broker: socket.socket) -> None:
        """Nothing flows before `start`."""
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._waiting: dict[bytes, tuple[int, Fault]] = {}  # correlation id -> kind and fault of the request
        self._threads = [
            threading.Thread(target=run, name="proxy", daemon=True) for run in (self._upward, self._downward)
        ]

    def start(self) -> None:
        """Let it flow."""
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        """P2."""
        for each in (self._client, self._broker):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut, and give the sockets back when neither thread uses them."""
        self.cut()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self._client.close()
        self._broker.close()

    def _upward(self) -> None:
        """Requests, from the client to Kafka."""
        for request in _frames(self._client):
            kind = int.from_bytes(request[4:6], "big")
            fault = self._proxy.next_fault(kind)
            self._waiting[request[8:12]] = (kind, fault)
            self._proxy.wait_until_flowing(kind)
            if fault is Fault.CUT_BEFORE:
                break
            if not _sent(self._broker, request[: len(request) // 2] if fault is Fault.CUT_HALFWAY else request):
                break
            if fault is Fault.CUT_HALFWAY:
                break
        self.cut()

    def _downward(self) -> None:
        """Answers, from Kafka to the client."""
        for answer in _frames(self._broker):
            kind, fault = self._waiting.pop(answer[4:8])
            if fault is Fault.DROP_AND_CUT:
                break
            if fault is Fault.DROP:
                continue
            if fault is Fault.DELAY:
                self._proxy.wait_a_while()
            if not _sent(
                self._client, self._proxy.with_own_address(answer) if kind in NAME_ADDRESSES else answer
            ):
                break
        self.cut()


def _set_event() -> threading.Event:
    """An event that is set."""
    event = threading.Event()
    event.set()
    return event


def _frames(source: socket.socket) -> Iterator[bytes]:
    """Frames with their lengths, until the connection ends."""
    with contextlib.suppress(OSError), source.makefile("rb") as file:
        while len(length := file.read(LENGTH_BYTES)) == LENGTH_BYTES:
            size = int.from_bytes(length, "big")
            body = file.read(size)
            if len(body) < size:
                return
            yield length + body


def _sent(target: socket.socket, frame: bytes) -> bool:
    """Send, unless the connection has ended."""
    try:
        target.sendall(frame)
    except OSError:
        return False
    return True
