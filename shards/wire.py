"""
pika bent to a duty cycle: one turn at a time, one write a turn, reading that can be switched off.

- `Loop` is pika's event loop without its endless run: a turn waits for the first thing to happen, serves all
  that happened and returns. With reading off, sockets are left unread while writes and timers go on.
- `Connection` gathers what pika wants to send, so that a burst of publishes or acknowledgements costs one
  system call (pika alone makes three writes a message), and reads content headers and confirms by itself. A confirm
  costs pika 15 microseconds, and brokers confirm nearly every message singly.
- `Connection.scanner`, if there is one, takes whole deliveries out of what was read before pika sees it (scanner.py).
- `read_properties` takes the four properties that we use and steps over the table of headers. pika decodes the
  whole table, and a publisher who puts a not-a-number or a far timestamp into it makes that fail, which closes
  the connection, has the message redelivered, and so on for ever.

The overridden methods are pika's adapter hooks (`_adapter_emit_data`) or have one caller (`_read_frame`); the range of
versions in pyproject.toml is the range in which the tests of this module were seen to pass.

Invariants:

    W1  no content header makes reading fail, whatever its properties hold, as long as its frame is whole
    W2  a channel is closed with its consumer on it: the queue does not turn to another consumer before it has the
        unacknowledged messages back
"""

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pika
from pika import exceptions, frame, spec
from pika.adapters.select_connection import IOLoop

from ringpit.shards.scanner import Column, Found, Scanner

METHOD_FRAME, HEADER_FRAME, BODY_FRAME = 1, 2, 3
FRAME_START: Final = struct.Struct(">BHI")  # type, channel, bytes of payload
HEADER_START: Final = struct.Struct(">HHQ")  # class, weight, bytes of body
CONFIRM: Final = struct.Struct(">BHIIQBB")  # a whole Basic.Ack or Basic.Nack: start, method, tag, bits, end
ACK_ID: Final = spec.Basic.Ack.INDEX
NACK_ID: Final = spec.Basic.Nack.INDEX
CONFIRM_ID_AT: Final = slice(FRAME_START.size, FRAME_START.size + 4)
CONFIRMS: Final = frozenset(method.to_bytes(4, "big") for method in (ACK_ID, NACK_ID))
PASSED_OVER: Final = frame.ProtocolHeader()  # the frame that pika reads and does nothing about
FRAME_END: Final = bytes((spec.FRAME_END,))
FRAME_OVERHEAD_BYTES: Final = FRAME_START.size + len(FRAME_END)
READ_BYTES: Final = 32768  # one read of the socket
SHORT_BYTES_MAX: Final = 255  # bytes of a short string


OnConfirm = Callable[[int, bool, bool], None]  # delivery tag, and all before it?, refused?


class Properties(NamedTuple):
    """The properties of a message that we use, as the bytes that came."""

    content_type: bytes = b""
    message_id: bytes = b""
    user_id: bytes = b""
    app_id: bytes = b""


# How each property lies in a content header, from the highest flag bit down (AMQP 0-9-1, section 4.2.6.1).
SHORT, TABLE, OCTET, STAMP = range(4)
PROPERTY_KINDS: Final = (
    ("content_type", SHORT),
    ("content_encoding", SHORT),
    ("headers", TABLE),
    ("delivery_mode", OCTET),
    ("priority", OCTET),
    ("correlation_id", SHORT),
    ("reply_to", SHORT),
    ("expiration", SHORT),
    ("message_id", SHORT),
    ("timestamp", STAMP),
    ("type", SHORT),
    ("user_id", SHORT),
    ("app_id", SHORT),
    ("cluster_id", SHORT),
)
WANTED: Final = frozenset(Properties._fields)
LENGTH_BYTES: Final = {SHORT: 1, TABLE: 4}
FIXED_BYTES: Final = {OCTET: 1, STAMP: 8}


def read_properties(encoded: bytes, offset: int = 0) -> Properties:
    """
    Take our properties out of an encoded property list. Never raises: what is cut short reads as empty.

    Cost: about 2 microseconds, whatever the table of headers holds.
    """
    flags = int.from_bytes(encoded[offset : offset + 2], "big")
    more, offset = flags & 1, offset + 2
    while more and offset < len(encoded):  # further words of flags: none is defined, all are stepped over
        more = encoded[offset + 1] & 1 if offset + 1 < len(encoded) else 0
        offset += 2
    found = {}
    bit = 1 << 15
    for name, kind in PROPERTY_KINDS:
        if flags & bit:
            if kind in FIXED_BYTES:
                offset += FIXED_BYTES[kind]
            else:
                width = LENGTH_BYTES[kind]
                end = offset + width + int.from_bytes(encoded[offset : offset + width], "big")
                if name in WANTED:
                    found[name] = encoded[offset + width : end]
                offset = end
        bit >>= 1
    return Properties(**found)


class Connection(pika.SelectConnection):  # type: ignore[misc]  # pika is not typed
    """pika's connection with our reading of content headers and confirms, and with writes gathered into one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `pika.SelectConnection`."""
        self._outgoing: list[bytes] = []
        self.on_confirm: OnConfirm | None = None
        self.scanner: Scanner | None = None
        super().__init__(*args, **kwargs)

    def _on_data_available(self, data_in: bytes) -> None:
        """pika's own loop over frames; before each, the deliveries of the scanned consumer are taken out."""
        if self.scanner is None:
            super()._on_data_available(data_in)
            return
        self._frame_buffer += data_in
        while self._frame_buffer:
            if self.scanner.may_scan():
                content = self._frame_buffer
                rows, consumed, found = self.scanner.read(content)
                if rows:
                    self._trim_frame_buffer(consumed)
                    self.frames_received += sum(2 + row[Column.BODY_FRAMES] for row in rows)
                    self.scanner.on_scanned(content, rows)
                if found is Found.MORE:
                    return
                if found is Found.FULL:
                    continue
            consumed, frame_value = self._read_frame()
            if not frame_value:
                return
            self._trim_frame_buffer(consumed)
            self._process_frame(frame_value)

    def _read_frame(self) -> tuple[int, Any]:
        """Read content headers and confirms ourselves, leave every other frame to pika."""
        buffer = self._frame_buffer
        if self.on_confirm is not None and buffer[CONFIRM_ID_AT] in CONFIRMS:
            consumed = self._take_confirms(buffer, self.on_confirm)
            if consumed:
                return consumed, PASSED_OVER
        if not buffer or buffer[0] != HEADER_FRAME:
            return super()._read_frame()  # type: ignore[no-any-return]  # pika is not typed
        if len(buffer) < FRAME_START.size:
            return 0, None
        _, channel_number, payload_bytes = FRAME_START.unpack_from(buffer)
        end = FRAME_OVERHEAD_BYTES + payload_bytes
        if len(buffer) < end:
            return 0, None
        start = FRAME_START.size + HEADER_START.size
        if end <= start or buffer[end - 1 : end] != FRAME_END:
            raise exceptions.InvalidFrameError("a content header frame is torn")
        _, _, body_bytes = HEADER_START.unpack_from(buffer, FRAME_START.size)
        return end, frame.Header(channel_number, body_bytes, read_properties(buffer[start : end - 1]))

    def _proto_connection_made(self, transport: Any) -> None:
        """Read in larger pieces than pika's 4 kB, each of which it copies behind what is left of the last one."""
        transport._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - a constant of its class, overridden for this one
        super()._proto_connection_made(transport)

    def _take_confirms(self, buffer: bytes, on_confirm: OnConfirm) -> int:
        """Hand on every confirm that leads the buffer, and return their bytes."""
        offset = 0
        while len(buffer) - offset >= CONFIRM.size:
            frame_type, _, _, method, tag, bits, _ = CONFIRM.unpack_from(buffer, offset)
            if frame_type != METHOD_FRAME or method not in (ACK_ID, NACK_ID):
                break
            on_confirm(tag, bool(bits & 1), method == NACK_ID)
            offset += CONFIRM.size
        return offset

    def emit(self, frames: bytes) -> None:
        """Gather whole frames; `flush` sends."""
        self._outgoing.append(frames)

    _adapter_emit_data = emit

    def flush(self) -> None:
        """Hand everything gathered to the transport as one write."""
        if self._outgoing:
            gathered = b"".join(self._outgoing)
            self._outgoing.clear()
            if self._transport is not None:
                self._transport.write(gathered)


class Loop(IOLoop):  # type: ignore[misc]  # pika is not typed
    """pika's event loop, run one turn at a time, with reading that can be switched off."""

    def __init__(self) -> None:
        """Make the poller ready: pika's `start` would do it, but it is never called."""
        super().__init__()
        self._wanted: dict[int, int] = {}
        self._reading = True
        self.activate_poller()

    def turn(self, timeout_seconds: float) -> None:
        """Wait for the first thing to happen, at most so long (rounded up to ms), and serve all that happened."""
        alarm = self.call_later(max(0.0, timeout_seconds), _nothing)
        self.poll()
        self.process_timeouts()
        self.remove_timeout(alarm)

    def set_reading(self, reading: bool) -> None:
        """Read sockets, or leave what arrives in them. Writing and timers go on either way."""
        if reading != self._reading:
            self._reading = reading
            for descriptor, events in self._wanted.items():
                super().update_handler(descriptor, self._masked(events))

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """As pika's, less what is switched off."""
        self._wanted[fd] = events
        super().add_handler(fd, handler, self._masked(events))

    def update_handler(self, fd: int, events: int) -> None:
        """As pika's, less what is switched off."""
        self._wanted[fd] = events
        super().update_handler(fd, self._masked(events))

    def remove_handler(self, fd: int) -> None:
        """As pika's."""
        del self._wanted[fd]
        super().remove_handler(fd)

    def _masked(self, events: int) -> int:
        """What the poller is really asked for."""
        return events if self._reading else events & ~self.READ


def _nothing() -> None:
    """Wake the poller."""


def publish_method(exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """The payload of a Basic.Publish method frame. Raises ValueError for a name above 255 bytes."""
    names = []
    for name in (exchange.encode(), routing_key.encode()):
        if len(name) > SHORT_BYTES_MAX:
            raise ValueError(
                f"an AMQP name must be at most {SHORT_BYTES_MAX} bytes, was {len(name)}: {name[:40]!r}..."
            )
        names.append(bytes((len(name),)) + name)
    return b"\x00\x3c\x00\x28\x00\x00" + names[0] + names[1] + bytes((mandatory,))


def publish_frames(
    channel_number: int, method: bytes, properties: bytes, body: bytes, chunk_bytes: int
) -> bytes:
    """
    All frames of one message: method, content header, body in chunks.

    Args:
        method: From `publish_method`; worth keeping, it depends on the address only.
        properties: An encoded property list.
        chunk_bytes: `Link.body_chunk_bytes`.

    Cost: about 1 microsecond and one copy of the body, against 15 for pika's objects.
    """
    parts = [
        FRAME_START.pack(METHOD_FRAME, channel_number, len(method)),
        method,
        FRAME_END,
        FRAME_START.pack(HEADER_FRAME, channel_number, 12 + len(properties)),
        HEADER_START.pack(spec.Basic.INDEX, 0, len(body)),
        properties,
        FRAME_END,
    ]
    for start in range(0, len(body), chunk_bytes):
        chunk = body[start : start + chunk_bytes]
        parts += (FRAME_START.pack(BODY_FRAME, channel_number, len(chunk)), chunk, FRAME_END)
    return b"".join(parts)


def close_channel(channel: Any) -> None:
    """
    Close a channel with its consumer still on it.

    pika would cancel the consumer first, and at the cancel a single-active-consumer queue turns to the next
    consumer while this channel still holds deliveries: newer messages would overtake them.
    """
    if channel is not None and channel.is_open:
        channel._cancelled.update(channel.consumer_tags)  # noqa: SLF001 - says "cancelled already"
        channel.close()


def close_connection(connection: Connection | None) -> None:
    """Start to close a connection and its channels, unless it is closing already."""
    if connection is not None and not (connection.is_closing or connection.is_closed):
        for channel in list(connection._channels.values()):  # noqa: SLF001 - the channels that close() would cancel on
            close_channel(channel)
        connection.close()
