"""Topology: which generation counts, where its files are, and a configuration that says otherwise."""

import json
from pathlib import Path

import pytest

from ringpit.shards import faults
from ringpit.shards.config import ConfigError, load
from ringpit.shards.faults import Crash, Step
from ringpit.shards.processes import kafka_settings
from ringpit.shards.topology import Topology, established, path_of, read, resolved, write


@pytest.fixture
def config_with(tmp_path):
    """A configuration with its data in a folder of the test's."""

    def make(**keys):
        environment = {"RINGPIT__EXCHANGE__DATA": str(tmp_path / "data"), "RINGPIT__EXCHANGE__SHARDS": "2"}
        (tmp_path / "data").mkdir(exist_ok=True)
        return load(None, environment | {f"RINGPIT__{key}": value for key, value in keys.items()})

    return make


def test_the_first_start_writes_it_down(config_with):
    """Whoever only looks changes nothing; a start does, once; afterwards the file decides."""
    config = config_with()
    assert (1, None) == (resolved(config).exchange.generation, read(config))
    assert 1 == established(config).exchange.generation
    assert {"generation": 1, "shards": 2} == json.loads(path_of(config).read_text())
    write(config, Topology(7, 2))
    assert [7, 7] == [find(config).exchange.generation for find in (resolved, established)]
    assert Topology(7, 2) == read(config)


def test_a_generation_has_places_of_its_own(config_with):
    """The first one's places have no number; those of a later one have."""
    config = config_with(LOG__FOLDER="/logs", KAFKA__TOPIC="orders")
    first = resolved(config)
    write(config, Topology(2, 2))
    second = resolved(config)
    assert (Path("/logs"), Path("/logs/generation-0002")) == (first.log_folder(), second.log_folder())
    snapshots = config.data_folder() / "snapshots"
    assert (snapshots, snapshots / "generation-0002") == (first.snapshots_folder(), second.snapshots_folder())
    assert ["orders", "orders.2"] == [kafka_settings(each).topic for each in (first, second)]


def test_other_shards_are_refused_with_the_way_to_them(config_with):
    """Started with fewer shards than it has, an exchange would not know the events of the others."""
    established(config_with())
    rule = r"SHARDS: \$\.exchange\.shards is 3, but .* has 2 .*generation 1\): write 2, .*`ringpit reshard --shards 3`"
    for find in (resolved, established):
        with pytest.raises(ConfigError, match=rule):
            find(config_with(EXCHANGE__SHARDS="3"))


def test_another_generation_is_refused(config_with):
    """A number in the configuration may only repeat what counts; before the first start that is 1."""
    for generation, other in (("1", "2"), ("2", "1")):
        rule = rf"generation must be {generation}, which counts by .*, or 0 .*, was {other}; leave it out"
        with pytest.raises(ConfigError, match=rule):
            resolved(config_with(EXCHANGE__GENERATION=other))
        assert int(generation) == resolved(config_with(EXCHANGE__GENERATION=generation)).exchange.generation
        write(config_with(), Topology(2, 2))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"generation":1}', '{"generation":0,"shards":2}', '{"generation":1,"shards":65}', "\xff"],
)
def test_a_file_that_says_nothing_is_refused(config_with, text):
    """It is never guessed which logs count."""
    path_of(config_with()).write_bytes(text.encode("latin-1"))
    for find in (resolved, established):
        with pytest.raises(
            ConfigError, match=r'topology\.json: must be like \{"generation":1,"shards":2\} .* restore it'
        ):
            find(config_with())


def test_a_log_in_memory_has_no_topology(config_with):
    """Nothing of it lasts, so any number of shards may come next."""
    assert 1 == established(config_with(LOG__KIND="memory")).exchange.generation
    assert not path_of(config_with()).exists()


def test_logs_without_their_topology_are_refused(config_with):
    """A later generation must not be taken for the first one, nor the log of a missing shard be overlooked."""
    config = resolved(config_with())
    for shard in range(3):
        (config.log_folder() / f"shard-{shard:04}").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"shards is 2, but .*shard-0002 is of shard 2.* start with 3 shards or more"
    ):
        established(config_with())
    assert 1 == established(config_with(EXCHANGE__SHARDS="3")).exchange.generation
    path_of(config).unlink()
    (config.snapshots_folder() / "generation-0002" / "shard-0000").mkdir(parents=True)
    rule = r"topology\.json is missing, but .*generation-0002 is there, which is of generation 2: restore it"
    with pytest.raises(ConfigError, match=rule):
        established(config_with(EXCHANGE__SHARDS="3"))
    assert read(config) is None


@pytest.mark.parametrize(("step", "counts"), [(Step.TOPOLOGY_WRITTEN, 1), (Step.TOPOLOGY_COUNTS, 2)])
def test_killed_in_the_middle_the_old_or_the_new_one_counts(config_with, monkeypatch, step, counts):
    """Written under another name it does not count; a leftover of that is no hindrance."""
    config = config_with()
    established(config)
    monkeypatch.setattr(faults, "armed", faults.Armed(step, 0, 1))
    with pytest.raises(Crash):
        write(config, Topology(2, 2))
    assert counts == resolved(config).exchange.generation
    write(config, Topology(3, 2))
    assert Topology(3, 2) == read(config)
