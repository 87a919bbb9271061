"""`process` through its address: the same reports and books as called by name."""

import numpy as np
import pytest
from numba import njit

from ringpit.engine import Exchange, Limits
from ringpit.engine.machine import process
from ringpit.engine.records import COMMAND, MARKER, REPORT
from ringpit.engine.through import address_of_process, process_through
from ringpit.shards.flow import flow

LIMITS = Limits(events=8, orders=256, levels=4_096, keys=64)
COMMANDS = flow(500, seed=5, events=4)
SLOTS = 512


@njit
def through(address, t, commands, markers, begin_at, end_at, reports):
    """A kernel that holds nothing of the engine."""
    return process_through(
        address, t, commands, markers, begin_at, end_at, begin_at + 1, reports, 0, reports.shape[0], 1
    )


def run(call):
    """Everything that is told about the commands, some at a time, and the digest at the end."""
    exchange = Exchange(LIMITS)
    commands, reports = np.zeros(SLOTS, COMMAND), np.zeros(SLOTS, REPORT)
    commands[: len(COMMANDS)] = COMMANDS
    told, at = [], 0
    while at < len(COMMANDS):
        at, out = call(
            exchange.tables, commands, commands.view(MARKER), at, min(at + 50, len(COMMANDS)), reports
        )
        told.append(reports[:out].tobytes())
    return b"".join(told), exchange.digest()


def test_it_is_the_same_machine():
    """Reports byte for byte, and books."""
    exchange, commands = Exchange(LIMITS), np.zeros(SLOTS, COMMAND)
    address = address_of_process(exchange.tables, commands, commands.view(MARKER), np.zeros(SLOTS, REPORT))
    by_name = run(lambda t, c, m, begin, end, r: process(t, c, m, begin, end, begin + 1, r, 0, SLOTS, 1))
    assert by_name == run(lambda *arguments: through(address, *arguments))


@pytest.mark.compiled
def test_its_address_stays():
    """Whoever asks gets the one that there is, whatever the arrays' lengths."""
    exchange = Exchange(LIMITS)
    found = {
        address_of_process(exchange.tables, commands, commands.view(MARKER), np.zeros(64, REPORT))
        for commands in (np.zeros(64, COMMAND), np.zeros(128, COMMAND))
    }
    assert 1 == len(found)
    assert 0 not in found
