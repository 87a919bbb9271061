"""The benchmark of take-over, at a size of moments: real processes, killed twice with a follower and twice without."""

import json

import pytest

from ringpit.perf import __main__ as command_line
from ringpit.perf.takeover import BOUNDS_US, TakeOver, figures_of

KILLS = 2


def test_distances_are_those_between_the_words():
    """Each in microseconds, from where its name says to where its name says; without freeze there are two."""
    followed = TakeOver(1_000, 3_000, 3_500, 6_000, 11_000, lag_records=7)
    wanted = {
        "death_to_match": 5.0,
        "death_to_durable": 10.0,
        "death_to_freeze": 2.0,
        "freeze_to_sequenced": 0.5,
    }
    assert wanted == followed.distances_us()
    alone = followed._replace(frozen_ns=0, sequenced_ns=0)
    assert {"death_to_match": 5.0, "death_to_durable": 10.0} == alone.distances_us()


def test_figures_tell_the_middle_and_the_ends():
    """Median, largest, and how many lie under each bound, of three take-overs."""
    figures = figures_of(
        [TakeOver(0, 0, 0, spent_ns, spent_ns, lag) for spent_ns, lag in ((40_000, 0), (90_000, 3), (10**9, 5))]
    )
    assert (90.0, 10**6) == (figures["death_to_match_us_p50"], figures["death_to_match_us_max"])
    assert [1, 2, 2] == [figures[f"death_to_match_under_{bound}_us"] for bound in BOUNDS_US[:3]]
    assert (3, 5) == (figures["lag_records_p50"], figures["lag_records_max"])


@pytest.mark.compiled
def test_every_kill_is_followed_by_a_new_leader(tmp_path):
    """With a follower and without: as many take-overs as kills, each with its times in order."""
    results = tmp_path / "takeover.jsonl"
    sizes = ["--kills", str(KILLS), "--heartbeats", "250,0", "--rate", "2000", "--frame", "10"]
    assert 0 == command_line.main(["takeover", "--results", str(results), "--folder", str(tmp_path), *sizes])
    followed, alone = map(json.loads, results.read_text().splitlines())
    for record in (followed, alone):
        assert KILLS == record["facts"]["kills"]
        assert record["figures"]["death_to_durable_us_p50"]["median"] >= 0
    assert {"death_to_freeze_us_p50", "freeze_to_sequenced_us_p50"} <= followed["figures"].keys() - alone[
        "figures"
    ]
    assert [results] == list(tmp_path.iterdir())
