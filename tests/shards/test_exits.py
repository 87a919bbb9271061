"""Exit codes: what the supervisor and the shell learn from them."""

import os

from ringpit.shards.exits import Exit
from ringpit.shards.supervisor import exit_of


def test_codes_are_those_of_the_system():
    """Where <sysexits.h> has a code, ours is the same; 0 is a clean stop, 2 what command lines use, 130 SIGINT."""
    assert Exit.STOPPED == os.EX_OK
    assert Exit.CONFIG == 2
    assert Exit.REFUSED == os.EX_DATAERR
    assert Exit.UNAVAILABLE == os.EX_UNAVAILABLE
    assert Exit.BROKEN == os.EX_SOFTWARE
    assert Exit.LOG_FAILED == os.EX_IOERR
    assert Exit.FENCED == os.EX_TEMPFAIL
    assert Exit.INTERRUPTED == 128 + 2


def test_a_code_of_ours_is_passed_on():
    """The exchange ends as the process did that made it end."""
    assert [Exit.CONFIG, Exit.REFUSED, Exit.LOG_FAILED] == [exit_of(code) for code in (2, 65, 74)]


def test_a_signal_or_a_foreign_code_means_broken():
    """A process that was killed, or ended with a code that nobody here uses, was not asked to: never 0."""
    assert [Exit.BROKEN] * 3 == [exit_of(code) for code in (-9, 1, 255)]
