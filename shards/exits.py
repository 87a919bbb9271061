"""
Exit codes of Ringpit's processes, after <sysexits.h> where that has one.

The supervisor reads them: a configuration, a foreign log, a refusing broker or another owner does not get better by
trying again, so such a code ends the whole exchange; everything else is started again with back-off.
"""

from enum import IntEnum, unique


@unique
class Exit(IntEnum):
    """Why a process ended."""

    STOPPED = 0  # asked to
    CONFIG = 2  # the configuration or the command line is wrong
    REFUSED = 65  # data that may not be used: damaged log, other version, shared memory of somebody else
    UNAVAILABLE = 69  # a broker is away
    BROKEN = 70  # our own thinking is wrong
    LOG_FAILED = 74  # the log or the output failed in the middle: recover
    FENCED = 75  # another instance owns a shard's log: starting again would take it back
    FELL_BEHIND = 76  # a follower that is of no use any more: the next one begins anew
    INTERRUPTED = 130  # by a signal, before there was a result
