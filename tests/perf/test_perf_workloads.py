"""The benchmarks of exchange-core's book and of many cold books, at a size of moments."""

import json

import numpy as np
import pytest

from ringpit.engine.codes import CommandKind, ReportKind
from ringpit.engine.records import REPORT
from ringpit.perf import __main__ as command_line
from ringpit.perf import events, exchange_core
from ringpit.perf.exchange_flow import exchange_flow
from ringpit.perf.stage import LEVELS


def run(tmp_path, name, *argv):
    """Run a benchmark twice; its record."""
    results = tmp_path / f"{name}.jsonl"
    assert 0 == command_line.main([name, "--repeat", "2", "--results", str(results), *argv])
    record = json.loads(results.read_text())
    assert {"strict_mps", "prefetch_mps"} == set(record["figures"])
    assert all(spread["lowest"] > 0 for spread in record["figures"].values())
    return record


@pytest.mark.compiled
@pytest.mark.parametrize("levels", list(LEVELS))
def test_the_engine_trades_as_the_book_of_the_generator(tmp_path, levels):
    """Trade for trade, or the run fails; what is refused are FOK orders alone, at most a few."""
    sizes = ("--commands", "20000", "--resting", "100", "--levels", levels)
    flow = exchange_flow(commands=20_000, resting=100)

    facts = run(tmp_path, "exchange_core", *sizes)["facts"]

    assert (20_000, flow.open_orders) == (facts["messages"], facts["open_orders"])
    assert 0 < facts["trades"] <= len(flow.trades)
    assert facts["refused"] <= 20_000 * 0.02 / 32 * 4


def test_another_trade_than_the_generators_is_an_error():
    """One lot more in one fill is found."""
    flow = exchange_flow(commands=500, resting=20)
    reports = np.zeros(2 * len(flow.trades), REPORT)
    for start, kind, order in ((0, ReportKind.FILL_MAKER, 2), (1, ReportKind.FILL_TAKER, 3)):
        reports["kind"][start::2] = kind
        reports["price"][start::2], reports["quantity"][start::2] = flow.trades[:, 0], flow.trades[:, 1]
        reports["order"][start::2] = flow.trades[:, order]
    assert len(flow.trades) == exchange_core.check_trades(flow, reports)["trades"] > 0
    reports["quantity"][0] += 1
    with pytest.raises(RuntimeError, match="the engine must trade as the generator's book"):
        exchange_core.check_trades(flow, reports)


@pytest.mark.compiled
@pytest.mark.parametrize("levels", list(LEVELS))
def test_every_command_of_the_cold_books_is_answered_once(tmp_path, levels):
    """Half of them cancel something, half are accepted, nothing trades."""
    sizes = ("--commands", "4000", "--events", "50", "--resting", "3000", "--levels", levels)

    facts = run(tmp_path, "events", *sizes)["facts"]

    assert (4_000, 2_000, 2_000) == (facts["reports"], facts["accepted"], facts["canceled"])


def test_the_cold_books_keep_their_population_and_are_heavy_tailed():
    """Each cancel hits an order that is open then; the busiest event has far more than its share."""
    before, turns = events.events_flow(events=100, resting=5_000, commands=2_000)
    alive = set(before["order"].tolist())
    for cancel, new in zip(turns[0::2], turns[1::2], strict=True):
        assert (CommandKind.CANCEL, CommandKind.NEW) == (cancel["kind"], new["kind"])
        alive.remove(int(cancel["order"]))
        alive.add(int(new["order"]))
    assert 5_000 == len(alive)
    assert 5 * 5_000 / 100 < np.bincount(before["event"]).max()


def test_a_trade_among_the_cold_books_is_an_error():
    """Only ACCEPTED and CANCELED are answers of that load."""
    reports = np.zeros(2, REPORT)
    reports["kind"] = [ReportKind.ACCEPTED, ReportKind.FILL_MAKER]
    with pytest.raises(RuntimeError, match="every command must be accepted or cancel something, reports were"):
        events.check_answers(reports)
