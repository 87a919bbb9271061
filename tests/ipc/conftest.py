"""What the tests of `ipc/` share: names for segments, and the check that none is left."""

import itertools
import os

import pytest

from ringpit.ipc import segment

_numbers = itertools.count()


@pytest.fixture
def segment_name():
    """A name that no other test and no other run uses."""
    return f"ringpit-test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(autouse=True)
def nothing_left_in_shared_memory():
    """No test leaves a segment of its own behind."""
    yield
    left = segment.remove_stale(f"ringpit-test-{os.getpid()}-")
    assert [] == left
