"""
Ladders that a trader can read: the language of the files in tests/scenarios.

A scenario is a text file of blocks. Each begins with a word in the first column; its lines are indented alike.

    # what it shows
    limits  orders 64                    sizes of the pools, before anything else
    event   from 1 to 99 pays 100        what event 7 is, if not this
    given   bid     | ticks | ask        orders that rest, each `lots#id`, oldest on the left;
                    |    52 | 4#1 3#2    `2/9#4` shows 2 of its 9 lots, `0/5#6` is hidden
            5#3     |    50 |
    when    buy 2 @ 52 ioc #9            commands, one a line
    then    accept 2 @ 52 #9             all their reports, one a line; a fill is one line for its two reports
            fill 2 @ 52 maker #1 taker #9
    told    ask 52 shows 5               the LEVEL reports among them, or `nothing`; only looked at where they are written down
    book    bid     | ticks | ask        what rests now; or the word `empty`
                    |    52 | 2#1 3#2
            5#3     |    50 |
    waiting buy 4 stop trigger 60 #7     what waits aside now, list by list; or the word `nothing`

`on 8` names another event than 7, `by 2` another account than 1. A range `#1..64` in a line stands for that line once
for each id. `when` without `then` compares nothing by itself. The words of a command:

    buy, sell            lots, `no` for the other outcome, `@` price, `#` id, `by` account, then any of
      market, money, stop, stop-limit, trailing-stop    with `trigger` and `trail`; without one of them it is a limit order
      ioc, fok, day, gtd 500                            without one of them it is good till cancelled
      post-only, hidden, all-or-none, display 5, group 3, cancel-taker, cancel-maker, cancel-both, decrement
    cancel, reduce 3, replace 5 @ 50, amend to 5 @ 50   with `#` id
    mass-cancel          perhaps buy or sell, by, group, everywhere
    create               from, to, pays, and perhaps levels, closes, orders-max, account-orders-max, bands 10/1 99/5
    settle
    time 500             the clock goes to 500
    tick                 what is due expires
    extension            a record that completes a command, by itself; `extended` says that a command has one
"""

import re
from collections.abc import Callable, Iterator
from difflib import ndiff
from typing import Any, Final

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
    Trait,
)
from ringpit.engine.exchange import Exchange
from ringpit.engine.limits import Limits
from ringpit.engine.records import BANDS_PER_RECORD
from ringpit.testing.naive import Bands, Command, Extension, Marker, NaiveExchange, record_array, report_tuples

Row = tuple[int, int, int, int, int]  # side, price, order id, lots shown, lots open

EVENT: Final = 7
CREATE: Final = "from 1 to 99 pays 100"
VERBS: Final = {
    "buy": CommandKind.NEW,
    "sell": CommandKind.NEW,
    "cancel": CommandKind.CANCEL,
    "amend": CommandKind.AMEND,
    "reduce": CommandKind.REDUCE,
    "replace": CommandKind.REPLACE,
    "mass-cancel": CommandKind.MASS_CANCEL,
    "create": CommandKind.CREATE_EVENT,
    "settle": CommandKind.SETTLE,
    "tick": CommandKind.TICK,
}
PRICED: Final = (CommandKind.NEW, CommandKind.AMEND, CommandKind.REPLACE)
ABOUT_EVENTS: Final = (CommandKind.CREATE_EVENT, CommandKind.SETTLE, CommandKind.MASS_CANCEL, CommandKind.TICK)

# Words that a number follows, and the field that it is.
NUMBERS: Final = {
    "@": "price", "from": "price", "to": "quantity", "pays": "payout", "on": "event", "by": "account",
    "gtd": "expires_ns", "closes": "expires_ns",
}  # fmt: skip
EXTENSIONS: Final = {
    "trigger": "trigger", "trail": "trail", "display": "display", "group": "group", "orders-max": "orders_max",
    "account-orders-max": "account_orders_max",
}  # fmt: skip

# Words that stand alone, the field that they set, and its value.
ALONE: Final = {
    "no": ("outcome", Outcome.NO),
    "market": ("order_type", OrderType.MARKET),
    "money": ("order_type", OrderType.MONEY),
    "stop": ("order_type", OrderType.STOP),
    "stop-limit": ("order_type", OrderType.STOP_LIMIT),
    "trailing-stop": ("order_type", OrderType.TRAILING_STOP),
    "gtc": ("time_in_force", TimeInForce.GTC),
    "ioc": ("time_in_force", TimeInForce.IOC),
    "fok": ("time_in_force", TimeInForce.FOK),
    "gtd": ("time_in_force", TimeInForce.GTD),
    "day": ("time_in_force", TimeInForce.DAY),
    "cancel-taker": ("self_trade", SelfTrade.CANCEL_TAKER),
    "cancel-maker": ("self_trade", SelfTrade.CANCEL_MAKER),
    "cancel-both": ("self_trade", SelfTrade.CANCEL_BOTH),
    "decrement": ("self_trade", SelfTrade.DECREMENT),
    "buy": ("side", Side.BUY),
    "sell": ("side", Side.SELL),
}
FLAGS: Final = {
    "post-only": Flag.POST_ONLY,
    "hidden": Flag.HIDDEN,
    "all-or-none": Flag.ALL_OR_NONE,
    "everywhere": Flag.ALL_EVENTS,
    "extended": Flag.EXTENDED,
}
LEVELS: Final = {"auto": LevelKind.AUTO, "ladder": LevelKind.LADDER, "skiplist": LevelKind.SKIP_LIST}
RANGE: Final = re.compile(r"#(\d+)\.\.(\d+)")
BAND: Final = re.compile(r"(-?\d+)/(-?\d+)")


# -- reading ------------------------------------------------------------------------------------------------


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


def records_of(line: str, levels: LevelKind = LevelKind.AUTO) -> list[Any]:
    """
    The records that a line of a `when` block asks for: a command behind what completes it, or a marker with the time.

    A number without a word before it is the quantity; `to` is an amend's total or the highest price of an event.
    `levels` is the structure of an event that does not say its own. Raises ValueError at a word it does not know.
    """
    verb, *words = line.split()
    if verb == "time":
        return [Marker(kind=CommandKind.MARKER, engine_ns=int(words[0]))]
    fields, extension, bands = fields_of(line, words)
    event = fields.get("event", EVENT)
    if verb == "extension":
        return [Extension(kind=CommandKind.EXTENSION, event=event, **extension)]
    kind = VERBS[verb]
    defaults = {"kind": kind, "event": EVENT, "account": 0 if kind in ABOUT_EVENTS else 1}
    if kind == CommandKind.NEW:
        defaults["side"] = Side[verb.upper()]
    elif kind == CommandKind.MASS_CANCEL:
        defaults |= {"side": BOTH_SIDES, "order": extension.pop("group", 0)}
    elif kind == CommandKind.CREATE_EVENT:
        defaults |= {"order": 1, "order_type": levels}  # a tick is one unit without decimals
    if kind in PRICED and "price" not in fields:
        fields["flags"] = fields.get("flags", 0) | Flag.NO_PRICE
    if extension:
        fields["flags"] = fields.get("flags", 0) | Flag.EXTENDED
    command = Command(**{**defaults, **fields})
    completed = [Extension(kind=CommandKind.EXTENSION, event=event, **extension)] if extension else []
    return [*band_records(bands, event), *completed, command]


def fields_of(line: str, words: list[str]) -> tuple[dict[str, int], dict[str, int], list[tuple[int, int]]]:
    """Fields of the command and of its extension, and the bands, that the words behind a verb say."""
    fields: dict[str, int] = {}
    extension: dict[str, int] = {}
    bands: list[tuple[int, int]] = []
    waiting = iter(words)
    for word in waiting:
        band = BAND.fullmatch(word)
        if band:
            bands.append((int(band[1]), int(band[2])))
            continue
        if word in ALONE:
            name, value = ALONE[word]
            fields[name] = value
        if word in NUMBERS:
            fields[NUMBERS[word]] = int(next(waiting))
        elif word in EXTENSIONS:
            extension[EXTENSIONS[word]] = int(next(waiting))
        elif word in FLAGS:
            fields["flags"] = fields.get("flags", 0) | FLAGS[word]
        elif word == "levels":
            fields["order_type"] = LEVELS[next(waiting)]
        elif word.startswith("#"):
            fields["order"] = int(word[1:])
        elif word.lstrip("-").isdigit():
            fields["quantity"] = int(word)
        elif word not in ALONE and word != "bands":
            raise ValueError(f"a command has no {word!r}: {line!r}")
    return fields, extension, bands


def band_records(bands: list[tuple[int, int]], event: int) -> list[Any]:
    """BANDS records for (highest price, step) pairs, as many as they need."""
    records = []
    for start in range(0, len(bands), BANDS_PER_RECORD):
        part = bands[start : start + BANDS_PER_RECORD]
        pairs = {f"last_{number}": last for number, (last, _) in enumerate(part, 1)}
        pairs |= {f"step_{number}": step for number, (_, step) in enumerate(part, 1)}
        records.append(Bands(kind=CommandKind.BANDS, count=len(part), event=event, **pairs))
    return records


def ladder_of(lines: list[str]) -> list[Row]:
    """Rows of a drawn ladder, in priority order: bids first."""
    if lines == ["empty"]:
        return []
    rows: tuple[list[Row], list[Row]] = ([], [])
    for line in lines[1:]:
        cells = line.split("|")
        assert 3 == len(cells), f"a ladder's line has three columns, was {line!r}"
        for side, cell in ((Side.BUY, cells[0]), (Side.SELL, cells[2])):
            for entry in cell.split():
                lots, order = entry.split("#")
                shown, _, left = lots.rpartition("/")
                rows[side].append((int(side), int(cells[1]), int(order), int(shown or left), int(left)))
    bids = sorted(rows[Side.BUY], key=lambda row: -row[1])
    return bids + sorted(rows[Side.SELL], key=lambda row: row[1])


def placing(row: Row) -> str:
    """The command that makes a row of a ladder."""
    side, price, order, shown, lots = row
    way = "" if shown == lots else f" display {shown}" if shown else " hidden"
    return f"{Side(side).name.lower()} {lots} @ {price} #{order}{way}"


# -- saying what happened -----------------------------------------------------------------------------------


def spoken(reports: list[Any]) -> list[str]:
    """Reports as the lines of a `then` block; the two reports of a fill make one line, and so do those of a prevention."""
    waiting = iter(reports)
    lines = []
    for report in waiting:
        if report.kind in (ReportKind.FILL_MAKER, ReportKind.PREVENTED):
            lines.append(spoken_pair(report, next(waiting)))
        elif report.kind < ReportKind.LEVEL:
            lines.append(spoken_one(report))
    return lines


def spoken_pair(maker: Any, taker: Any) -> str:
    """The line for what two orders did with each other; the taker's price is said where it is another than the maker's."""
    word = "fill" if maker.kind == ReportKind.FILL_MAKER else "prevent"
    second = ReportKind.FILL_TAKER if word == "fill" else ReportKind.PREVENTED
    assert (second, maker.index + 1) == (taker.kind, taker.index)
    assert maker.quantity == taker.quantity
    marks = ReportFlag.MINT | ReportFlag.BURN
    assert maker.flags & marks == taker.flags & marks
    mark = {0: "", ReportFlag.MINT: " mint", ReportFlag.BURN: " burn"}[maker.flags & marks]
    other = f" @ {taker.price}" if (maker.flags ^ taker.flags) & ReportFlag.NO else ""
    assert other or maker.price == taker.price
    no_maker, no_taker = (" no" if each.flags & ReportFlag.NO else "" for each in (maker, taker))
    return f"{word} {maker.quantity} @ {maker.price} maker{no_maker} #{maker.order} taker{no_taker} #{taker.order}{other}{mark}"


def spoken_one(report: Any) -> str:
    """The line for a report that stands alone; raises ValueError if there is none."""
    name = f" #{report.order}" if report.account else ""  # no account: it is about an event
    reason = f" {Reason(report.reason).name.lower()}" if report.reason else ""
    again = " again" if report.flags & ReportFlag.REPEAT else ""
    at = "" if report.flags & ReportFlag.NO_PRICE else f" @ {report.price}"
    no = " no" if report.flags & ReportFlag.NO else ""
    lots = f"{no}{' money' if report.flags & ReportFlag.MONEY else ''} {report.quantity}"
    lines = {
        ReportKind.ACCEPTED: f"accept{lots}{at}{name}",
        ReportKind.CANCELED: f"cancel{lots}{name}{reason}",
        ReportKind.AMENDED: f"amend{no}{name} total {report.quantity}{at} open {report.leaves}",
        ReportKind.REJECTED: f"reject{name}{reason}",
        ReportKind.TRIGGERED: f"trigger{lots}{at}{name}",
        ReportKind.MASS_CANCELED: f"mass-cancel {report.leaves}",
        ReportKind.EVENT_CREATED: f"create{again}",
        ReportKind.EVENT_SETTLED: f"settle{again} {report.leaves}",
    }
    if report.kind not in lines:
        raise ValueError(f"a scenario has no word for report kind {report.kind}")
    return lines[report.kind]


def told(reports: list[Any]) -> list[str]:
    """LEVEL reports as the lines of a `told` block."""
    return [
        f"{('bid', 'ask')[report.side]} {report.price} shows {report.quantity}"
        for report in reports
        if report.kind == ReportKind.LEVEL
    ]


def waiting_line(row: Any) -> str:
    """An order that waits aside, as a row of RESTING without the event, in the words of the command that makes it."""
    queue, price, order, lots, _, _, _, traits, _, _, _, trigger, trail = row
    side = ("buy", "sell")[queue % 2]
    at = "" if traits & Trait.NO_PRICE else f" @ {price}"
    if traits & Trait.TRAILING:
        return f"{side} {lots} trailing-stop trigger {trigger} trail {trail}{at} #{order}"
    if traits & Trait.STOP:
        return (
            f"{side} {lots} {'stop' if traits & Trait.MARKET else 'stop-limit'} trigger {trigger}{at} #{order}"
        )
    return f"{side} {lots} all-or-none{at} #{order}"


# -- playing ------------------------------------------------------------------------------------------------


class Player:
    """One exchange, and the words that go in and come out of it."""

    def __init__(self, exchange: NaiveExchange | Exchange, levels: LevelKind) -> None:
        """`levels` is the structure of each event that does not say its own."""
        self.exchange = exchange
        self.levels = levels
        self.reports: list[Any] = []

    def run(self, lines: list[str]) -> None:
        """Carry out command lines; `reports` are theirs."""
        records = [
            record for line in lines for each in expanded(line) for record in records_of(each, self.levels)
        ]
        if isinstance(self.exchange, NaiveExchange):
            self.reports = self.exchange.run(records)
        else:
            self.reports = report_tuples(self.exchange.submit(record_array(records)))

    def rows(self) -> list[Any]:
        """Open orders of event 7, as rows of RESTING without the event."""
        if isinstance(self.exchange, NaiveExchange):
            return self.exchange.resting(EVENT)
        return [row[1:] for row in self.exchange.resting(EVENT).tolist()]

    def book(self) -> list[Row]:
        """What rests, as `ladder_of` gives it."""
        return [(row[0], row[1], row[2], row[6], row[3]) for row in self.rows() if row[0] <= Queue.ASKS]

    def waiting(self) -> list[str]:
        """What waits aside, as the lines of a `waiting` block."""
        return [waiting_line(row) for row in self.rows() if row[0] > Queue.ASKS]

    def compare(self, word: str, lines: list[str]) -> None:
        """Raise AssertionError if a block says something else than what is; ValueError if there is no such block."""
        if word == "then":
            agree(word, [each for line in lines for each in expanded(line)], spoken(self.reports))
        elif word == "told":
            agree(word, [] if lines == ["nothing"] else lines, told(self.reports))
        elif word == "book":
            agree(word, [placing(row) for row in ladder_of(lines)], [placing(row) for row in self.book()])
        elif word == "waiting":
            agree(word, [] if lines == ["nothing"] else lines, self.waiting())
        else:
            raise ValueError(f"a scenario has no block {word!r}")


def agree(word: str, drawn: list[str], happened: list[str]) -> None:
    """Raise AssertionError with both, side by side, unless what a block says is what happened."""
    assert drawn == happened, f"{word}: - as drawn, + as it is\n" + "\n".join(ndiff(drawn, happened))


def play(text: str, make: Callable[..., NaiveExchange | Exchange], levels: LevelKind = LevelKind.AUTO) -> int:
    """Run a scenario on a new exchange, compare every block that says what is, and return how many there were."""
    limits: dict[str, int] = {}
    create = CREATE
    player: Player | None = None
    compared = 0
    for word, lines in blocks_of(text):
        if word == "limits":
            limits |= {name: int(value) for name, value in (line.split() for line in lines)}
            continue
        if word == "event":
            create = " ".join(lines)
            continue
        if player is None:
            player = Player(make(limits=Limits(**limits), market_data=True), levels)
            player.run([f"create {create}"])
            assert ["create"] == spoken(player.reports), f"event {EVENT} could not be made"
        if word == "given":
            player.run([placing(row) for row in ladder_of(lines)])
            player.compare("book", lines)
        elif word == "when":
            player.run(lines)
        else:
            player.compare(word, lines)
            compared += 1
    return compared
