"""Whose claims are whose: the data folder's number, and the nonces that carry it."""

import pytest

from ringpit.shards.config import ConfigError, load
from ringpit.shards.instance import NUMBER_MAX, establish, nonce_of, number_of, path_of
from ringpit.wal.reader import KIN_BITS


@pytest.fixture
def config(tmp_path):
    """A configuration with its data in a folder of the test's."""
    return load(None, {"RINGPIT__EXCHANGE__DATA": str(tmp_path)})


def test_the_number_is_drawn_once(config):
    """Before the first start there is none; then it stays, and nothing else is left in the folder."""
    assert 0 == number_of(config)
    establish(config)
    number = number_of(config)
    assert 1 <= number <= NUMBER_MAX
    establish(config)
    assert number == number_of(config)
    assert [path_of(config)] == list(config.data_folder().iterdir())


def test_nonces_are_kin_and_differ(config):
    """All carry the folder's number; without one nobody is kin; none is 0."""
    assert 0 == nonce_of(config) >> KIN_BITS
    establish(config)
    nonces = {nonce_of(config) for _ in range(100)}
    assert {number_of(config)} == {nonce >> KIN_BITS for nonce in nonces}
    assert len(nonces) == 100
    assert 0 not in nonces
    assert all(0 < nonce < 1 << 63 for nonce in nonces)


@pytest.mark.parametrize("text", ["", "0", "-3", "x", str(NUMBER_MAX + 1), "1.5"])
def test_a_file_that_holds_something_else_is_refused(config, text):
    """With the path, the rule, what was found and what to do."""
    path_of(config).write_text(text)
    with pytest.raises(
        ConfigError, match=r"instance: must hold a number from 1 to 2147483647, was .*; remove the file"
    ):
        nonce_of(config)
