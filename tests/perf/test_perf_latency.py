"""The latency benchmark at a size of moments: a real worker between two ends, every command answered."""

import json
import os

import pytest

from ringpit.ipc.segment import names
from ringpit.perf import __main__ as command_line
from ringpit.perf.latency import cases

PERCENTILES = ("p50_us", "p99_us", "p99_9_us", "p99_99_us", "max_us")


@pytest.mark.compiled
@pytest.mark.timeout(900)  # the worker's first start on a machine compiles
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="injector and worker need a core each")
def test_every_command_has_a_report_and_percentiles_rise(tmp_path, monkeypatch):
    """Two rates, two repeats: as many commands as asked for, the same reports each time, nothing left in shared memory."""
    monkeypatch.setattr("ringpit.perf.latency.LIVES", 5_000)
    monkeypatch.setattr("ringpit.perf.latency.WARM", 1_000)
    monkeypatch.setattr("ringpit.perf.latency.JITTER_SECONDS", 0.01)
    sizes = ["--rates", "0.01,0.5", "--seconds", "0.05", "--commands", "2000", "--repeat", "2"]
    assert 0 == command_line.main(["latency", "--save", str(tmp_path), *sizes])
    slow, fast = map(json.loads, (tmp_path / "latency.jsonl").read_text().splitlines())
    for record, commands in ((slow, 500), (fast, 2_000)):
        assert commands == record["facts"]["commands"] < record["facts"]["reports"]
        for which in ("lowest", "highest"):
            told = [record["figures"][name][which] for name in PERCENTILES]
            assert told == sorted(told)
            assert told[0] > 0
    assert [] == names(f"ringpit.latency-{os.getpid()}")


def test_a_case_for_each_rate():
    """In the order in which they were given."""
    import argparse

    arguments = argparse.Namespace(rates="0.1,2", seconds=None, realtime=True)
    assert [(0.1, 0.1), (2.0, 0.1)] == [(case.rate, case.seconds) for case in cases(arguments)]
    arguments.realtime = False
    assert [1.0, 1.0] == [case.seconds for case in cases(arguments)]
