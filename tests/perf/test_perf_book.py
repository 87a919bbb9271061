"""The benchmark of the engine alone, at a size of moments."""

import json

import numpy as np
import pytest

from ringpit.engine.codes import ReportKind
from ringpit.engine.exchange import Exchange
from ringpit.perf import __main__ as command_line
from ringpit.perf import book

SIZES = ("--commands", "2000", "--resting", "50", "200", "--sweep", "30")


@pytest.mark.compiled
def test_the_book_benchmark_counts_the_reports_of_every_load(tmp_path):
    """A sweep makes two fills a resting order and ACCEPTED; churn one report a command; market data adds levels."""
    results = tmp_path / "book.jsonl"

    assert 0 == command_line.main(["book", "--repeat", "2", "--results", str(results), *SIZES])

    record = json.loads(results.read_text())
    facts = record["facts"]
    assert book.SWEEPS * (1 + 2 * 30) == facts["sweep_reports"]
    assert 2000 == facts["churn_50_resting_reports"] == facts["churn_200_resting_reports"]
    assert 4000 == facts["churn_50_resting_market_data_reports"]
    assert facts["flow_20_events_reports"] < facts["flow_20_events_market_data_reports"]
    assert 10 == len(record["figures"])
    assert all(spread["lowest"] > 0 for spread in record["figures"].values())


def test_churn_never_trades_and_never_misses_an_order():
    """Every add is accepted and every cancel finds its order, so that as many rest at the end as at the start."""
    load = book.churn_load(400, 50)
    exchange = Exchange()

    reports = exchange.submit(load.slots[: load.end])

    kinds, counts = np.unique(reports["kind"], return_counts=True)
    assert {
        ReportKind.EVENT_CREATED: 1,
        ReportKind.ACCEPTED: 250,
        ReportKind.CANCELED: 200,
    } == dict(zip(kinds.tolist(), counts.tolist(), strict=True))
