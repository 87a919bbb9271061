"""Packed deliveries are read in place, and one bad byte refuses them with its place."""

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind
from ringpit.engine.limits import FRAME_COMMANDS_MAX, INT64_MAX
from ringpit.engine.records import COMMAND, RECORD_BYTES
from ringpit.shards import packed
from ringpit.shards.messages import MalformedMessage

SENT_KINDS = (
    CommandKind.NEW, CommandKind.CANCEL, CommandKind.AMEND, CommandKind.CREATE_EVENT, CommandKind.SETTLE,
)  # fmt: skip


def sound(count: int = 3) -> np.ndarray:
    """Commands that a client may send, of every kind in turn."""
    commands = np.zeros(count, COMMAND)
    for index in range(count):
        kind = SENT_KINDS[index % len(SENT_KINDS)]
        commands[index]["kind"] = kind
        commands[index]["order"], commands[index]["account"], commands[index]["quantity"] = 1 + index, 2, 10
        commands[index]["payout"] = 100 if kind == CommandKind.CREATE_EVENT else 0
    return commands


def header(magic=b"RPIT", version=1, reserved=0, count=1, reserved_too=0) -> bytes:
    """A header with fields of one's own."""
    return np.array([(magic, version, reserved, count, reserved_too)], packed.HEADER).tobytes()


def refused(body: bytes) -> tuple[str, int | None]:
    """The reason and the offset with which a delivery is refused."""
    with pytest.raises(MalformedMessage) as caught:
        packed.decode(body)
    return caught.value.reason_text, caught.value.offset


@pytest.mark.parametrize("count", [1, 5, 100, FRAME_COMMANDS_MAX])
def test_what_is_encoded_is_viewed(count):
    """A delivery holds the commands' own bytes behind 16 bytes of header, and the view copies nothing."""
    commands = sound(count)
    body = packed.encode(commands)
    assert 16 + count * RECORD_BYTES == len(body)
    for seen in (packed.decode(body), packed.view(memoryview(body))):
        assert commands.tobytes() == seen.tobytes()
        assert not seen.flags.owndata
        assert not seen.flags.writeable
    assert packed.view(bytearray(body)).flags.writeable


def test_layout_of_the_header():
    """RPIT, version as int16, two zero bytes, count as int32, four zero bytes, little-endian."""
    assert b"RPIT\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00" == packed.encode(sound(5))[:16]
    assert [0, 4, 6, 8, 12] == [packed.HEADER.fields[name][1] for name in packed.HEADER.names]


@pytest.mark.parametrize(
    ("body", "reason", "offset"),
    [
        (b"", "a packed delivery must have a header of 16 bytes, had 0 bytes", 0),
        (b"RPIT" + bytes(11), "a packed delivery must have a header of 16 bytes, had 15 bytes", 0),
        (header(magic=b"TIPR"), "a packed delivery must begin with b'RPIT', began with b'TIPR'", 0),
        (header(version=2), "layout_version must be 1, was 2; build the publisher anew", 4),
        (header(reserved=1), "the reserved fields of the header must be 0", 6),
        (header(reserved_too=1), "the reserved fields of the header must be 0", 12),
        (header(count=0), "count must be from 1 to 4096, was 0", 8),
        (header(count=-1), "count must be from 1 to 4096, was -1", 8),
        (header(count=4_097), "count must be from 1 to 4096, was 4097", 8),
        (header(count=2**31 - 1), "count must be from 1 to 4096, was 2147483647", 8),
        (header(), "1 commands must make 80 bytes, were 16", 8),
        (packed.encode(sound(2))[:-1], "2 commands must make 144 bytes, were 143", 8),
        (packed.encode(sound(2)) + b"\0", "2 commands must make 144 bytes, were 145", 8),
    ],
)
def test_broken_structure(body, reason, offset):
    """Short, foreign, of another version, or of another length than it says: refused before a record is read."""
    assert (reason, offset) == refused(body)


BEYOND = [
    (kind, name, value)
    for kind in SENT_KINDS
    for name, low, high in [
        *packed.BOUNDS[1:],
        ("payout", *packed.PAYOUT_BOUNDS[kind == CommandKind.CREATE_EVENT]),
        *(packed.CREATE_BOUNDS if kind == CommandKind.CREATE_EVENT else ()),
    ]
    for value in (low - 1, high + 1, -128, 127)
    if not low <= value <= high and abs(value) <= INT64_MAX
]


@pytest.mark.parametrize(("kind", "name", "value"), BEYOND)
def test_every_field_just_beyond_its_bounds(kind, name, value):
    """The check finds the record and the complaint names the field, for every field and every kind (K1, K2)."""
    commands = sound(7)
    at = SENT_KINDS.index(kind)
    commands[at][name] = value
    assert at == packed.check(commands, 7)
    with pytest.raises(ValueError, match=rf"command {at} of 7: {name} must .*, was {value}$"):
        packed.encode(commands)
    body = header(count=7) + commands.tobytes()
    reason, offset = refused(body)
    assert reason.startswith(f"command {at} of 7: {name} must be ")
    assert 16 + at * RECORD_BYTES == offset


def test_every_value_within_bounds_passes():
    """Every combination of the small fields that exists is let through."""
    for kind in SENT_KINDS:
        for name, low, high in packed.BOUNDS[1:]:
            for value in range(low, high + 1):
                commands = sound(5)
                commands[SENT_KINDS.index(kind)][name] = value
                assert packed.check(commands, 5) == -1


@pytest.mark.parametrize("kind", sorted(set(range(-128, 128)) - set(SENT_KINDS)))
def test_kinds_that_clients_do_not_have(kind):
    """MARKER and TICK are made inside only; a client that sends one, or any unknown kind, is refused."""
    commands = sound(2)
    commands[1]["kind"] = kind
    assert (f"command 1 of 2: kind must be from 1 to 5, was {kind}", 80) == refused(
        header(count=2) + commands.tobytes()
    )


def test_numbers_are_the_engines_to_judge():
    """Event, order, account, price and quantity may be anything in an order."""
    commands = sound(1)
    for name in ("event", "order", "account", "price", "quantity"):
        for value in (-INT64_MAX - 1, -1, 0, INT64_MAX):
            commands[0][name] = value
            assert packed.check(commands, 1) == -1


def test_check_looks_at_the_counted_commands_only():
    """What lies behind `count` is not looked at."""
    commands = sound(3)
    commands[2]["kind"] = CommandKind.MARKER
    assert packed.check(commands, 2) == -1
    assert packed.check(commands, 3) == 2


@pytest.mark.parametrize("count", [0, FRAME_COMMANDS_MAX + 1])
def test_encode_refuses_wrong_counts(count):
    """A publisher learns of an impossible delivery where it makes it."""
    with pytest.raises(ValueError, match=f"a delivery must have 1 to 4096 commands, had {count}"):
        packed.encode(np.zeros(count, COMMAND))


def test_encode_refuses_other_arrays():
    """Only one-dimensional COMMAND arrays are commands."""
    with pytest.raises(ValueError, match="commands must be a one-dimensional COMMAND array"):
        packed.encode(np.zeros(64, np.int8))
