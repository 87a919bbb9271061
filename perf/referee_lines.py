"""
From the engine's reports to the lines of the referee's oracle.

    ACCEPTED                 0 accepted     REJECTED of a cancel   4
    FILL_MAKER, FILL_TAKER   1 trade        REJECTED of a modify   5
    CANCELED                 2 cancelled    AMENDED                3 modified, its quantity the open lots

`seq` of a report is the number of its message. Fast because the text is written by a kernel, into one array of bytes:
about a second for two million reports. The lines' meanings are in referee_oracle.py.
"""

import hashlib
from typing import Final

import numpy as np
from numba import njit

from ringpit.engine.codes import ReportKind
from ringpit.perf import referee_oracle as oracle
from ringpit.perf.referee_flow import CANCEL, Messages

VALUES: Final = (4, 4, 3, 4, 1, 1)  # numbers on a line behind type and seq, by type
NUMBER_BYTES_MAX: Final = 20
COMMA, NEWLINE, ZERO = b",\n0"
TYPES: Final = {
    ReportKind.ACCEPTED: oracle.ACCEPTED,
    ReportKind.FILL_MAKER: oracle.TRADE,
    ReportKind.CANCELED: oracle.CANCELED,
    ReportKind.AMENDED: oracle.MODIFIED,
    ReportKind.REJECTED: oracle.CANCEL_REJECTED,
}


def lines_of(reports: np.ndarray, flow: Messages) -> bytes:
    """
    The text of all reports, as `Oracle.text` gives it.

    Args:
        reports: REPORT array in the order in which they were made.
        flow: The messages that caused them; message i has seq i.

    Raises ValueError for a report that the referee has no line for, or half a trade.
    """
    rows = rows_of(reports, flow)
    order = np.lexsort((rows[:, 0], rows[:, 1]))
    text = np.empty(len(rows) * rows.shape[1] * NUMBER_BYTES_MAX // 2, np.uint8)
    return bytes(text[: _write_lines(rows, order, np.array(VALUES), text)].data)


def digest(reports: np.ndarray, flow: Messages) -> str:
    """SHA-256 of the lines, in hexadecimal."""
    return hashlib.sha256(lines_of(reports, flow)).hexdigest()


def rows_of(reports: np.ndarray, flow: Messages) -> np.ndarray:
    """int64 rows: type, seq, and up to four values, one row a line, in the order of the reports."""
    takers = np.flatnonzero(reports["kind"] == ReportKind.FILL_TAKER)
    makers = np.flatnonzero(reports["kind"] == ReportKind.FILL_MAKER)
    if len(takers) != len(makers) or (takers != makers + 1).any():
        raise ValueError("every FILL_MAKER must be followed by its FILL_TAKER")
    types = np.full(128, -1)
    types[[int(kind) for kind in TYPES]] = list(TYPES.values())
    taker_of = np.zeros(len(reports), np.int64)
    taker_of[makers] = reports["order"][takers]
    told = reports["kind"] != ReportKind.FILL_TAKER
    reports, taker_of = reports[told], taker_of[told]
    rows = np.zeros((len(reports), 6), np.int64)
    rows[:, 0], rows[:, 1] = types[reports["kind"]], reports["seq"]
    if (rows[:, 0] < 0).any():
        kind = reports["kind"][rows[:, 0] < 0][0]
        raise ValueError(f"the referee has no line for a report {ReportKind(kind).name}")
    rejected = rows[:, 0] == oracle.CANCEL_REJECTED
    rows[rejected & (flow.kind[reports["seq"]] != CANCEL), 0] = oracle.MODIFY_REJECTED
    for kind, values in (
        (oracle.ACCEPTED, ("side", "order", "price", "quantity")),
        (oracle.TRADE, ("price", "quantity", "order")),
        (oracle.CANCELED, ("side", "order", "price")),
        (oracle.MODIFIED, ("side", "order", "price", "leaves")),
        (oracle.CANCEL_REJECTED, ("order",)),
        (oracle.MODIFY_REJECTED, ("order",)),
    ):
        chosen = rows[:, 0] == kind
        for column, name in enumerate(values, 2):
            rows[chosen, column] = reports[name][chosen]
    trades = rows[:, 0] == oracle.TRADE
    rows[trades, 5] = taker_of[trades]
    return rows


@njit(cache=True)
def _write_lines(rows, order, values, text):
    """Write the rows in an order, without a line feed at the end; the number of bytes."""
    at = 0
    for row in order:
        if at > 0:
            text[at] = NEWLINE
            at += 1
        for column in range(2 + values[rows[row, 0]]):
            if column > 0:
                text[at] = COMMA
                at += 1
            at = _write_number(rows[row, column], text, at)
    return at


@njit(cache=True)
def _write_number(number, text, at):
    """Write a number that is not negative in decimal digits; the position behind it."""
    digits = 1
    rest = number // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for digit in range(digits):
        text[at + digits - 1 - digit] = ZERO + number % 10
        number //= 10
    return at + digits
