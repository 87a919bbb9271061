"""
Quotes: best prices and depth of the books in a mirror, as JSON lines.

    {"Seq":90,"Shard":1,"Generation":1,"Kind":"Price","Event":7,"State":"Open","Bid":"0.54","BidTicks":54,
     "BidQuantity":10,"Ask":"0.56","AskTicks":56,"AskQuantity":4,"Last":"0.55","LastTicks":55,
     "LastQuantity":3,"Time":1700000000000000000}
    {"Seq":90,"Shard":1,"Generation":1,"Kind":"Book","Event":7,"State":"Open","Bids":[["0.54",10]],
     "Asks":[["0.56",4]],"Time":1700000000000000000}

Everything is in terms of YES. Each line is absolute: the state after the command "Seq". A reader keeps the one with the largest "Seq" of
an event (of those that no higher epoch has taken back) and needs no other. A side that nobody quotes is left out of a price, and is empty in a book.

Fast here because the levels are found by the bitmap, best first. Slow when books are many and deep: a level costs
about 65 ns, a line 300, so what changed is sent once in an interval, not at every change.
"""

from typing import Final

from ringpit.engine.ladder import NIL
from ringpit.shards.kernels import kernel
from ringpit.shards.mirror import lots_at, next_ask, next_bid, price_at
from ringpit.shards.render import (
    T_ASK,
    T_ASK_LOTS,
    T_ASKS,
    T_BID,
    T_BID_LOTS,
    T_BIDS,
    T_CLOSE,
    T_COMMA,
    T_END,
    T_EVENT,
    T_KIND_BOOK,
    T_KIND_PRICE,
    T_LAST,
    T_LAST_LOTS,
    T_LEVEL,
    T_LOTS,
    T_SEQ,
    T_STATES,
    put,
    put_price,
    put_time,
)
from ringpit.shards.text import DECIMAL_BYTES_MAX, INTEGER_BYTES_MAX, put_decimal, put_integer

HEAD_BYTES_MAX: Final = 1_024  # a line without its levels: far above the sum of its texts and numbers
LEVEL_BYTES_MAX: Final = len(',["",]') + DECIMAL_BYTES_MAX + INTEGER_BYTES_MAX


def quote_bytes_max(depth: int) -> int:
    """Bytes that no line of a price or book exceeds, with up to `depth` levels a side."""
    return HEAD_BYTES_MAX + 2 * depth * LEVEL_BYTES_MAX


@kernel
def put_head(s, m, book, kind, out, at):
    """Begin a line: of what, of which event, and the state after which command."""
    at = put(s, T_SEQ, out, at)
    at = put_integer(m.books[book]["seq"], out, at)
    at = put(s, kind, out, at)
    at = put(s, T_EVENT, out, at)
    at = put_integer(m.books[book]["event"], out, at)
    return put(s, T_STATES + m.books[book]["state"], out, at)


@kernel
def put_tail(s, m, book, out, at):
    """End a line."""
    at = put_time(s, m.books[book]["updated_ns"], out, at)
    return put(s, T_END, out, at)


@kernel
def put_best(s, m, book, level, price, lots, out, at):
    """Write a best price and the lots there under the names in two texts; nothing if there is none."""
    if level == NIL:
        return at
    at = put_price(s, m.books, book, price, price_at(m, book, level), out, at)
    at = put(s, lots, out, at)
    return put_integer(abs(lots_at(m, book, level)), out, at)


@kernel
def put_quote(s, m, book, out, at):
    """Write the line of a book's best prices and last trade."""
    at = put_head(s, m, book, T_KIND_PRICE, out, at)
    at = put_best(s, m, book, m.books[book]["best_bid"], T_BID, T_BID_LOTS, out, at)
    at = put_best(s, m, book, m.books[book]["best_ask"], T_ASK, T_ASK_LOTS, out, at)
    if m.books[book]["last_quantity"] > 0:
        at = put_price(s, m.books, book, T_LAST, m.books[book]["last_price"], out, at)
        at = put(s, T_LAST_LOTS, out, at)
        at = put_integer(m.books[book]["last_quantity"], out, at)
    return put_tail(s, m, book, out, at)


@kernel
def put_side(s, m, book, bids, depth, out, at):
    """Write up to `depth` levels of a side, best first."""
    at = put(s, T_BIDS if bids else T_ASKS, out, at)
    level = m.books[book]["best_bid"] if bids else m.books[book]["best_ask"]
    for i in range(depth):
        if level == NIL:
            break
        if i > 0:
            at = put(s, T_COMMA, out, at)
        at = put(s, T_LEVEL, out, at)
        ticks = price_at(m, book, level)
        at = put_decimal(ticks * m.books[book]["tick_units"], m.books[book]["decimals"], out, at)
        at = put(s, T_LOTS, out, at)
        at = put_integer(abs(lots_at(m, book, level)), out, at)
        at = put(s, T_CLOSE, out, at)
        level = next_bid(m, book, level) if bids else next_ask(m, book, level)
    return put(s, T_CLOSE, out, at)


@kernel
def put_book(s, m, book, depth, out, at):
    """Write the line of a book's depth."""
    at = put_head(s, m, book, T_KIND_BOOK, out, at)
    at = put_side(s, m, book, True, depth, out, at)
    at = put_side(s, m, book, False, depth, out, at)
    return put_tail(s, m, book, out, at)


@kernel
def render_quotes(s, m, books, count, depth, out, ends):
    """
    Write the lines of `count` book slots, books with `depth` levels or, with depth 0, prices; ends[i] is
    where the i-th line ends.

    Args: `out` uint8 with room for `quote_bytes_max(depth)` a book and SLACK_BYTES.
    Returns the bytes written.
    """
    at = 0
    for i in range(count):
        if depth > 0:
            at = put_book(s, m, books[i], depth, out, at)
        else:
            at = put_quote(s, m, books[i], out, at)
        ends[i] = at
    return at
