"""Packed deliveries are read in place, and one bad byte refuses them with its place."""

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, Flag
from ringpit.engine.limits import FRAME_COMMANDS_MAX, INT64_MAX
from ringpit.engine.records import BANDS, COMMAND, EXTENSION, LAYOUT_VERSION, RECORD_BYTES
from ringpit.shards import packed
from ringpit.shards.messages import MalformedMessage

ALONE = (  # kinds whose records may stand alone
    CommandKind.NEW, CommandKind.CANCEL, CommandKind.AMEND, CommandKind.CREATE_EVENT, CommandKind.SETTLE,
    CommandKind.REDUCE, CommandKind.REPLACE, CommandKind.MASS_CANCEL,
)  # fmt: skip
KINDS = len(ALONE)


def sound(count: int = 3) -> np.ndarray:
    """Commands that a client may send, of every kind that may stand alone in turn."""
    commands = np.zeros(count, COMMAND)
    for index in range(count):
        kind = ALONE[index % KINDS]
        commands[index]["kind"] = kind
        commands[index]["order"], commands[index]["account"], commands[index]["quantity"] = 1 + index, 2, 10
        commands[index]["payout"] = 100 if kind == CommandKind.CREATE_EVENT else 0
    return commands


def chain(*kinds: CommandKind, event: int = 7) -> np.ndarray:
    """Records of one event in a row; a command behind an EXTENSION is EXTENDED, a BANDS record has two bands."""
    commands = np.zeros(len(kinds), COMMAND)
    commands["kind"], commands["event"] = kinds, event
    for index, kind in enumerate(kinds):
        if kind == CommandKind.BANDS:
            bands = commands[index : index + 1].view(BANDS)[0]
            bands["count"] = 2
            bands["last_1"], bands["step_1"], bands["last_2"], bands["step_2"] = 10, 1, 90, 5
        elif kind == CommandKind.CREATE_EVENT:
            commands[index]["order"] = 1
        if kind in ALONE and kinds[index - 1 : index] == (CommandKind.EXTENSION,):
            commands[index]["flags"] = Flag.EXTENDED
    return commands


def header(magic=b"RPIT", version=LAYOUT_VERSION, reserved=0, count=1, reserved_too=0) -> bytes:
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
    assert b"RPIT\x03\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00" == packed.encode(sound(5))[:16]
    assert [0, 4, 6, 8, 12] == [packed.HEADER.fields[name][1] for name in packed.HEADER.names]


@pytest.mark.parametrize(
    ("body", "reason", "offset"),
    [
        (b"", "a packed delivery must have a header of 16 bytes, had 0 bytes", 0),
        (b"RPIT" + bytes(11), "a packed delivery must have a header of 16 bytes, had 15 bytes", 0),
        (header(magic=b"TIPR"), "a packed delivery must begin with b'RPIT', began with b'TIPR'", 0),
        (header(version=1), "layout_version must be 3, was 1; build the publisher anew", 4),
        (header(reserved=1), "the reserved fields of the header must be 0", 6),
        (header(reserved_too=1), "the reserved fields of the header must be 0", 12),
        (header(count=0), "count must be from 1 to 4096, was 0", 8),
        (header(count=-1), "count must be from 1 to 4096, was -1", 8),
        (header(count=4_097), "count must be from 1 to 4096, was 4097", 8),
        (header(count=2**31 - 1), "count must be from 1 to 4096, was 2147483647", 8),
        (header(), "1 records must make 80 bytes, were 16", 8),
        (packed.encode(sound(2))[:-1], "2 records must make 144 bytes, were 143", 8),
        (packed.encode(sound(2)) + b"\0", "2 records must make 144 bytes, were 145", 8),
    ],
)
def test_broken_structure(body, reason, offset):
    """Short, foreign, of another version, or of another length than it says: refused before a record is read."""
    assert (reason, offset) == refused(body)


BEYOND = [
    (kind, name, value)
    for kind in ALONE
    for name, low, high in packed.bounds_of(kind)
    for value in (low - 1, high + 1, -128, 127)
    if not low <= value <= high and abs(value) <= INT64_MAX
]


@pytest.mark.parametrize(("kind", "name", "value"), BEYOND)
def test_every_field_just_beyond_its_bounds(kind, name, value):
    """The check finds the record and the complaint names the field, for every field and every kind (K1, K2)."""
    commands = sound(KINDS + 2)
    at = ALONE.index(kind)
    commands[at][name] = value
    assert at == packed.check(commands, KINDS + 2)
    with pytest.raises(ValueError, match=rf"record {at} of {KINDS + 2}: {name} must .*, was {value}$"):
        packed.encode(commands)
    reason, offset = refused(header(count=KINDS + 2) + commands.tobytes())
    assert reason.startswith(f"record {at} of {KINDS + 2}: {name} must be ")
    assert 16 + at * RECORD_BYTES == offset


@pytest.mark.parametrize("kind", ALONE)
def test_every_value_within_bounds_passes(kind):
    """Every value that the small fields have is let through; bounds are those of the enumerations."""
    for name, low, high in packed.bounds_of(kind):
        for value in {low, high, *range(low, min(high, low + 10) + 1)}:
            commands = sound(KINDS)
            commands[ALONE.index(kind)][name] = value
            assert packed.check(commands, KINDS) == -1


@pytest.mark.parametrize("kind", ALONE)
def test_flags_are_those_that_there_are(kind):
    """Any of the known flags may be together; another bit, or EXTENDED without an extension, refuses the record (K1, K3)."""
    at = ALONE.index(kind)
    allowed = sum(Flag) - (Flag.EXTENDED if kind == CommandKind.MASS_CANCEL else 0)
    for flags in range(-128, 128):
        commands = sound(KINDS)
        commands[at]["flags"] = flags
        if flags & ~allowed:
            assert at == packed.check(commands, KINDS)
            assert f"flags must be bits of {allowed}, was {flags}" == packed.complaint(commands, at)
        elif flags & Flag.EXTENDED:
            assert at == packed.check(commands, KINDS)
            assert packed.complaint(commands, at).endswith(" right behind an EXTENSION of the same event")
        else:
            assert packed.check(commands, KINDS) == -1


@pytest.mark.parametrize("kind", sorted(set(range(-128, 128)) - set(packed.SENT_KINDS)))
def test_kinds_that_clients_do_not_have(kind):
    """MARKER and TICK are made inside only; a client that sends one, or any unknown kind, is refused."""
    commands = sound(2)
    commands[1]["kind"] = kind
    reason, offset = refused(header(count=2) + commands.tobytes())
    assert reason.startswith("record 1 of 2: kind must be one of 1 NEW, 2 CANCEL, ")
    assert (True, 80) == (reason.endswith(f", 12 BANDS, was {kind}"), offset)
    assert not {CommandKind.TICK, CommandKind.MARKER} & set(packed.SENT_KINDS)


NEW, CREATE, EXTENSION_, BANDS_ = (
    CommandKind.NEW, CommandKind.CREATE_EVENT, CommandKind.EXTENSION, CommandKind.BANDS,
)  # fmt: skip
EXTENDABLE = [kind for kind in ALONE if kind != CommandKind.MASS_CANCEL]


@pytest.mark.parametrize(
    "kinds",
    [
        *((EXTENSION_, kind) for kind in EXTENDABLE),
        (BANDS_, CREATE),
        (BANDS_, BANDS_, CREATE),
        (BANDS_, BANDS_, EXTENSION_, CREATE),
        (NEW, EXTENSION_, NEW, NEW, BANDS_, CREATE, EXTENSION_, CREATE, NEW),
    ],
)
def test_what_completes_a_command_stands_right_before_it(kinds):
    """K3, in the orders that there are; a delivery of them is read as it was written."""
    commands = chain(*kinds)
    assert commands.tobytes() == packed.decode(packed.encode(commands)).tobytes()


@pytest.mark.parametrize(
    ("kinds", "at"),
    [
        ((NEW, EXTENSION_), 1),
        ((NEW, BANDS_), 1),
        ((BANDS_, EXTENSION_), 1),
        ((EXTENSION_, EXTENSION_, NEW), 0),
        ((EXTENSION_, BANDS_, CREATE), 0),
        ((BANDS_, NEW), 0),
        ((BANDS_, EXTENSION_, NEW), 1),
        ((BANDS_, CommandKind.SETTLE), 0),
        ((EXTENSION_, CommandKind.MASS_CANCEL), 1),
    ],
)
def test_what_completes_nothing_refuses_the_delivery(kinds, at):
    """K3: the record that is at the wrong place is named."""
    commands = chain(*kinds)
    assert at == packed.check(commands, len(commands))
    assert packed.complaint(commands, at) != "nothing"


@pytest.mark.parametrize(
    "kinds", [(EXTENSION_, NEW), (BANDS_, CREATE), (BANDS_, EXTENSION_, CREATE), (BANDS_, BANDS_, CREATE)]
)
def test_what_completes_a_command_names_the_same_event(kinds):
    """K3, for each neighbour: records are routed by event, and must not be parted."""
    for other in range(len(kinds)):
        commands = chain(*kinds)
        commands[other]["event"] = 8
        at = max(other - 1, 0)
        assert at == packed.check(commands, len(kinds))
        assert "of the same event" in packed.complaint(commands, at)


def test_an_extension_belongs_to_an_extended_command():
    """A command that does not say that it is extended is not."""
    commands = chain(EXTENSION_, NEW)
    commands[1]["flags"] = 0
    reason = "an EXTENSION must stand right before a command of the same event with the flag EXTENDED"
    assert (f"record 0 of 2: {reason}", 16) == refused(header(count=2) + commands.tobytes())


@pytest.mark.parametrize(("table", "kinds"), [(EXTENSION, (EXTENSION_, NEW)), (BANDS, (BANDS_, CREATE))])
def test_zeros_of_what_completes_a_command(table, kinds):
    """Every field that has no meaning is 0, and every other holds whatever it likes (the engine's question)."""
    bounded = {name: (low, high) for name, low, high in packed.bounds_of(kinds[0])}
    for name in table.names[1:]:
        for value in (-2, -1, 1, 2, 5, 6, 7, 100):
            commands = chain(*kinds)
            record = commands[:1].view(table)[0]
            record[name] = value
            if table is BANDS and name == "count":
                sound_value = 2 <= value <= 6  # of which it holds two
            elif table is BANDS and name[-1] in "3456":
                sound_value = False
            elif name == "event":
                continue
            else:
                low, high = bounded.get(name, (-INT64_MAX, INT64_MAX))
                sound_value = low <= value <= high
            assert (-1 if sound_value else 0) == packed.check(commands, 2), (name, value)
            if not sound_value:
                named = "last_2" if (name, value) == ("count", 1) else name
                assert packed.complaint(commands, 0).startswith(f"{named} must be "), (name, value)


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
    with pytest.raises(ValueError, match=f"a delivery must have 1 to 4096 records, had {count}"):
        packed.encode(np.zeros(count, COMMAND))


def test_encode_refuses_other_arrays():
    """Only one-dimensional COMMAND arrays are commands."""
    with pytest.raises(ValueError, match="commands must be a one-dimensional COMMAND array"):
        packed.encode(np.zeros(64, np.int8))
