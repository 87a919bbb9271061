"""
Reports and trades as JSON lines, written by a kernel into a preallocated buffer.

A line is a *program*: steps of (constant text, what to write behind it), one program per kind of report, all
from the one table LINES. A script is these programs with their texts for one shard.

    {"Seq":12,"Index":0,"Shard":1,"Generation":1,"Kind":"Accepted","Event":7,"OrderID":5,"Account":3,
     "Side":"Buy","Price":"0.55","PriceTicks":55,"Quantity":10,"Leaves":10,"Time":1700000000000000000}
    {"Seq":13,"Index":2,"Shard":1,"Generation":1,"Kind":"FillTaker","Event":7,"OrderID":6,"Account":4,"Side":"Buy",
     "Outcome":"NO","Price":"0.45","PriceTicks":45,"Quantity":4,"Leaves":0,"FillKind":"Mint","Time":1700000000000000001}

"Price" is a string with the event's number of decimals, always all of them, exact; it is left out where
the event's tick is unknown and where a refused price is too large to be one. "Time" is the engine's, in ns since the
epoch. Fields that say nothing for a kind are left out. Numbers are JSON integers up to 64 bits: a reader
that holds numbers as doubles (JavaScript) must parse ids above 2**53 itself, or not use such ids; the input
takes ids as strings too. A report is in its order's own terms; "Outcome" is left out where it is YES. Where money is meant
instead of lots, "Money" (decimal) and "MoneyTicks" (ticks x lots) stand for "Quantity", "MoneyLeft" and "MoneyLeftTicks" for "Leaves".
A trade is told by its taker's report, without order and account, and in terms of YES; as the taker told it, with its Outcome, only
where the event is not known any more.

Fast here because nothing is allocated or looked up by name, and the longest line is known beforehand, so
no step checks for room. Slow: the bytes themselves, about 200 and 300 ns a report; the packed encoding (`gather`) is a copy of 64.
"""

from typing import Final, NamedTuple

import numpy as np

from ringpit.engine.codes import EventState, Reason, ReportFlag, ReportKind, Side
from ringpit.engine.ladder import NIL
from ringpit.engine.limits import PRICE_TICKS_MAX
from ringpit.engine.records import RECORD_BYTES, REPORT
from ringpit.shards.kernels import kernel, leaf
from ringpit.shards.text import (
    DECIMAL_BYTES_MAX,
    INTEGER_BYTES_MAX,
    SLACK_BYTES,
    put_decimal,
    put_integer,
    put_text,
)

TICK_UNITS_MAX: Final = (1 << 62) // PRICE_TICKS_MAX  # above it a price in units may not fit an int64
WORDS: Final = RECORD_BYTES // 8  # a report as int64 words
WORD: Final = {name: REPORT.fields[name][1] // 8 for name in REPORT.names or ()}  # type: ignore[index]  # numpy types fields as optional
ORDER_WORD, ACCOUNT_WORD, LEAVES_WORD = WORD["order"], WORD["account"], WORD["leaves"]
KIND_WORD, PRICE_WORD = 0, WORD["price"]
SIDE_BIT: Final = 1 << 8 * REPORT.fields["side"][1]  # type: ignore[index]  # of the word that holds the kind
FLAGS_SHIFT: Final = 8 * REPORT.fields["flags"][1]  # type: ignore[index]  # as above
NO_PRICE: Final = int(ReportFlag.NO_PRICE)
NO, MONEY = int(ReportFlag.NO), int(ReportFlag.MONEY)
MINT, BURN = int(ReportFlag.MINT), int(ReportFlag.BURN)
MONEY_UNITS_MAX: Final = 1 << 62  # money of more units is told in ticks only
REPEAT: Final = int(ReportFlag.REPEAT)
TRADE: Final = 0  # program number of trades; reports have their kind's

# What a step writes behind its constant text.
END, INTEGER, INDEX, SIDE, REASON, PRICE, AGAIN, TIME, AMOUNT, LEFT, FILL_KIND = range(11)

EVENT: Final = (',"Event":', INTEGER, "event")
OWNER: Final = ((',"OrderID":', INTEGER, "order"), (',"Account":', INTEGER, "account"), ("", SIDE, None))
LOTS: Final = (("", PRICE, None), (',"Quantity":', INTEGER, "quantity"))
TERMS: Final = (("", PRICE, None), ("", AMOUNT, None))
LEAVES: Final = ("", LEFT, None)
HOW: Final = ("", FILL_KIND, None)
WHY: Final = ("", REASON, None)
AGAIN_STEP: Final = ("", AGAIN, None)

# For each program: the line's "Kind", and the fields behind it.
LINES: Final = {
    TRADE: ("Trade", (EVENT, ("", SIDE, None), *LOTS, HOW)),
    ReportKind.ACCEPTED: ("Accepted", (EVENT, *OWNER, *TERMS, LEAVES)),
    ReportKind.FILL_MAKER: ("FillMaker", (EVENT, *OWNER, *LOTS, LEAVES, HOW)),
    ReportKind.FILL_TAKER: ("FillTaker", (EVENT, *OWNER, *LOTS, LEAVES, HOW)),
    ReportKind.CANCELED: ("Canceled", (EVENT, *OWNER, *TERMS, LEAVES, WHY)),
    ReportKind.AMENDED: ("Amended", (EVENT, *OWNER, *LOTS, LEAVES)),
    ReportKind.TRIGGERED: ("Triggered", (EVENT, *OWNER, *LOTS, LEAVES)),
    ReportKind.PREVENTED: ("Prevented", (EVENT, *OWNER, *LOTS, LEAVES, WHY)),
    ReportKind.MASS_CANCELED: (
        "MassCanceled",
        (
            EVENT,
            (',"Account":', INTEGER, "account"),
            ("", SIDE, None),
            (',"Group":', INTEGER, "order"),
            (',"OrdersCanceled":', INTEGER, "leaves"),
        ),
    ),
    ReportKind.REJECTED: ("Rejected", (EVENT, *OWNER, *TERMS, WHY)),
    ReportKind.EVENT_CREATED: (
        "EventCreated",
        (
            EVENT,
            (',"LowTicks":', INTEGER, "price"),
            (',"HighTicks":', INTEGER, "quantity"),
            (',"PayoutTicks":', INTEGER, "leaves"),
            (',"TickUnits":', INTEGER, "order"),
            (',"Decimals":', INTEGER, "account"),
            AGAIN_STEP,
        ),
    ),
    ReportKind.EVENT_SETTLED: (
        "EventSettled",
        (EVENT, (',"OrdersCanceled":', INTEGER, "leaves"), AGAIN_STEP),
    ),
    ReportKind.DUPLICATE: (
        "Duplicate",
        (EVENT, (',"FirstSeq":', INTEGER, "order"), (',"Commands":', INTEGER, "leaves")),
    ),
}

# Texts that kernels ask for by number: first these, then one for each member of the enums below.
(
    T_PRICE, T_PRICE_TICKS, T_BID, T_BID_TICKS, T_BID_LOTS, T_ASK, T_ASK_TICKS, T_ASK_LOTS, T_LAST, T_LAST_TICKS,
    T_LAST_LOTS, T_QUOTE, T_REPEAT, T_TIME, T_SEQ, T_EVENT, T_BIDS, T_ASKS, T_COMMA, T_LEVEL, T_LOTS, T_CLOSE, T_END,
    T_QUANTITY, T_LEAVES, T_MONEY, T_MONEY_TICKS, T_MONEY_LEFT, T_MONEY_LEFT_TICKS, T_NO, T_TRANSFER, T_MINT, T_BURN,
    T_KIND_PRICE, T_KIND_BOOK, T_SIDES,
) = range(36)  # fmt: skip
TEXTS: Final = (
    ',"Price":"', ',"PriceTicks":', ',"Bid":"', ',"BidTicks":', ',"BidQuantity":', ',"Ask":"', ',"AskTicks":',
    ',"AskQuantity":', ',"Last":"', ',"LastTicks":', ',"LastQuantity":', '"', ',"Repeat":true', ',"Time":', '{"Seq":',
    ',"Event":', ',"Bids":[', ',"Asks":[', ",", '["', '",', "]", "}\n", ',"Quantity":', ',"Leaves":', ',"Money":"',
    ',"MoneyTicks":', ',"MoneyLeft":"', ',"MoneyLeftTicks":', ',"Outcome":"NO"', ',"FillKind":"Transfer"',
    ',"FillKind":"Mint"', ',"FillKind":"Burn"',
)  # fmt: skip
ENUMS: Final = (("Side", Side, str.title), ("Reason", Reason, str), ("State", EventState, str.title))
T_REASONS: Final = T_SIDES + max(Side) + 1
T_STATES: Final = T_REASONS + max(Reason) + 1
REASONS: Final = max(Reason) + 1


class Script(NamedTuple):
    """Everything a kernel needs to write one shard's lines."""

    text: np.ndarray  # uint8: all texts, one behind the other
    begin: np.ndarray  # int64 x texts: where a text begins
    length: np.ndarray  # int64 x texts: its bytes
    program: np.ndarray  # int64 x programs x steps x 3: text, what to write behind it, word of the report


def make_script(shard: int, generation: int, *, epoch: int = 0, epoch_seq: int = 0) -> Script:
    """
    Texts and programs for one shard.

    Args:
        epoch: Above 0: reports are released before the log has them; each line says so ("Provisional",
            "Epoch"), as what a crash takes from the log may come again with other content.
        epoch_seq: What lower epochs said of seqs above it is taken back ("EpochSeq").
    """
    where = f',"Shard":{shard},"Generation":{generation}'
    if epoch:
        where += f',"Provisional":true,"Epoch":{epoch},"EpochSeq":{epoch_seq}'
    texts = [*TEXTS, f'{where},"Kind":"Price"', f'{where},"Kind":"Book"']
    for name, members, spelled in ENUMS:
        names = {int(member): f',"{name}":"{spelled(member.name)}"' for member in members}
        texts += [names.get(number, "") for number in range(max(members) + 1)]
    steps_max = max(len(fields) for _, fields in LINES.values()) + 4
    program = np.zeros((max(LINES) + 1, steps_max, 3), np.int64)
    for kind, (name, ((text, *first), *fields)) in LINES.items():
        head = (
            ('{"Seq":', INTEGER, "seq"),
            (',"Index":', INDEX, None),
            (f'{where},"Kind":"{name}"{text}', *first),
        )
        for number, (words, step, field) in enumerate((*head, *fields, ("", TIME, None), ("}\n", END, None))):
            program[kind, number] = (len(texts), step, WORD[field] if field else 0)
            texts.append(words)
    encoded = [text.encode() for text in texts]
    length = np.array([*map(len, encoded)], np.int64)
    joined = np.frombuffer(b"".join(encoded) + bytes(SLACK_BYTES), np.uint8)
    return Script(joined, np.cumsum(length) - length, length, program)


def line_bytes_max(script: Script) -> int:
    """Bytes that no line of a report or trade exceeds."""
    numbers = DECIMAL_BYTES_MAX + INTEGER_BYTES_MAX
    price, money, left = (
        int(script.length[[text, text + 1, T_QUOTE]].sum()) + numbers
        for text in (T_PRICE, T_MONEY, T_MONEY_LEFT)
    )
    written = {
        END: 0,
        INTEGER: INTEGER_BYTES_MAX,
        INDEX: INTEGER_BYTES_MAX,
        SIDE: int(script.length[T_SIDES:T_REASONS].max() + script.length[T_NO]),
        REASON: int(script.length[T_REASONS:T_STATES].max()),
        PRICE: price,
        AGAIN: int(script.length[T_REPEAT]),
        TIME: int(script.length[T_TIME]) + INTEGER_BYTES_MAX,
        AMOUNT: money,
        LEFT: left,
        FILL_KIND: int(script.length[T_TRANSFER : T_BURN + 1].max()),
    }
    return max(
        sum(int(script.length[text]) + written[step] for text, step, _ in script.program[program].tolist())
        for program in LINES
    )


def words_of(slots: np.ndarray) -> np.ndarray:
    """REPORT records as int64 words, int64 x n x 8, sharing memory."""
    return slots.view(np.int64).reshape(-1, WORDS)


@kernel
def put(s, number, out, at):
    """Write one of the script's texts; where it ends."""
    return put_text(s.text, s.begin[number], s.length[number], out, at)


@leaf
def put_price(s, books, book, number, ticks, out, at):
    """Write a price under the name in a text, as a decimal if it can be one, then as ticks under the next text's."""
    if (
        book != NIL
        and -PRICE_TICKS_MAX <= ticks <= PRICE_TICKS_MAX
        and books[book]["tick_units"] <= TICK_UNITS_MAX
    ):
        at = put(s, number, out, at)
        at = put_decimal(ticks * books[book]["tick_units"], books[book]["decimals"], out, at)
        at = put(s, T_QUOTE, out, at)
    at = put(s, number + 1, out, at)
    return put_integer(ticks, out, at)


@kernel
def put_money(s, books, book, number, amount, out, at):
    """Write money as `put_price` writes a price: ticks x lots are as many ticks of money."""
    if book != NIL and books[book]["tick_units"] > 0:
        most = MONEY_UNITS_MAX // books[book]["tick_units"]
        if -most <= amount <= most:
            at = put(s, number, out, at)
            at = put_decimal(amount * books[book]["tick_units"], books[book]["decimals"], out, at)
            at = put(s, T_QUOTE, out, at)
    at = put(s, number + 1, out, at)
    return put_integer(amount, out, at)


@kernel
def put_amount(s, books, book, flags, lots, money, amount, out, at):
    """Write an amount under the name in text `lots`, or as money under those of `money`."""
    if flags & MONEY:
        return put_money(s, books, book, money, amount, out, at)
    at = put(s, lots, out, at)
    return put_integer(amount, out, at)


@kernel
def put_time(s, time_ns, out, at):
    """Write the engine time, if it is known; where it ends."""
    if time_ns == 0:
        return at
    at = put(s, T_TIME, out, at)
    return put_integer(time_ns, out, at)


@kernel
def turned_price(books, book, price):
    """A price of NO in terms of YES, or the other way round: where there is NO, lowest and highest make the payout."""
    return books[book]["low"] + books[book]["high"] - price


@leaf
def put_side(s, side, flags, turned, out, at):
    """Write the side, unless it is both, and the outcome, unless it is YES; of the other outcome if `turned`."""
    if side > 1:
        return at
    at = put(s, T_SIDES + (side & 1 ^ turned), out, at)
    return put(s, T_NO, out, at) if flags & NO and not turned else at


@leaf
def put_step(s, books, slots, slot, step, book, frame_ns, turned, out, at):
    """Write what a step other than INTEGER and END stands for, if there is something to say; where it ends."""
    flags = slots[slot]["flags"]
    if step == INDEX:
        return put_integer(np.int64(slots[slot]["index"]), out, at)
    if step == SIDE:
        return put_side(s, np.int64(slots[slot]["side"]), flags, turned, out, at)
    if step == PRICE:
        if flags & NO_PRICE:
            return at
        price = slots[slot]["price"]
        return put_price(
            s, books, book, T_PRICE, turned_price(books, book, price) if turned else price, out, at
        )
    if step == AMOUNT:
        return put_amount(s, books, book, flags, T_QUANTITY, T_MONEY, slots[slot]["quantity"], out, at)
    if step == LEFT:
        return put_amount(s, books, book, flags, T_LEAVES, T_MONEY_LEFT, slots[slot]["leaves"], out, at)
    if step == FILL_KIND:
        return put(s, T_MINT if flags & MINT else T_BURN if flags & BURN else T_TRANSFER, out, at)
    if step == REASON:
        reason = slots[slot]["reason"]
        return put(s, T_REASONS + reason, out, at) if 0 < reason < REASONS else at
    if step == TIME:
        return put_time(s, frame_ns, out, at)
    return put(s, T_REPEAT, out, at) if flags & REPEAT else at


@leaf
def put_line(s, books, slots, words, slot, kind, book, frame_ns, out, at):
    """Write the line of one report by its kind's program; where it ends."""
    turned = kind == TRADE and book != NIL and slots[slot]["flags"] & NO != 0
    number = 0
    while True:
        at = put(s, s.program[kind, number, 0], out, at)
        step = s.program[kind, number, 1]
        if step == INTEGER:
            at = put_integer(words[slot, s.program[kind, number, 2]], out, at)
        elif step == END:
            return at
        else:
            at = put_step(s, books, slots, slot, step, book, frame_ns, turned, out, at)
        number += 1


@kernel
def render(s, m, slots, words, picks, batches, groups, trades, out, ends):
    """
    Write the lines of all groups one behind the other; ends[g] is where group g's lines end.

    Args: `out` uint8 with room for `line_bytes_max` a pick and SLACK_BYTES; `trades`: as trades, not reports.
    Returns the bytes written.
    """
    at = 0
    for g in range(groups):
        for i in range(batches.start[g], batches.start[g + 1]):
            pick = batches.order[i]
            slot = picks.position[pick] & (slots.shape[0] - 1)
            kind = TRADE if trades else np.int64(slots[slot]["kind"])
            at = put_line(s, m.books, slots, words, slot, kind, picks.book[pick], picks.frame_ns[pick], out, at)
        ends[g] = at
    return at


@kernel
def gather(m, words, picks, batches, groups, trades, records, ends):
    """
    Copy the reports of all groups one behind the other, as int64 words; ends[g] is the byte where group g's end.

    Trades go in terms of YES, and without order, account and leaves, which are their owners' business. Returns the
    bytes written.
    """
    for i in range(batches.start[groups]):
        pick = batches.order[i]
        slot = picks.position[pick] & (words.shape[0] - 1)
        for word in range(WORDS):
            records[i, word] = words[slot, word]
        if trades:
            hide_owner(m.books, picks.book[pick], records, i)
    for g in range(groups):
        ends[g] = batches.start[g + 1] * RECORD_BYTES
    return batches.start[groups] * RECORD_BYTES


@kernel
def hide_owner(books, book, records, i):
    """Make a taker's report a trade."""
    records[i, ORDER_WORD] = 0
    records[i, ACCOUNT_WORD] = 0
    records[i, LEAVES_WORD] = 0
    word = records[i, KIND_WORD]
    if word & NO << FLAGS_SHIFT and book != NIL:
        records[i, PRICE_WORD] = turned_price(books, book, records[i, PRICE_WORD])
        word = (word ^ SIDE_BIT) & ~(NO << FLAGS_SHIFT)
    records[i, KIND_WORD] = word & ~(MONEY << FLAGS_SHIFT)
