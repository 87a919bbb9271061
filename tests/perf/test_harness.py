"""The benchmarks' harness and its command line."""

import argparse
import itertools
import json
import os

import pytest

from ringpit.perf import __main__ as command_line
from ringpit.perf import harness, peer


@pytest.fixture
def sample(monkeypatch):
    """A registry of one benchmark, whose figure is 1.0, 2.0, 3.0 ... and whose fact is its option."""
    monkeypatch.setattr(harness, "BENCHMARKS", {})
    monkeypatch.setattr(command_line, "discover", lambda: None)
    numbers = itertools.count()

    def options(parser):
        parser.add_argument("--checksum", default="good")

    @harness.benchmark("sample", "counts its own calls", options=options)
    def measure(arguments):
        number = next(numbers)
        return {
            "calls_per_s": float(number),
            "checksum": number if arguments.checksum == "changing" else arguments.checksum,
        }

    return harness.BENCHMARKS["sample"]


def test_a_run_tells_the_spread_of_all_repeats_but_not_of_the_warm_up(sample):
    """Ten repeats after one warm-up: figures 1 to 10."""
    record = harness.run(sample, argparse.Namespace(checksum="good", repeat=10, json=False))
    assert {"calls_per_s": {"median": 5.5, "lowest": 1.0, "highest": 10.0}} == record["figures"]
    assert {"checksum": "good"} == record["facts"] == record["options"]
    assert 10 == record["repeat"]
    assert {"memory_copy_gb_per_s", "pointer_chase_ns"} == set(record["yardsticks"])
    assert all(
        0 < spread["lowest"] <= spread["median"] <= spread["highest"]
        for spread in record["yardsticks"].values()
    )


@pytest.mark.usefixtures("sample")
def test_a_fact_that_changes_fails_the_run(tmp_path, capsys):
    """A checksum that is not the same in every repeat is exit 1 and a sentence, and nothing is written."""
    results = tmp_path / "sample.jsonl"
    argv = ["sample", "--checksum", "changing", "--repeat", "2", "--results", str(results)]
    assert 1 == command_line.main(argv)
    assert "sample: checksum must be the same in every repeat, was 1 and then 2\n" == capsys.readouterr().err
    assert not results.exists()


@pytest.mark.usefixtures("sample")
def test_every_run_appends_one_json_line_and_prints_workload_machine_and_yardsticks(tmp_path, capsys):
    """The file grows by a line a run; --json prints the same line."""
    results = tmp_path / "new" / "sample.jsonl"
    for _ in range(2):
        assert 0 == command_line.main(["sample", "--repeat", "1", "--json", "--results", str(results)])
    printed = capsys.readouterr().out
    first, second = (json.loads(line) for line in results.read_text().splitlines())
    assert ("sample", "counts its own calls") == (first["benchmark"], first["workload"])
    assert second == json.loads(printed.splitlines()[-1])
    for expected in (
        "sample: counts its own calls",
        second["machine"]["model"],
        "memory_copy_gb_per_s",
        "calls_per_s",
    ):
        assert expected in printed


def test_without_a_name_the_benchmarks_are_listed(sample, capsys):
    """Name and workload, a line each."""
    assert 0 == command_line.main([])
    assert f"{sample.name:<12} {sample.workload}\n" == capsys.readouterr().out


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["simple"], "invalid choice: 'simple' (choose from "),
        (["sample", "--repeat", "0"], "argument --repeat: must be a whole number of at least 1, was 0"),
        (["sample", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_an_unknown_name_or_option_is_exit_2(argv, complaint, capsys):
    """The complaint says what is wrong and, for a name, which names exist."""
    with pytest.raises(SystemExit) as stopped:
        command_line.main(argv)
    assert 2 == stopped.value.code
    told = capsys.readouterr().err
    assert complaint in told
    if argv == ["simple"]:
        assert "sample" in told.partition(complaint)[2]


def test_two_benchmarks_of_one_name_are_refused(sample):
    """Registering a taken name is an error."""
    with pytest.raises(ValueError, match="benchmark sample is registered twice"):
        harness.benchmark("sample", "again")(sample.measure)


def test_pinning_is_undone_and_there_is_a_core_for_each_process_or_none_for_any():
    """cores_for gives different cores or only None; leaving the block restores the affinity."""
    before = os.sched_getaffinity(0)
    assert (None,) * 10_000 == harness.cores_for(10_000)
    with harness.affinity_restored():
        harness.pin(harness.cores_for(1)[0])
        assert 1 == len(os.sched_getaffinity(0))
        harness.pin(None)
        assert 1 == len(os.sched_getaffinity(0))
    assert before == os.sched_getaffinity(0)


@pytest.mark.compiled
def test_the_ring_benchmark_moves_every_record(tmp_path):
    """A small run of two processes: every sum is n(n-1)/2, all figures are above 0, and the C++ queue is there or said to be left out."""
    count = 50_000
    results = tmp_path / "ring.jsonl"
    sizes = [
        "--records",
        str(count),
        "--messages",
        "500",
        "--rounds",
        "2000",
        "--slots",
        "256",
        "--batch",
        "64",
    ]
    assert 0 == command_line.main(["ring", "--repeat", "1", "--results", str(results), *sizes])
    record = json.loads(results.read_text())
    facts = record["facts"]
    total = count * (count - 1) // 2
    assert [total] * 3 == [facts[f"sum_{name}"] for name in ("singly", "batched", "in_place")]
    compiled = "cpp_batched_per_s" in record["figures"]
    assert compiled != facts["cpp"].startswith("left out: ")
    assert not compiled or [total, total] == facts["sum_cpp"]
    assert 10 + 2 * compiled == len(record["figures"])
    assert all(spread["lowest"] > 0 for spread in record["figures"].values())


def test_without_a_compiler_the_other_queue_is_left_out_with_the_reason(monkeypatch):
    """Nothing is measured in its place, and the sentence says what would bring it back."""
    monkeypatch.setattr(peer.shutil, "which", lambda _name: None)
    peer.program.cache_clear()
    try:
        assert None is peer.measure_queue((None, None), 1, 1, 2)
        assert "left out: no C++ compiler (c++, g++, clang++) on PATH; install g++" == peer.program()[1]
    finally:
        peer.program.cache_clear()


@pytest.mark.compiled
def test_the_waiting_benchmark_measures_latency_and_cost(tmp_path):
    """One mode, a few records: a latency after each gap, and the cost of each kind of process, which adds up."""
    results = tmp_path / "wait.jsonl"
    sizes = ["--modes", "sleep", "--records", "3", "--seconds", "1"]
    assert 0 == command_line.main(["wait", "--repeat", "1", "--results", str(results), *sizes])
    figures = {name: spread["median"] for name, spread in json.loads(results.read_text())["figures"].items()}
    latencies = [value for name, value in figures.items() if "_after_" in name]
    kinds = ("router", "worker", "journal", "publisher", "supervisor")
    assert 6 == len(latencies)
    assert all(value > 0 for value in latencies)
    assert figures["sleep_idle_all_percent"] == pytest.approx(
        sum(figures[f"sleep_idle_{kind}_percent"] for kind in kinds)
    )
