"""exchange-core's flow, re-created: its mix, and that it depends on nothing but its seed."""

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, TimeInForce
from ringpit.perf.exchange_flow import RESTING, exchange_flow

COMMANDS = 1_500
SMALL_RESTING = 60


def share(chosen):
    """Percent of commands."""
    return 100 * np.count_nonzero(chosen) / len(chosen)


@pytest.mark.compiled
def test_the_mix_is_the_published_one():
    """Shares of each kind at a start price of 59,400, within what seeds differ by; the book stays full."""
    flow = exchange_flow(commands=300_000)
    timed = flow.commands[flow.before :]
    is_new = timed["kind"] == CommandKind.NEW
    is_instant = is_new & (timed["time_in_force"] != TimeInForce.GTC)

    assert 12.2 == pytest.approx(share(is_new & ~is_instant), abs=0.5)
    assert 1.96 == pytest.approx(share(is_instant), abs=0.2)
    assert 7.1 == pytest.approx(share(timed["kind"] == CommandKind.CANCEL), abs=0.3)
    assert 7.0 == pytest.approx(share(timed["kind"] == CommandKind.REDUCE), abs=0.3)
    assert 71.8 == pytest.approx(share(timed["kind"] == CommandKind.AMEND), abs=0.7)
    assert 0.040 == pytest.approx(len(flow.trades) / len(timed), abs=0.003)
    assert RESTING == pytest.approx(flow.open_orders, rel=0.1)


def test_the_flow_depends_on_its_seed_alone():
    """The same seed gives the same bytes, another others."""
    first, again, other = (
        exchange_flow(commands=COMMANDS, resting=SMALL_RESTING, seed=seed) for seed in (3, 3, 4)
    )

    assert first.commands.tobytes() == again.commands.tobytes() != other.commands.tobytes()
    assert np.array_equal(first.trades, again.trades)


def test_a_book_for_one_order_is_refused():
    """Half of it would be nothing."""
    with pytest.raises(ValueError, match="resting must be at least 2, was 1"):
        exchange_flow(resting=1)
