"""
Image of a book: the BOOK_RESET and LEVEL reports that tell a newcomer everything at once.

A worker sends the images of its open books when it starts, so that whoever mirrors depth begins with the
truth. They carry the seq of the last command applied and indices from IMAGE_INDEX up, above those of any
command's own reports, so that their identities never meet those of others.

Fast enough: one visit a level. Slow for books of many thousand levels, which is why it is sent once.
"""

from typing import Final

import numpy as np

from ringpit.engine.digest import open_books
from ringpit.engine.kernels import kernel
from ringpit.engine.ladder import NIL
from ringpit.engine.levels import first_level, next_level
from ringpit.engine.records import REPORT
from ringpit.engine.tables import Cell, Tables
from ringpit.engine.tell import tell_book, tell_level

IMAGE_INDEX: Final = 1 << 30


@kernel
def levels_of(t, book):
    """How many levels of a book show anything."""
    count = 0
    for side in range(2):
        level = first_level(t, book, side)
        while level != NIL:
            count += int(t.levels[level]["quantity"] > 0)
            level = next_level(t, book, side, level)
    return count


@kernel
def draw(t, book, seq, index, reports):
    """Write a book's image into `reports`, whose length is a power of two and enough."""
    t.cells[Cell.OUT] = 0
    t.cells[Cell.SEQ] = seq
    t.cells[Cell.INDEX] = index
    tell_book(t, reports, book)
    for side in range(2):
        level = first_level(t, book, side)
        while level != NIL:
            if t.levels[level]["quantity"] > 0:
                tell_level(t, reports, book, t.levels[level]["price"], side, t.levels[level]["quantity"])
            level = next_level(t, book, side, level)
    return t.cells[Cell.OUT]


def images(t: Tables, seq: int) -> list[np.ndarray]:
    """
    The images of all open books, one REPORT array each, by ascending event id.

    Call it between commands only: it uses the state machine's own report cells.
    """
    drawn = []
    index = IMAGE_INDEX
    for book in open_books(t):
        count = 1 + levels_of(t, book)
        reports = np.zeros(1 << max(count - 1, 0).bit_length(), REPORT)
        drawn.append(reports[: draw(t, book, seq, index, reports)])
        index += count
    return drawn
