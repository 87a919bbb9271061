"""The records' layout, and the ceilings, as other processes and languages rely on them."""

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, EventState, Flag, OrderType, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.limits import Limits, require
from ringpit.engine.records import COMMAND, MARKER, RECORD_BYTES, REPORT

RECORDS = [COMMAND, MARKER, REPORT]
CODES = [CommandKind, EventState, Flag, OrderType, Reason, ReportKind, Side, TimeInForce]


@pytest.mark.parametrize("dtype", RECORDS, ids=["command", "marker", "report"])
def test_record_is_one_aligned_cache_line(dtype):
    """R1: 64 bytes, every field signed, little-endian, at a multiple of its own size, without gaps."""
    assert 64 == RECORD_BYTES == dtype.itemsize
    end = 0
    for name in dtype.names:
        field, offset = dtype.fields[name][:2]
        assert end == offset
        assert 0 == offset % field.itemsize
        assert "i" == field.kind
        assert field == field.newbyteorder("<")
        end = offset + field.itemsize
    assert RECORD_BYTES == end


def test_kind_tells_a_slot_apart():
    """R2: `kind` is the first byte of COMMAND and MARKER, and no command has a marker's kind."""
    assert (0, 0) == (COMMAND.fields["kind"][1], MARKER.fields["kind"][1])
    marker = np.zeros(1, MARKER)
    marker["kind"] = CommandKind.MARKER
    assert CommandKind.MARKER == marker.view(COMMAND)["kind"][0]


@pytest.mark.parametrize("codes", CODES)
def test_codes_fit_their_field(codes):
    """Every code fits an int8, and no two names share one."""
    assert all(0 <= code <= 127 for code in codes)
    assert len(codes.__members__) == len({int(code) for code in codes})


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("events", 0, "from 1 to"),
        ("orders", 32, "from 64 to"),
        ("orders", 100, "a power of two"),
        ("levels", 2_048, "from 4096 to"),
        ("levels", 1 << 25, "from 4096 to"),
        ("keys", 65, "a power of two"),
    ],
)
def test_limits_out_of_bounds_are_refused(name, value, rule):
    """A limit that cannot be served is a ValueError with its name, the rule and the value."""
    with pytest.raises(ValueError, match=rf"limits\.{name} must be {rule}.*, was {value}$"):
        Limits(**{name: value})


def test_contradicting_ceilings_end_the_import():
    """A broken proof raises even where asserts are switched off."""
    with pytest.raises(RuntimeError, match="limits contradict each other: one is two"):
        require(False, "one is two")
