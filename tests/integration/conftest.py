"""What the tests of a whole exchange share: exchanges that end with their test."""

import itertools
import os

import pytest

from ringpit.testing.exchange import RunningExchange

NUMBERS = itertools.count(1)


@pytest.fixture
def make_exchange(tmp_path):
    """Make exchanges of names that no other run uses, from sections of a configuration."""
    made = []

    def make(**sections):
        number = next(NUMBERS)
        folder = tmp_path / f"exchange-{number}"
        folder.mkdir()
        settings = {"exchange": {"name": f"test-{os.getpid()}-{number}", "shards": 2}, **sections}
        made.append(RunningExchange(folder, settings))
        return made[-1]

    yield make
    for exchange in made:
        exchange.close()
