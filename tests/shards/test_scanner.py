"""Scanned or decoded by pika: the same deliveries, in the same order, and the same error where a stream is torn."""

from contextlib import contextmanager
from functools import partial

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from ringpit.shards import fitting
from ringpit.shards.delivery import Delivery, publisher_key
from ringpit.shards.fitting import (
    CONSUMER,
    HEARTBEAT,
    OTHER_CONSUMER,
    Dry,
    canned_stream,
    delivery_frames,
    misfit,
)
from ringpit.shards.intake import RabbitIntake
from ringpit.shards.scanner import WHOLE_BYTES_MAX, make_scanner
from ringpit.shards.wire import FRAME_END, FRAME_START

SHORT = st.text(max_size=20)
HEADERS = st.dictionaries(
    st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5) | st.booleans() | st.none(), max_size=3
)
PROPERTIES = st.builds(
    lambda **made: b"".join(pika.BasicProperties(**made).encode()),
    content_type=st.none() | st.just("application/json") | SHORT,
    content_encoding=st.none() | SHORT,
    headers=st.none() | HEADERS,
    delivery_mode=st.none() | st.integers(1, 2),
    priority=st.none() | st.integers(0, 9),
    correlation_id=st.none() | SHORT,
    reply_to=st.none() | SHORT,
    expiration=st.none() | SHORT,
    message_id=st.none() | SHORT,
    timestamp=st.none() | st.integers(0, 1 << 31),
    type=st.none() | SHORT,
    user_id=st.none() | SHORT,
    app_id=st.none() | SHORT,
    cluster_id=st.none() | SHORT,
)  # fmt: skip


def frame_of(frame_type, channel, payload):
    """Any frame."""
    return FRAME_START.pack(frame_type, channel, len(payload)) + payload + FRAME_END


def method(channel, made):
    """A method frame as pika writes it."""
    return frame.Method(channel, made).marshal()


OTHERS = st.sampled_from(
    [
        HEARTBEAT,
        method(1, spec.Basic.Ack(7, multiple=True)),
        method(2, spec.Basic.Ack(7)),
        method(1, spec.Basic.QosOk()),
        method(1, spec.Channel.Flow(active=True)),
        method(9, spec.Basic.Ack(1)),
    ]
)
TORN = st.sampled_from(
    [
        frame_of(3, 1, b"a body of nothing"),
        frame_of(2, 1, b"short"),
        frame_of(9, 1, b"no such type"),
        frame_of(1, 1, b"\xff\xff\xff\xff"),
        frame_of(1, 1, b"\x00\x3c"),
        b"AMQP\x00\x00\x09\x01",
        FRAME_START.pack(1, 1, 3) + b"abcd",
        b"\x01",
    ]
)


@st.composite
def deliveries(draw):
    """The frames of one delivery, perhaps with others in between, perhaps with one frame doubled or missing."""
    body = draw(st.binary(max_size=40) | st.integers(0, 600).map(bytes))
    properties = draw(PROPERTIES | st.binary(max_size=30))
    frames = delivery_frames(
        draw(st.sampled_from([1, 1, 1, 2])),
        draw(st.integers(1, 1 << 40)),
        properties,
        body,
        consumer=draw(st.sampled_from([CONSUMER, CONSUMER, CONSUMER, OTHER_CONSUMER, "ctag1.nobody"])),
        chunk=draw(st.integers(1, 700)),
        redelivered=draw(st.booleans()),
    )
    shape = draw(st.sampled_from(["whole"] * 6 + ["mixed", "missing", "doubled"]))
    at = draw(st.integers(0, len(frames) - 1))
    if shape == "mixed":
        frames.insert(at, draw(OTHERS))
    elif shape == "missing":
        del frames[at]
    elif shape == "doubled":
        frames.insert(at, frames[at])
    return b"".join(frames)


@st.composite
def reads(draw):
    """A stream cut anywhere, and perhaps a byte of it changed."""
    parts = draw(st.lists(deliveries() | deliveries() | OTHERS, max_size=8))
    if draw(st.booleans()):
        parts.append(draw(TORN))
        parts += draw(st.lists(deliveries(), max_size=2))
    stream = bytearray(b"".join(parts))
    if stream and draw(st.sampled_from([True, False, False])):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [
        bytes(stream[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        if end > start
    ]


def scanned_rest(connection):
    """True if part of a frame or of a delivery is held back."""
    held = [channel._content_assembler._method_frame for channel in connection._channels.values()]
    return bool(connection._frame_buffer) or any(held)


def outcome(pieces, *, scanning):
    """What came of it: deliveries, counters, what pika holds back, what is sent, and how it failed, if it did."""
    dry = Dry(scanning=scanning)
    error = ""
    try:
        for number, piece in enumerate(pieces):
            try:
                dry.feed([piece])
            except Exception as failed:  # noqa: BLE001 - whatever pika raises, it must be the same
                error = f"piece {number}: {type(failed).__name__}: {failed}"
                break
        connection = dry.connection
        # Frames of a delivery that is not whole are counted by pika as they come, by the scanner with the delivery.
        frames = 0 if error or scanned_rest(connection) else connection.frames_received
        return dry.handed, error, frames, b"".join(connection._outgoing)
    finally:
        dry.close()


@given(reads())
def test_whatever_comes_both_ways_agree(pieces):
    """Deliveries of all kinds on two channels, split anywhere, mixed with all else and torn: nobody sees a difference."""
    assert outcome(pieces, scanning=False) == outcome(pieces, scanning=True)


def test_most_of_a_stream_is_really_scanned(monkeypatch):
    """Of the canned stream pika reads the heartbeats and what is another's or mixed, and nothing else."""
    dry = Dry(scanning=True)
    read = []
    decode = dry.connection._read_frame
    monkeypatch.setattr(dry.connection, "_read_frame", lambda: read.append(1) or decode())
    dry.feed([canned_stream()])
    dry.close()
    assert 6 == len(dry.handed)
    # two heartbeats, the other channel's three frames, the broken up delivery's five, the other consumer's three
    assert 2 + 3 + 5 + 3 == len(read)


@pytest.mark.parametrize("size", [WHOLE_BYTES_MAX - 1, WHOLE_BYTES_MAX + 1, 3 * WHOLE_BYTES_MAX])
@pytest.mark.parametrize("piece", [1 << 12, 1 << 15, 1 << 22])
def test_bodies_longer_than_a_frame_arrive_whole(size, piece):
    """However the reads come, the body is put together once, by the scanner or by pika."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    stream = b"".join(delivery_frames(1, 1, b"\x00\x00", body, chunk=(1 << 17) - 8) * 3)
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    expected = outcome(pieces, scanning=False)
    assert [body] * 3 == [handed.body for handed in expected[0]]
    assert expected == outcome(pieces, scanning=True)


def test_more_deliveries_than_the_table_holds_come_in_order():
    """A read of thousands of deliveries is scanned table by table."""
    stream = b"".join(b"".join(delivery_frames(1, tag, b"\x00\x00", b"%d" % tag)) for tag in range(1, 2_001))
    handed = outcome([stream], scanning=True)[0]
    assert [b"%d" % tag for tag in range(1, 2_001)] == [each.body for each in handed]


@pytest.mark.parametrize("held", ["closing", "cancelled", "unknown"])
def test_a_consumer_that_is_gone_is_pika_s_affair(held):
    """On a channel that closes, or of a consumer that was cancelled or is unknown, deliveries are what pika makes of them."""
    seen = []
    for scanning in (False, True):
        dry = Dry(scanning=scanning)
        channel = dry.channels[1]
        if held == "closing":
            channel._set_state(channel.CLOSING)
        elif held == "cancelled":
            channel._cancelled.add(CONSUMER)
        else:
            del channel._consumers[CONSUMER]
        handed = dry.feed([b"".join(delivery_frames(1, 1, b"\x00\x00", b"x"))])
        seen.append((handed, b"".join(dry.connection._outgoing)))
        dry.close()
    assert seen[0] == seen[1]
    assert (held == "closing") == bool(seen[0][0])


def test_the_installed_pika_fits():
    """The range of versions in pyproject.toml is one in which deliveries are scanned."""
    assert "" == misfit()


@contextmanager
def intake_of(endpoint_of, **settings):
    """An intake that never connects, and nothing left of it."""
    made = RabbitIntake(endpoint_of("amqp://127.0.0.1:1/"), queue="q", **settings)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("private", ["_trim_frame_buffer", "_process_frame"])
def test_a_pika_that_has_become_another_is_used_as_it_is(monkeypatch, endpoint_of, private):
    """A private part is missing: one line says so, and pika decodes each delivery."""
    monkeypatch.delattr(pika.connection.Connection, private)
    lines = []
    with intake_of(endpoint_of, say=lines.append) as intake:
        assert not intake._scans
    assert 1 == len(lines)
    assert private in lines[0]
    assert f"pika {pika.__version__}" in lines[0]


def test_a_pika_that_reads_otherwise_is_used_as_it_is(monkeypatch):
    """Where both ways work and do not agree, the scanner is the one that is wrong."""
    monkeypatch.setattr(fitting, "body_of", lambda *_: b"another body")
    assert misfit().startswith("a canned stream reads otherwise")


def test_the_scanner_can_be_switched_off(endpoint_of, monkeypatch):
    """`scanner = "off"`: nothing is asked of pika's private parts."""
    monkeypatch.delattr(pika.connection.Connection, "_trim_frame_buffer")
    lines = []
    with intake_of(endpoint_of, scanner="off", say=lines.append) as intake:
        assert not intake._scans
    assert [] == lines


def arrived_of(intake):
    """What an intake has of the canned stream."""
    dry = Dry(scanning=False)
    channel = intake._channel = dry.channels[1]
    channel._consumers[CONSUMER] = intake._on_delivery
    if intake._scans:
        dry.connection.scanner = make_scanner(channel, CONSUMER, partial(intake._on_scanned, channel))
    dry.feed([canned_stream()])
    dry.close()
    return list(intake._arrived)


def test_scanned_deliveries_are_those_of_pika(endpoint_of):
    """Type, key, message id, body and flag of a delivery are the same, whichever way it came."""
    with intake_of(endpoint_of) as scanned, intake_of(endpoint_of, scanner="off") as plain:
        arrived = arrived_of(scanned)
        assert arrived_of(plain) == arrived
    assert 4 == len(arrived)
    assert all(type(each) is Delivery for each in arrived)
    first, second = arrived[:2]
    assert ("application/json", "m-1", b"x" * 90, False) == (
        first.content_type, first.message_id, first.body, first.redelivered
    )  # fmt: skip
    assert publisher_key(b"u", b"app", b"m-1") == first.key
    assert second.redelivered
