"""
What other engines' own tests expect, said again in our words and played on the engine.

Each file in `peers/` names its source and holds cases. A case has a name, one step a line, and what each step does:

    case  cancel the middle of a queue, then sweep it
    buy 10 @ 100 #1
    buy 10 @ 100 #2                          no effect is written: it rests (or waits) and nothing else happens
    cancel #1              => #1 loses 10
    sell 20 @ 100 #4 ioc   => 10 @ 100 of #2, #4 loses 10 ioc_remainder

A range `#1..9` stands for the step, or the effect, once for each. All effects of a step are written, in order: `lots @ price of #maker` (`by #taker` if that is not the order of the
step), `#order loses lots reason`, `#order goes` (a stop), `#order prevented lots`, `refused reason`, `n in all`. A fill that makes or destroys a pair of contracts
ends in `mint` or `burn`. A case with the line `pays 100` has an event with that payout, where orders may be for NO.
Steps are the verbs buy, sell, cancel, amend (to a new total), reduce, replace (by new open lots), mass and tick (time,
ns), with the words of `WORDS`. Three more lines look at the book:

    rests  10@100#2 5@99#3 / 7@101#9         what rests, in order of trading, bids / asks
    shows  10@100 5@99 / 7@101               what everybody sees
    holds  2:15 / 1:7                        orders and lots, all-or-none ones too, of buyers / sellers
    waits  40#6 / 90#7                       stops: trigger and order

A case marked `differs` shows what ours does where theirs does something else, and its comment says what and by which
rule (ARCHITECTURE.md, M1 to M23). Everything runs on the naive exchange and on the engine, there on a ladder and on a
skip list.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ringpit.engine.codes import (
    BOTH_SIDES,
    CommandKind,
    Flag,
    LevelKind,
    OrderType,
    Outcome,
    Queue,
    Reason,
    ReportFlag,
    ReportKind,
    SelfTrade,
    Side,
    TimeInForce,
)
from ringpit.engine.digest import RESTING
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.records import COMMAND, EXTENSION, MARKER
from ringpit.testing.naive import NaiveExchange, report_array

PEERS = sorted((Path(__file__).parent / "peers").glob("*.txt"))
EVENT = 7
SKIP_LIST_HIGH = 1 << 20  # prices of a skip list cost nothing
VERBS = {
    "buy": (CommandKind.NEW, Side.BUY),
    "sell": (CommandKind.NEW, Side.SELL),
    "cancel": (CommandKind.CANCEL, Side.BUY),
    "amend": (CommandKind.AMEND, Side.BUY),
    "reduce": (CommandKind.REDUCE, Side.BUY),
    "replace": (CommandKind.REPLACE, Side.BUY),
    "mass": (CommandKind.MASS_CANCEL, BOTH_SIDES),
}
WORDS = {  # word -> fields of the command
    "ioc": {"time_in_force": TimeInForce.IOC},
    "fok": {"time_in_force": TimeInForce.FOK},
    "market": {"order_type": OrderType.MARKET},
    "money": {"order_type": OrderType.MONEY},
    "post": {"flags": Flag.POST_ONLY},
    "hidden": {"flags": Flag.HIDDEN},
    "whole": {"flags": Flag.ALL_OR_NONE},
    "no": {"outcome": Outcome.NO},
    "buys": {"side": Side.BUY},
    "sells": {"side": Side.SELL},
    "spare-taker": {"self_trade": SelfTrade.CANCEL_MAKER},
    "spare-maker": {"self_trade": SelfTrade.CANCEL_TAKER},
    "spare-none": {"self_trade": SelfTrade.CANCEL_BOTH},
    "decrement": {"self_trade": SelfTrade.DECREMENT},
}
NUMBERS = {
    "@": "price",
    "by": "account",
    "until": "expires_ns",
    "stop": "trigger",
    "trail": "trail",
    "show": "display",
}
PRICE = re.compile(r"(?:@|stop) ?(\d+)")
RANGE = re.compile(r"#(\d+)\.\.(\d+)")
EXTRA = ("trigger", "trail", "display")  # fields of an EXTENSION


class Naive:
    """The naive exchange with the face of the engine's."""

    def __init__(self, limits):
        self.exchange = NaiveExchange(limits)
        self.validate = self.exchange.check

    def submit(self, records):
        """Apply an array of records; its reports."""
        return report_array(self.exchange.run(records))

    def resting(self, event):
        """Return the rows of RESTING."""
        return np.array([(event, *row) for row in self.exchange.resting(event)], RESTING)

    def depth(self, event, _levels):
        """Return what is shown, best first."""
        return self.exchange.depth(event)


@dataclass
class Case:
    """A named list of lines."""

    name: str
    lines: list[str] = field(default_factory=list)
    payout: int = 0


def cases_of(path):
    """Return the cases of a file; raises ValueError at a line that belongs to none."""
    cases = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.partition("--")[0].strip()
        if text.startswith("case "):
            cases.append(Case(text.removeprefix("case ").strip()))
        elif text.startswith("pays "):
            cases[-1].payout = int(text.removeprefix("pays "))
        elif text:
            if not cases:
                raise ValueError(f"{path.name}:{number} belongs to no case: {line!r}")
            cases[-1].lines.append(text)
    return cases


ALL = [(path.stem, case) for path in PEERS for case in cases_of(path)]


def expanded(text):
    """Return the text once for each order of its range `#1..9`, or the text alone."""
    found = RANGE.search(text)
    if not found:
        return [text]
    first, last = (int(order) for order in found.groups())
    return [text[: found.start()] + f"#{order}" + text[found.end() :] for order in range(first, last + 1)]


# -- playing a step -----------------------------------------------------------------------------------------


def fields_of(step, owners):
    """Return the command's and the extension's fields that a step asks for."""
    verb, *words = step.split()
    kind, side = VERBS[verb]
    fields = {"kind": kind, "side": side, "event": EVENT, "flags": 0}
    while words:
        word = words.pop(0)
        if word in NUMBERS:
            fields[NUMBERS[word]] = int(words.pop(0))
        elif word.startswith("#"):
            fields["order"] = int(word[1:])
        elif word in WORDS:
            flags = WORDS[word].get("flags", 0)
            fields |= WORDS[word] | {"flags": fields["flags"] | flags}
        else:
            fields["quantity"] = int(word)
    if kind == CommandKind.NEW:
        fields.setdefault("account", 1)
        if "trail" in fields:
            fields["order_type"] = OrderType.TRAILING_STOP
        elif "trigger" in fields:
            fields["order_type"] = OrderType.STOP_LIMIT if "price" in fields else OrderType.STOP
        if "expires_ns" in fields:
            fields["time_in_force"] = TimeInForce.GTD
    elif kind != CommandKind.MASS_CANCEL:
        fields.setdefault("account", owners.get(fields["order"], 1))
    if "price" not in fields and kind in (CommandKind.NEW, CommandKind.AMEND, CommandKind.REPLACE):
        fields["flags"] |= Flag.NO_PRICE
    extra = {name: fields.pop(name) for name in EXTRA if name in fields}
    return fields, extra


def records_of(step, owners):
    """Return the COMMAND array of a step: maybe an extension, then the command; `tick` is a frame of its own."""
    if step.startswith("tick "):
        records = np.zeros(2, COMMAND)
        marker = records[:1].view(MARKER)
        marker["kind"], marker["count"], marker["engine_ns"] = CommandKind.MARKER, 1, int(step.split()[1])
        records[1]["kind"] = CommandKind.TICK
        return records
    fields, extra = fields_of(step, owners)
    records = np.zeros(2 if extra else 1, COMMAND)
    if extra:
        extension = records[:1].view(EXTENSION)
        extension["kind"], extension["event"] = CommandKind.EXTENSION, EVENT
        for name, value in extra.items():
            extension[name] = value
        fields["flags"] |= Flag.EXTENDED
    for name, value in fields.items():
        records[-1][name] = value
    return records


def effects_of(reports, own, payout):
    """Return what reports say, as a step's effects; `own` is the order of the step."""
    said = []
    waiting = iter(reports)
    for report in waiting:
        kind, reason = ReportKind(int(report["kind"])), Reason(int(report["reason"])).name.lower()
        order, quantity = f"#{report['order']}", int(report["quantity"])
        if kind == ReportKind.FILL_MAKER:
            taker = next(waiting)
            pair = int(report["flags"]) & (ReportFlag.MINT | ReportFlag.BURN)
            price = payout - report["price"] if pair else report["price"]
            assert (ReportKind.FILL_TAKER, price, quantity) == (
                taker["kind"],
                taker["price"],
                taker["quantity"],
            )
            by = "" if taker["order"] == own else f" by #{taker['order']}"
            word = f" {ReportFlag(pair).name.lower()}" if pair else ""
            said.append(f"{quantity} @ {report['price']} of {order}{by}{word}")
        elif kind == ReportKind.CANCELED:
            said.append(f"{order} loses {quantity}" + ("" if reason == "none" else f" {reason}"))
        elif kind == ReportKind.REJECTED:
            said.append(f"refused {reason}")
        elif kind == ReportKind.TRIGGERED:
            said.append(f"{order} goes")
        elif kind == ReportKind.PREVENTED:
            said.append(f"{order} prevented {quantity}")
        elif kind == ReportKind.MASS_CANCELED:
            said.append(f"{report['leaves']} in all")
        elif kind not in (ReportKind.ACCEPTED, ReportKind.AMENDED):
            raise ValueError(f"no word for {kind.name}")
    return said


# -- looking at the book ------------------------------------------------------------------------------------


def sides(bids, asks):
    """Return both sides as a line shows them."""
    return f"{' '.join(bids) or '-'} / {' '.join(asks) or '-'}"


def look(word, exchange):
    """Return what a looking line should say."""
    rows = exchange.resting(EVENT)
    queues = {queue: [row for row in rows if row["queue"] == queue] for queue in Queue}
    if word == "rests":
        return sides(
            *([f"{row['open']}@{row['price']}#{row['order']}" for row in queues[queue]] for queue in (0, 1))
        )
    if word == "shows":
        return sides(*([f"{lots}@{price}" for price, lots in side] for side in exchange.depth(EVENT, 100)))
    if word == "waits":
        return sides(
            *(
                [f"{row['trigger']}#{row['order']}" for row in queues[queue]]
                for queue in (Queue.BUY_STOPS, Queue.SELL_STOPS)
            )
        )
    if word == "holds":
        both = (
            queues[Queue.BIDS] + queues[Queue.BUY_ALL_OR_NONE],
            queues[Queue.ASKS] + queues[Queue.SELL_ALL_OR_NONE],
        )
        return " / ".join(f"{len(side)}:{sum(int(row['open']) for row in side)}" for side in both)
    raise ValueError(f"a case has no line that begins with {word!r}")


def exchange_for(case, how):
    """Return an exchange with an event that is wide enough: "naive", or the engine on a "ladder" or "skip list"."""
    high = case.payout or 1 + max(int(price) for line in case.lines for price in PRICE.findall(line) or [100])
    limits = Limits(events=4, orders=1 << 13, levels=max(4_096, 1 << high.bit_length()))
    exchange = Naive(limits) if how == "naive" else Exchange(limits)
    create = np.zeros(1, COMMAND)
    create["kind"], create["event"], create["order"] = CommandKind.CREATE_EVENT, EVENT, 1
    create["payout"] = case.payout
    create["quantity"] = SKIP_LIST_HIGH if how == "skip list" and not case.payout else high
    create["order_type"] = LevelKind.SKIP_LIST if how == "skip list" else LevelKind.LADDER
    assert [ReportKind.EVENT_CREATED] == exchange.submit(create)["kind"].tolist()
    return exchange


def play(case, exchange):
    """Play a case and return the number of lines that were compared."""
    owners = {}
    for line in case.lines:
        word, _, rest = line.partition(" ")
        if word not in VERBS and word != "tick":
            assert f"{word} {rest.strip()}" == f"{word} {look(word, exchange)}"
            continue
        step, _, expected = line.partition("=>")
        *before, step = expanded(step.strip())
        for each in before:
            assert [] == effects_of(exchange.submit(records_of(each, owners)), 0, case.payout)
        records = records_of(step, owners)
        reports = exchange.submit(records)
        own = int(records[-1]["order"])
        if word in ("buy", "sell") and reports[0]["kind"] == ReportKind.ACCEPTED:
            owners[own] = int(records[-1]["account"])
        wanted = [said for each in expected.split(",") if each.strip() for said in expanded(each.strip())]
        assert (line, wanted) == (line, effects_of(reports, own, case.payout))
    exchange.validate()
    return len(case.lines)


@pytest.mark.parametrize("how", ["naive", "ladder", "skip list"])
@pytest.mark.parametrize(("peer", "case"), ALL, ids=[f"{peer}: {case.name}" for peer, case in ALL])
def test_a_peers_case(peer, case, how):
    """What a public engine's own test expects happens here too, or differs for the reason that is written there."""
    assert play(case, exchange_for(case, how)), peer


def test_no_case_was_lost():
    """Each file has its cases, and no two of a file bear one name."""
    names = [(peer, case.name) for peer, case in ALL]
    assert len(set(names)) == len(names)
    assert {path.stem for path in PEERS} == {peer for peer, _ in names}
