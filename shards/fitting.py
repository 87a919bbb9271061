"""
Does the installed pika fit the frame scanner? Asked once, when an intake is made, and never assumed.

A canned stream goes through two connections that have no socket, one of which scans; both must hand the same deliveries to their
consumer, and what is not a delivery to pika. The stream holds what streams hold: empty bodies and bodies of several frames,
a heartbeat in the middle of a delivery, another consumer, another channel, and it is cut where it hurts.

Slow here, and only here: some milliseconds at the start of a process.
"""

from collections.abc import Iterable
from contextlib import closing
from typing import Any, Final, NamedTuple

import pika
from pika.channel import Channel

from ringpit.shards.scanner import BODY_FRAME, HEADER_FRAME, METHOD_FRAME, body_of, make_scanner
from ringpit.shards.wire import FRAME_END, FRAME_START, HEADER_START, Connection, Loop, Properties

CHANNELS: Final = (1, 2)
CONSUMER, OTHER_CONSUMER = "ctag1.scanned", "ctag1.another"
HEARTBEAT: Final = FRAME_START.pack(8, 0, 0) + FRAME_END


class Handed(NamedTuple):
    """A delivery as a consumer got it."""

    channel: int
    consumer: str
    redelivered: bool
    properties: Properties
    body: bytes


class Dry:
    """A connection that is open, has channels and consumers, and no socket: `feed` is what would have been read."""

    def __init__(self, *, scanning: bool) -> None:
        """Raises whatever a pika that has become another raises."""
        self.handed: list[Handed] = []
        self._loop = Loop()
        try:
            self._open(scanning=scanning)
        except BaseException:
            self._loop.close()
            raise

    def _open(self, *, scanning: bool) -> None:
        """Go where a handshake would lead."""
        self.connection = Connection(
            pika.ConnectionParameters(), custom_ioloop=self._loop, internal_connection_workflow=False
        )
        self.connection._set_connection_state(self.connection.CONNECTION_OPEN)  # noqa: SLF001 - there is no handshake to go through
        self.channels = {number: self._channel(number) for number in CHANNELS}
        if scanning:
            self.connection.scanner = make_scanner(self.channels[1], CONSUMER, self._scanned)

    def _channel(self, number: int) -> Any:
        """An open channel with two consumers."""
        channel = Channel(self.connection, number, lambda _channel: None)
        channel._set_state(Channel.OPEN)  # noqa: SLF001 - there is no broker that would answer
        self.connection._channels[number] = channel  # noqa: SLF001 - as above
        for consumer in (CONSUMER, OTHER_CONSUMER):
            channel._consumers[consumer] = self._consume(number, consumer)  # noqa: SLF001 - as above
        return channel

    def _consume(self, number: int, consumer: str) -> Any:
        """What pika calls with a delivery."""

        def on_delivery(_channel: Any, method: Any, properties: Properties, body: bytes) -> None:
            self.handed.append(Handed(number, consumer, bool(method.redelivered), properties, body))

        return on_delivery

    def _scanned(self, content: bytes, rows: list[list[int]]) -> None:
        """What the scanner calls with deliveries."""
        for redelivered, *places, body_at, body_bytes, frames in rows:
            pieces = [content[at : at + size] for at, size in zip(places[::2], places[1::2], strict=True)]
            body = body_of(content, body_at, body_bytes, frames)
            self.handed.append(Handed(1, CONSUMER, bool(redelivered), Properties(*pieces), body))

    def feed(self, reads: Iterable[bytes]) -> list[Handed]:
        """Read pieces of a stream; everything that consumers got so far."""
        for read in reads:
            self.connection._proto_data_received(read)  # noqa: SLF001 - what the transport calls
        return self.handed

    def close(self) -> None:
        """Let go of the loop."""
        self._loop.close()


def short_string(text: bytes) -> bytes:
    """A short string as it is written."""
    return bytes((len(text),)) + text


def delivery_frames(
    channel: int,
    tag: int,
    properties: bytes,
    body: bytes,
    *,
    consumer: str = CONSUMER,
    chunk: int = 100,
    redelivered: bool = False,
) -> list[bytes]:
    """The frames of a delivery as a broker sends them."""
    method = (
        b"\x00\x3c\x00\x3c" + short_string(consumer.encode()) + tag.to_bytes(8, "big") + bytes((redelivered,))
    )
    method += short_string(b"exchange") + short_string(b"key")
    header = HEADER_START.pack(60, 0, len(body)) + properties
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    payloads = [(METHOD_FRAME, method), (HEADER_FRAME, header), *((BODY_FRAME, piece) for piece in chunks)]
    return [FRAME_START.pack(kind, channel, len(payload)) + payload + FRAME_END for kind, payload in payloads]


def canned_stream() -> bytes:
    """A stream of everything that the two ways could read differently."""
    full = pika.BasicProperties(
        content_type="application/json",
        headers={"a": 1},
        delivery_mode=2,
        message_id="m-1",
        user_id="u",
        app_id="app",
    )
    encoded = b"".join(full.encode())
    plain = b"".join(pika.BasicProperties().encode())
    broken_up = delivery_frames(1, 3, encoded, b"y" * 250)
    parts = [
        *delivery_frames(1, 1, encoded, b"x" * 90),
        *delivery_frames(1, 2, plain, b"", redelivered=True),
        HEARTBEAT,
        *delivery_frames(2, 1, encoded, b"of another channel"),
        *broken_up[:3], HEARTBEAT, *broken_up[3:],
        *delivery_frames(1, 4, encoded, b"of another consumer", consumer=OTHER_CONSUMER),
        *delivery_frames(1, 5, encoded, bytes(250)),
    ]  # fmt: skip
    return b"".join(parts)


def misfit() -> str:
    """Why the installed pika cannot be scanned beside; empty if it can."""
    stream = canned_stream()
    cuts = [stream[at : at + 61] for at in range(0, len(stream), 61)]
    found = []
    try:
        for scanning in (False, True):
            with closing(Dry(scanning=scanning)) as dry:
                found.append((dry.feed(cuts), dry.connection.frames_received, dry.connection.bytes_received))
    except Exception as error:  # noqa: BLE001 - whatever it is, it says that pika is not what it was
        return f"{type(error).__name__}: {error}"
    if len(found[0][0]) != 6 or found[0] != found[1]:
        return "a canned stream reads otherwise than by its own decoder"
    return ""
