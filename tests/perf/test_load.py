"""`ringpit load`: its options, the search for the knee, and what it prints; no exchange runs here."""

import io
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ringpit.perf import load_report
from ringpit.perf.load_report import print_record, table_of
from ringpit.perf.load_run import Result, Workload, digest_of, drawn, knee_of, rates_of, tell
from ringpit.shards.cli import app
from ringpit.shards.config import Config

NO_TIMES = dict.fromkeys(("p50", "p90", "p99", "p99.9", "p99.99", "max"), 1_000)


def result(rate, achieved, **changed):
    """What a run at a rate came to."""
    facts = {
        "orders": 100, "deliveries": 100, "sent": 100, "timed": 100, "answered": 100, "acknowledged": 100, "seconds": 1.0,
        "late": 0, "refused": {}, "latency_ns": NO_TIMES, "acknowledged_ns": NO_TIMES, "lateness_ns": NO_TIMES,
    }  # fmt: skip
    return Result(rate=rate, offered=rate, achieved=achieved, **{**facts, **changed})


def record_of(results):
    """A saved record."""
    workload = {
        "mix": "demo", "events": 2, "zipf": 0.0, "encoding": "packed", "frame": 1, "arrivals": "burst", "burst": 9,
        "seconds": 1.0, "seed": 7, "find_knee": True,
    }  # fmt: skip
    return {
        "rates": [{**vars(each), "kept_up": each.kept_up} for each in results],
        "workload": workload,
        "machine": {"model": "Z80", "cores": 2, "load": 0.1},
        "yardsticks": {"memory_copy_gb_per_s": 9.0, "pointer_chase_ns": 100.0},
        "measured": "from due to report",
        "knee": knee_of(results),
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rates", "fast"], "--rates must be numbers separated by commas, as in 1000,10000, was 'fast'"),
        (["--rates", "1000,0"], "--rates must be numbers above 0"),
        (["--seconds", "0"], "--seconds must be above 0, was 0.0"),
        (["--burst", "-1"], "--burst must be at least 1 order, was -1"),
        (["--zipf", "-1"], "--zipf must be 0 or more, was -1.0"),
        (
            ["--mix", "heavy"],
            "--mix must be one of demo, referee, exchange-core, uniform, or a file of orders: heavy cannot be read",
        ),
        (["--brokers"], "--brokers is for --own"),
    ],
)
def test_bad_options_are_told_in_a_sentence(arguments, sentence):
    """Exit 2 with the option, the value and the rule."""
    done = CliRunner().invoke(app, ["load", "--rates", "100", "--seconds", "1", *arguments])
    assert 2 == done.exit_code
    assert sentence in done.stderr.replace("\n", "")


def test_the_search_doubles_to_what_is_not_kept_up_with_and_closes_in():
    """An exchange that can do 3,000: 1,000, 2,000, 4,000, then the middles by ratio; the knee is the highest that was kept."""
    results = []
    asked = []
    for rate in rates_of(Workload(rates=(1_000.0,), find_knee=True), results):
        asked.append(rate)
        results.append(result(rate, min(rate, 3_000)))
    assert [1_000, 2_000, 4_000, 2_828, 3_363] == asked
    assert 2_828 == knee_of(results)


def test_a_search_that_fails_at_once_ends():
    """Nothing to close in on: one rate, no knee."""
    results = []
    for rate in rates_of(Workload(rates=(1_000.0,), find_knee=True), results):
        results += [result(rate, 1.0)]
    assert 1 == len(results)
    assert 0 == knee_of(results)


def test_what_was_not_sent_was_not_kept_up_with():
    """Whatever came back."""
    assert result(1_000, 1_000).kept_up
    assert not result(1_000, 1_000, sent=99).kept_up
    assert not result(1_000, 900).kept_up


def test_a_generator_that_fell_behind_says_so():
    """From one in a hundred on; and what was refused in a way that spoils the times."""
    said = []
    tell(result(1_000, 1_000, late=1, refused={"UNKNOWN_ORDER": 50}), said.append)
    assert [] == said
    tell(result(1_000, 1_000, late=2, refused={"POOL_CAPACITY": 7}), said.append)
    assert "the generator fell behind: 2 of 100 orders were sent more than 1 ms late" in said[0]
    assert "refused: 7 POOL_CAPACITY" in said[1]
    said.clear()
    tell(result(1_000, 1_000, sent=90, answered=80), said.append)
    assert ["10 orders were not sent: the way in took nothing more"] == said
    said.clear()
    tell(result(1_000, 1_000, answered=80), said.append)
    assert ["20 orders had no report 30 s after the last one"] == said


def test_the_orders_of_a_rate_are_named_by_a_hash():
    """Same seed, same orders; another seed, others."""
    first, again, other = (
        digest_of(drawn(Config(), Workload(seed=seed, seconds=0.1), 1_000)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_table_tells_rate_by_percentile_and_the_lines_below_what_it_means(monkeypatch):
    """A row a rate, the knee, bursts, and the yardsticks."""
    record = record_of([result(1_000, 1_000), result(2_000, 1_500, late=40, refused={"UNKNOWN_ORDER": 5})])
    out = io.StringIO()
    monkeypatch.setattr(load_report, "console_of_any_width", lambda: Console(file=out, width=200))
    print_record(record)
    text = out.getvalue()
    for expected in (
        "p99.99",
        "2,000",
        "1,500",
        "bursts of 9",
        "knee       1,000 orders/s; at 2,000 it did not keep up",
        "9.0 GB/s",
    ):
        assert expected in text
    assert 2 == table_of(record).row_count


def test_without_matplotlib_everything_else_is_saved(tmp_path, monkeypatch):
    """A sentence instead of a plot."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = []
    path = load_report.save(record_of([result(1_000, 1_000)]), tmp_path, said.append)
    assert [path] == list(tmp_path.iterdir())
    assert "no plot: matplotlib is missing; pip install 'ringpit[plots]'" == said[-1]
