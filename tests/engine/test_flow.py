"""The order flow that other tests and benchmarks feed from: repeatable, plausible, and whole in every shape."""

import json

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, Reason, ReportKind
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import FRAME_COMMANDS_MAX
from ringpit.engine.records import COMMAND, MARKER
from ringpit.shards.flow import MIX, creations, flow, frames, messages, reflected


def test_flow_is_repeatable():
    """The same seed gives the same bytes, another seed others."""
    assert flow(2_000, seed=1).tobytes() == flow(2_000, seed=1).tobytes()
    assert flow(2_000, seed=1).tobytes() != flow(2_000, seed=2).tobytes()


def test_flow_without_mistakes_has_none():
    """With no share of mistakes, a reject is only ever an order already gone, or a fill-or-kill."""
    commands = flow(3_000, seed=3, events=4, invalid_share=0)
    reports = Exchange().submit(commands)
    reasons = set(reports["reason"][reports["kind"] == ReportKind.REJECTED].tolist())
    assert {Reason.UNKNOWN_ORDER, Reason.FOK_UNFILLABLE} == reasons


def test_flow_makes_every_mistake():
    """With a share of mistakes, every reason that a client can cause turns up."""
    reports = Exchange().submit(flow(20_000, seed=3, events=4, invalid_share=0.1))
    reasons = set(reports["reason"][reports["kind"] == ReportKind.REJECTED].tolist())
    assert reasons == {
        Reason.UNKNOWN_EVENT, Reason.PRICE_OUT_OF_RANGE, Reason.QTY_INVALID, Reason.QTY_LIMIT,
        Reason.DUP_CLIENT_ORDER_ID, Reason.UNKNOWN_ORDER, Reason.NOT_OWNER, Reason.FOK_UNFILLABLE,
    }  # fmt: skip


def test_most_cancels_and_amends_find_their_order():
    """Targets are aimed at: a good part of the cancels and amends meet an open order of their account."""
    commands = flow(5_000, seed=5, events=4, invalid_share=0)
    reports = Exchange().submit(commands)
    aimed = np.isin(commands["kind"], [CommandKind.CANCEL, CommandKind.AMEND]).sum()
    missed = (reports["reason"] == Reason.UNKNOWN_ORDER).sum()
    assert missed < 0.6 * aimed


def test_mix_is_whole():
    """The shares of the mix add up to one."""
    assert pytest.approx(1) == sum(share for *_, share in MIX)


def test_walks_stay_in_range():
    """A folded walk stays between low and high and moves by at most one step of the walk."""
    walk = np.cumsum(np.random.Generator(np.random.PCG64(1)).integers(-1, 2, 5_000))
    for low, high in ((1, 99), (0, 1), (5, 5)):
        folded = reflected(walk, low, high)
        assert low <= folded.min() <= folded.max() <= high
        assert np.abs(np.diff(folded)).max() <= 1


@pytest.mark.parametrize("size", [1, 7, FRAME_COMMANDS_MAX])
def test_frames_hold_every_command_once(size):
    """Markers count what follows, say where the frame ends, and leave the commands as they were."""
    commands = flow(5_000, seed=1)
    records = frames(commands, size, publisher_key=9)
    slots = np.flatnonzero(records["kind"] == CommandKind.MARKER)
    markers = records.view(MARKER)[slots]
    assert commands.tobytes() == np.delete(records, slots).tobytes()
    assert slots.tolist() == [0, *markers["position"][:-1].tolist()]
    assert len(records) == markers["position"][-1] == slots[-1] + 1 + markers["count"][-1]
    assert len(commands) == markers["count"].sum()
    assert size >= markers["count"].max()
    assert len(markers) == len(set(markers["key_low"].tolist()))
    assert (markers["key_high"] == 9).all()
    assert (
        commands["event"][np.cumsum(markers["count"]) - markers["count"]].tolist()
        == markers["first_event"].tolist()
    )


def test_frames_without_a_publisher_have_no_key():
    """Key 0 means no protection against duplicates."""
    markers = frames(creations(3), 2).view(MARKER)[[0, 3]]
    assert [0, 0, 0, 0] == [*markers["key_low"], *markers["key_high"]]


@pytest.mark.parametrize("size", [0, FRAME_COMMANDS_MAX + 1])
def test_frames_beyond_the_ceiling_are_refused(size):
    """A frame has at least one command and no more than a frame may hold."""
    with pytest.raises(ValueError, match=f"size must be from 1 to 4096, was {size}"):
        frames(creations(3), size)


def test_messages_say_what_the_user_would():
    """Messages are those of the first pages of the documentation, and JSON."""
    commands = creations(1, first_event=7)
    order = np.zeros(2, COMMAND)
    order["kind"] = [CommandKind.NEW, CommandKind.CANCEL]
    order["event"], order["order"], order["account"] = 7, 1, 42
    order["price"], order["quantity"] = [57, 0], [10, 0]
    settlement = np.zeros(1, COMMAND)
    settlement["kind"], settlement["event"] = CommandKind.SETTLE, 7
    said = list(messages(np.concatenate([commands, order, settlement])))
    new = {
        "OrderID": 1, "Account": 42, "Action": "New", "Side": "Buy", "Quantity": 10, "Type": "Limit",
        "TimeInForce": "GTC", "PriceTicks": 57,
    }  # fmt: skip
    assert said == [
        {
            "Task": "CreateEvent",
            "ID": 7,
            "Spec": {"Tick": "0.01", "Payout": "1.00", "Low": "0.01", "High": "0.99"},
        },
        {"Task": "Order", "ID": 7, "Order": new},
        {"Task": "Order", "ID": 7, "Order": {"OrderID": 1, "Account": 42, "Action": "Cancel"}},
        {"Task": "Settlement", "ID": 7},
    ]
    assert said == json.loads(json.dumps(said))


def test_messages_refuse_what_nobody_can_say():
    """A verdict is found by the edge, never sent to it; so is a marker."""
    command = creations(1)
    command["verdict"] = 1
    for records in (command, frames(creations(1), 1)):
        with pytest.raises(ValueError, match="no message asks for this command"):
            list(messages(records))


@pytest.mark.parametrize(
    ("name", "value"), [("count", 0), ("events", 0), ("accounts", -1), ("invalid_share", 1.5)]
)
def test_flow_refuses_nonsense(name, value):
    """Numbers below one and shares outside 0 to 1 are refused by name."""
    with pytest.raises(ValueError, match=f"{name} must be .*, was {value}"):
        flow(**({"count": 10} | {name: value}))
