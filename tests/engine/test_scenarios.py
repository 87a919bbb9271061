"""
Ladders that a trader can read, run on the naive exchange and on the engine.

A scenario is a text file of blocks. Each begins with a word in the first column; its lines are indented alike.

    # what it shows
    limits  orders 64                    sizes of the pools, before anything else
    given   bid     | ticks | ask        orders that rest, each `lots#id`, oldest on the left
                    |    52 | 4#1 3#2
            5#3     |    50 |
    when    buy 2 @ 52 ioc #9            commands, one a line
    then    accept 2 @ 52 #9             all their reports, one a line; a fill is one line for its two reports
            fill 2 @ 52 maker #1 taker #9
    book    bid     | ticks | ask        what rests now; or the word `empty`
                    |    52 | 2#1 3#2
            5#3     |    50 |

Event 7 (prices 1 to 99, payout 100) exists; `on 8` names another, `by 2` another account than 1. A range
`#1..64` in a line stands for that line once for each id. `when` without `then` compares nothing by itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, Flag, ReportFlag, OrderType, Reason, ReportKind, Side, TimeInForce
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.records import COMMAND
from ringpit.testing.naive import Command, NaiveExchange, report_tuples

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.txt"))
EVENT = 7
CREATE = "create from 1 to 99 pays 100"
VERBS = {
    "buy": (CommandKind.NEW, Side.BUY),
    "sell": (CommandKind.NEW, Side.SELL),
    "cancel": (CommandKind.CANCEL, Side.BUY),
    "amend": (CommandKind.AMEND, Side.BUY),
    "create": (CommandKind.CREATE_EVENT, Side.BUY),
    "settle": (CommandKind.SETTLE, Side.BUY),
}
RANGE = re.compile(r"#(\d+)\.\.(\d+)")


# -- reading a scenario -------------------------------------------------------------------------------------


def blocks_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """Pairs of a block's word and its lines; raises ValueError at a line that belongs to no block."""
    word, lines = "", []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            if not word:
                raise ValueError(f"line {number} belongs to no block: {line!r}")
            lines.append(line.strip())
        else:
            if word:
                yield word, lines
            word, _, first = line.partition(" ")
            lines = [first.strip()]
    yield word, lines


def expanded(line: str) -> list[str]:
    """The line once for each id of its range, or the line itself."""
    found = RANGE.search(line)
    if not found:
        return [line]
    first, last = (int(number) for number in found.groups())
    return [line[: found.start()] + f"#{order}" + line[found.end() :] for order in range(first, last + 1)]


def command_of(line: str) -> Any:
    """
    The command that a line of a `when` block asks for; raises ValueError at a word it does not know.

    A number without a word before it is the quantity; `to` is an amend's total or the highest price of an event.
    """
    verb, *words = line.split()
    kind, side = VERBS[verb]
    fields: dict[str, int] = {"kind": kind, "side": side, "event": EVENT}
    if kind == CommandKind.CREATE_EVENT:
        fields["order"] = 1  # the tick, in units without decimals
    elif kind != CommandKind.SETTLE:
        fields["account"] = 1
    names = {"@": "price", "from": "price", "to": "quantity", "pays": "payout", "on": "event", "by": "account"}
    while words:
        word = words.pop(0)
        if word in names:
            fields[names[word]] = int(words.pop(0))
        elif word.startswith("#"):
            fields["order"] = int(word[1:])
        elif word == "market":
            fields["order_type"] = OrderType.MARKET
        elif word.upper() in TimeInForce.__members__:
            fields["time_in_force"] = TimeInForce[word.upper()]
        elif word.lstrip("-").isdigit():
            fields["quantity"] = int(word)
        else:
            raise ValueError(f"a command has no {word!r}: {line!r}")
    if kind in (CommandKind.NEW, CommandKind.AMEND) and "price" not in fields:
        fields["flags"] = Flag.NO_PRICE
    return Command(**fields)


def ladder_of(lines: list[str]) -> list[tuple[int, int, int, int]]:
    """Rows (side, price, order id, lots) of a drawn ladder, in priority order: bids first."""
    rows: tuple[list, list] = ([], [])
    for line in lines[1:]:
        cells = line.split("|")
        assert 3 == len(cells), f"a ladder's line has three columns, was {line!r}"
        for side, cell in ((Side.BUY, cells[0]), (Side.SELL, cells[2])):
            for entry in cell.split():
                lots, order = entry.split("#")
                rows[side].append((int(side), int(cells[1]), int(order), int(lots)))
    bids = sorted(rows[Side.BUY], key=lambda row: -row[1])
    return bids + sorted(rows[Side.SELL], key=lambda row: row[1])


# -- saying what happened -----------------------------------------------------------------------------------


def spoken(reports: list[Any]) -> list[str]:
    """Reports as the lines of a `then` block; the two reports of a fill make one line."""
    lines = []
    waiting = iter(reports)
    for report in waiting:
        name = f" #{report.order}" if report.account else ""  # no account: it is about an event
        reason = f" {Reason(report.reason).name.lower()}" if report.reason else ""
        again = " again" if report.flags & ReportFlag.REPEAT else ""
        at = f" @ {report.price}"
        if report.kind == ReportKind.FILL_MAKER:
            taker = next(waiting)
            assert (ReportKind.FILL_TAKER, report.index + 1) == (taker.kind, taker.index)
            assert (report.price, report.quantity) == (taker.price, taker.quantity)
            lines.append(f"fill {report.quantity}{at} maker{name} taker #{taker.order}")
        elif report.kind == ReportKind.ACCEPTED:
            lines.append(f"accept {report.quantity}{at}{name}")
        elif report.kind == ReportKind.CANCELED:
            lines.append(f"cancel {report.quantity}{name}{reason}")
        elif report.kind == ReportKind.AMENDED:
            lines.append(f"amend{name} total {report.quantity}{at} open {report.leaves}")
        elif report.kind == ReportKind.REJECTED:
            lines.append(f"reject{name}{reason}")
        elif report.kind == ReportKind.EVENT_CREATED:
            lines.append(f"create{again}")
        elif report.kind == ReportKind.EVENT_SETTLED:
            lines.append(f"settle{again} {report.leaves}")
        else:
            raise ValueError(f"a scenario has no word for report kind {report.kind}")
    return lines


# -- running it ---------------------------------------------------------------------------------------------


def run(exchange: NaiveExchange | Exchange, lines: list[str]) -> list[str]:
    """Have an exchange carry out command lines, and say what it reported."""
    commands = [command_of(each) for line in lines for each in expanded(line)]
    if isinstance(exchange, NaiveExchange):
        return spoken(exchange.run(commands))
    return spoken(report_tuples(exchange.submit(np.array(commands, COMMAND))))


def resting(exchange: NaiveExchange | Exchange) -> list[tuple[int, int, int, int]]:
    """Rows (side, price, order id, lots) of event 7, as `ladder_of` gives them."""
    rows = exchange.resting(EVENT)
    if isinstance(rows, np.ndarray):
        rows = [row[1:] for row in rows.tolist()]
    return [(side, price, order, lots) for side, price, order, lots, _ in rows]


def play(text: str, make: type[NaiveExchange] | type[Exchange]) -> int:
    """Run a scenario on a new exchange, compare every `then` and `book`, and return how many there were."""
    limits: dict[str, int] = {}
    exchange: NaiveExchange | Exchange | None = None
    said: list[str] = []
    compared = 0
    for word, lines in blocks_of(text):
        if word == "limits":
            limits |= {name: int(value) for name, value in (line.split() for line in lines)}
            continue
        if exchange is None:
            exchange = make(limits=Limits(**limits))
            run(exchange, [CREATE])
        if word == "given":
            for side, price, order, lots in ladder_of(lines):
                run(exchange, [f"{'sell' if side else 'buy'} {lots} @ {price} #{order}"])
            assert ladder_of(lines) == resting(exchange)
        elif word == "when":
            said = run(exchange, lines)
        elif word == "then":
            assert [each for line in lines for each in expanded(line)] == said
            compared += 1
        elif word == "book":
            assert ([] if lines == ["empty"] else ladder_of(lines)) == resting(exchange)
            compared += 1
        else:
            raise ValueError(f"a scenario has no block {word!r}")
    return compared


@pytest.mark.parametrize("make", [NaiveExchange, Exchange], ids=["naive", "engine"])
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_goes_as_drawn(path, make):
    """Both exchanges report and rest exactly what the scenario says, and it says something."""
    assert play(path.read_text(), make) > 0


def test_scenarios_are_found():
    """The folder of scenarios is where this file looks, and every file there opens with what it shows."""
    assert len(SCENARIOS) >= 25
    assert all(path.read_text().startswith("# ") for path in SCENARIOS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("   buy 1 @ 50 #1\n", "line 1 belongs to no block"),
        ("when    buy 1 at 50 #1\n", "a command has no 'at'"),
        ("whenever buy 1 @ 50 #1\n", "a scenario has no block 'whenever'"),
    ],
)
def test_mistakes_in_a_scenario_are_refused(text, message):
    """A line outside a block, an unknown word and an unknown block are errors, not lines without effect."""
    with pytest.raises(ValueError, match=message):
        play(text, NaiveExchange)


@pytest.mark.parametrize(
    "text",
    [
        "when    buy 1 @ 50 #1\nthen    accept 2 @ 50 #1\n",
        "when    buy 1 @ 50 #1\nbook    empty\n",
        "when    buy 1 @ 50 #1..3\nthen    accept 1 @ 50 #1..2\n",
        "given   bid | ticks | ask\n        1#1 2#2 | 50 |\nbook    bid | ticks | ask\n        2#2 1#1 | 50 |\n",
    ],
)
def test_a_wrong_scenario_fails(text):
    """A scenario that says something else than what happens fails: in lots, in the book, in number, in priority."""
    with pytest.raises(AssertionError):
        play(text, NaiveExchange)
