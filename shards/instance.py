"""
Whose claims are whose: a number of the data folder's own, and nonces that carry it.

    <data>/instance   a number from 1 to 2**31 - 1, drawn once

A process that is killed while its claim is on its way to a log that is away leaves a claim that arrives later, perhaps before its
successor's own. The log's reader then sees that the epoch is taken, and by whom: whoever shares the data folder is dead or was
replaced, because the folder's lock lets only one exchange live, and is claimed over; anybody else is another owner (reader.py, R8).
A copy of the folder on another host would be kin, too: a second host gets topology.json alone.

Invariant:

    IN1  the file is made by whoever holds the lock of the data folder, whole or not at all, and never changes
"""

import secrets
from pathlib import Path
from typing import Final

from ringpit.shards.config import Config, ConfigError
from ringpit.wal.reader import KIN_BITS

NAME: Final = "instance"
NUMBER_MAX: Final = (1 << 31) - 1


def path_of(config: Config) -> Path:
    """Where a data folder's number is."""
    return config.data_folder() / NAME


def number_of(config: Config) -> int:
    """The data folder's number; 0 before the first start. Raises ConfigError if the file holds none."""
    path = path_of(config)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    if not text.strip().isdecimal() or not 1 <= int(text) <= NUMBER_MAX:
        raise ConfigError(
            f"{path}: must hold a number from 1 to {NUMBER_MAX}, was {text[:20]!r}; remove the file"
        )
    return int(text)


def establish(config: Config) -> None:
    """Draw the number if there is none yet (IN1). Raises OSError if it cannot be written."""
    if number_of(config):
        return
    path = path_of(config)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f"{1 + secrets.randbelow(NUMBER_MAX)}\n")
    unfinished.replace(path)


def nonce_of(config: Config) -> int:
    """A new nonce of a claim: this folder's number above, chance below; never 0."""
    return number_of(config) << KIN_BITS | secrets.randbits(KIN_BITS) | 1
