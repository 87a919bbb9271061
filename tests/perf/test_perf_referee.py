"""The referee's benchmark, at a size of moments: the engine says what the oracle says, and losing a report is noticed."""

import json

import numpy as np
import pytest

from ringpit.engine.codes import ReportKind
from ringpit.engine.records import REPORT
from ringpit.perf import __main__ as command_line
from ringpit.perf import handoff, harness, referee
from ringpit.perf.referee_flow import PUBLISHED_MESSAGES, SCENARIOS, messages
from ringpit.perf.referee_lines import lines_of
from ringpit.perf.referee_oracle import PUBLISHED, digest, play
from ringpit.perf.stage import LEVELS

ORDERS = 5_000
KEYS = [
    "scenario",
    "seed",
    "levels",
    "messages",
    "reports",
    "sha256",
    "published_match",
    "strict_mps",
    "prefetch_mps",
    "yardsticks",
]


def run(capsys, tmp_path, *argv):
    """Run the benchmark once with --json; (exit code, printed objects, complaint)."""
    common = ["--repeat", "1", "--orders", str(ORDERS), "--json", "--results", str(tmp_path / "referee.jsonl")]
    status = command_line.main(["referee", *common, *argv])
    told = capsys.readouterr()
    return status, [json.loads(line) for line in told.out.splitlines()], told.err


@pytest.mark.compiled
@pytest.mark.parametrize("levels", list(LEVELS))
def test_the_engine_gives_the_oracles_reports_in_every_scenario(capsys, tmp_path, levels):
    """One object a scenario, with the SHA-256 that the oracle has for the same flow."""
    status, told, _ = run(capsys, tmp_path, "--seed", "5", "--levels", levels)

    assert 0 == status
    assert list(SCENARIOS) == [one["scenario"] for one in told]
    for one in told:
        flow = messages(one["scenario"], seed=5, orders=ORDERS)
        assert KEYS == list(one)
        assert (5, levels, len(flow.kind)) == (one["seed"], one["levels"], one["messages"])
        assert digest(play(flow).text()) == one["sha256"]
        assert one["published_match"] is None
        assert min(one["strict_mps"], one["prefetch_mps"], *one["yardsticks"].values()) > 0


def check_published(capsys, tmp_path, *argv):
    """Every scenario that was asked for, at full size, with the published hash where there is one."""
    argv = ["referee", "--repeat", "1", "--json", "--results", str(tmp_path / "referee.jsonl"), *argv]
    assert 0 == command_line.main(argv)
    for one in map(json.loads, capsys.readouterr().out.splitlines()):
        assert PUBLISHED_MESSAGES == one["messages"]
        assert (one["scenario"] in PUBLISHED or None) == one["published_match"]
        assert PUBLISHED.get(one["scenario"], one["sha256"]) == one["sha256"]


@pytest.mark.compiled
@pytest.mark.parametrize("levels", list(LEVELS))
def test_the_engine_gives_the_published_hash_of_a_scenario(capsys, tmp_path, levels):
    """One of the five, on either structure; all are in the long tests."""
    check_published(capsys, tmp_path, "--scenario", "swing-25", "--levels", levels)


@pytest.mark.soak
@pytest.mark.parametrize("levels", list(LEVELS))
def test_the_engine_gives_all_published_hashes(capsys, tmp_path, levels):
    """All five, on either structure."""
    check_published(capsys, tmp_path, "--levels", levels)


@pytest.mark.compiled
def test_a_drainer_that_dies_is_told():
    """A run that nobody drains ends with a sentence, and leaves nothing behind."""
    flow = messages("static", orders=ORDERS)
    book = referee.book_for(flow, LEVELS["ladder"])
    with handoff.Handoff() as halves:
        halves._child.kill()
        halves._child.join()
        with pytest.raises(RuntimeError, match="the drainer ended with exit code -9"):
            halves.run(book.reset(), referee.encode(flow), len(flow.kind))


@pytest.mark.compiled
def test_a_timed_run_whose_reports_are_others_fails(capsys, tmp_path, monkeypatch):
    """Exit 1 and a sentence, as soon as one checksum is not that of the run whose reports were kept."""
    true_run = handoff.Handoff.run

    def run_that_loses(self, *arguments):
        return true_run(self, *arguments)._replace(checksum=0)

    def run_once_well(self, *arguments):
        if len(arguments) > 4 and arguments[4]:
            monkeypatch.setattr(handoff.Handoff, "run", run_that_loses)
        return true_run(self, *arguments)

    monkeypatch.setattr(handoff.Handoff, "run", run_once_well)
    status, told, complaint = run(capsys, tmp_path, "--scenario", "static")

    assert (1, []) == (status, told)
    assert complaint.startswith("referee: checksum of a timed run must be that of the kept run, ")
    assert not list(tmp_path.iterdir())


def test_on_one_core_it_refuses(capsys, tmp_path, monkeypatch):
    """Exit 3 and a sentence that says what is missing, and nothing is measured."""
    monkeypatch.setattr(handoff, "cores", lambda: (0,))

    status, told, complaint = run(capsys, tmp_path)

    assert (3, []) == (status, told)
    assert complaint.startswith(
        "referee: matching and draining need a core each, this process may use 1 of the machine's"
    )


@pytest.mark.compiled
def test_the_checksum_depends_on_every_word_and_on_the_order():
    """Changing one word, or swapping two reports, changes it."""
    count = 8
    words = np.arange(count * handoff.WORDS, dtype=np.int64)
    checksums = {int(handoff.fold(words, count - 1, 0, count, 0))}
    for changed in range(handoff.WORDS):
        others = words.copy()
        others[changed] += 1
        checksums.add(int(handoff.fold(others, count - 1, 0, count, 0)))
    swapped = words.reshape(count, handoff.WORDS)[[1, 0, *range(2, count)]].reshape(-1)
    checksums.add(int(handoff.fold(swapped, count - 1, 0, count, 0)))

    assert handoff.WORDS + 2 == len(checksums)


def test_a_report_without_a_line_is_an_error():
    """Nothing that the engine says is passed over in silence."""
    flow = messages("static", orders=2)
    reports = np.zeros(2, REPORT)
    reports["kind"] = [ReportKind.ACCEPTED, ReportKind.TRIGGERED]
    with pytest.raises(ValueError, match="the referee has no line for a report TRIGGERED"):
        lines_of(reports, flow)
    reports["kind"] = [ReportKind.FILL_MAKER, ReportKind.ACCEPTED]
    with pytest.raises(ValueError, match="every FILL_MAKER must be followed by its FILL_TAKER"):
        lines_of(reports, flow)


def test_harness_gives_measure_what_was_staged_and_makes_a_record_of_each_case(capsys, tmp_path, monkeypatch):
    """A stage is entered once a case and left after it; --json prints the lines alone."""
    monkeypatch.setattr(harness, "BENCHMARKS", {})
    monkeypatch.setattr(command_line, "discover", lambda: None)
    happened = []

    class Stage:
        """Remembers when it is entered and left."""

        def __init__(self, arguments):
            self.count = arguments.count

        def __enter__(self):
            happened.append(("enter", self.count))
            return self

        def __exit__(self, *_error):
            happened.append(("leave", self.count))

    @harness.benchmark(
        "staged",
        "two cases",
        stage=Stage,
        cases=lambda arguments: [type(arguments)(**vars(arguments), count=count) for count in (1, 2)],
        line=lambda record: {"count": record["facts"]["count"]},
    )
    def _measure(arguments, staged):
        happened.append(("measure", staged.count))
        return {"count": arguments.count, "rate_per_s": 1.0}

    argv = ["staged", "--repeat", "1", "--json", "--results", str(tmp_path / "staged.jsonl")]
    assert 0 == command_line.main(argv)

    assert [{"count": 1}, {"count": 2}] == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(what, count) for count in (1, 2) for what in ("enter", "measure", "measure", "leave")] == happened
    assert 2 == len((tmp_path / "staged.jsonl").read_text().splitlines())
