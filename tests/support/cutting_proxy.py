"""
Proxy: stands between a client and a broker on loopback, and cuts connections at chosen bytes.

    with CuttingProxy("127.0.0.1", 5672, cuts=[10_000, 25_000]) as proxy:
        connect to 127.0.0.1:proxy.port

Bytes are counted over all connections in the direction of the broker. The connection that carries the byte at which
a cut lies passes what is before it, and both its ends are reset: the broker has half a frame.
"""

import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self

CHUNK_BYTES: Final = 1 << 14
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends a reset


class CuttingProxy:
    """
    A proxy; a context manager that listens from the start to the end.

    Args:
        host, port: Of the broker.
        cuts: Bytes at which to cut, ascending.

    Attributes: `port`, where it listens; `cut_count`, connections cut so far.
    """

    def __init__(self, host: str, port: int, cuts: Iterable[int]) -> None:
        """Listen on a free port of loopback."""
        self._target = host, port
        self._cuts = deque(cuts)
        self._passed_bytes = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.cut_count = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        """Begin to accept."""
        self._threads[0].start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Close everything, and wait for the threads."""
        shut(self._server)
        self._threads[0].join()
        for one in self._sockets:
            shut(one)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        """Two threads for each connection."""
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # closed at the end
                return
            try:
                broker = socket.create_connection(self._target)
            except OSError:  # the broker is away: the client learns it as it would without us
                shut(client)
                continue
            self._sockets += [client, broker]
            for source, target, counted in ((client, broker, True), (broker, client, False)):
                thread = threading.Thread(target=self._pass_on, args=(source, target, counted))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        """Pass bytes on until one end closes, or a cut comes."""
        try:
            while chunk := source.recv(CHUNK_BYTES):
                allowed = self._allowed(len(chunk)) if counted else len(chunk)
                target.sendall(chunk[:allowed])
                if allowed < len(chunk):
                    for one in (source, target):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    break
        except OSError:  # the other thread, or the other end, has closed it
            pass
        for one in (source, target):
            shut(one)

    def _allowed(self, count: int) -> int:
        """How many of these bytes may pass; fewer than all: cut behind them."""
        with self._lock:
            self._passed_bytes += count
            if not self._cuts or self._passed_bytes <= self._cuts[0]:
                return count
            over = self._passed_bytes - self._cuts.popleft()
            self.cut_count += 1
            return max(count - over, 0)


def shut(one: socket.socket) -> None:
    """Wake whoever reads it, and close it."""
    with suppress(OSError):  # it is closed already, or was reset
        one.shutdown(socket.SHUT_RDWR)
    one.close()
