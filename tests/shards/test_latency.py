"""The stages of a delivery under a clock of the test's, and what `ringpit latency` says, keeps and compares."""

import json
import signal
import sys
from itertools import chain
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner

from ringpit.engine.codes import CommandKind
from ringpit.engine.records import MARKER
from ringpit.ipc import histogram
from ringpit.ipc.histogram import VALUE_NS_MAX, bucket_end_ns, bucket_of, percentile
from ringpit.shards import journal as journals
from ringpit.shards import latency_view, watching
from ringpit.shards.cli import app
from ringpit.shards.config import Config
from ringpit.shards.exits import Exit
from ringpit.shards.journal import Journal
from ringpit.shards.latency_diff import changes, facts_of, most_changed
from ringpit.shards.latency_files import FACTS, Export, hdr_of
from ringpit.shards.latency_view import ALL, Asked, Part, Stopping, duration, rows_of, verdict_of
from ringpit.shards.layout import Role, State, first_position, publisher_layout, router_layout, worker_layout
from ringpit.shards.processes import views_of
from ringpit.shards.publisher import Publisher, Settings
from ringpit.shards.sinks import MemorySink
from ringpit.shards.stages import NAMES, STAGES, WAYS, WHOLE, nothing, regions_of, since, stuck_at
from ringpit.testing.house import House, frames_of
from ringpit.wal.memory import MemoryLog
from ringpit.wal.writer import BatchWriter

START_NS = 2_000_000_000_000_000_000
MS = 1_000_000
ORDERS = 12
DEADLINE_SECONDS = 30.0


class Pace(NamedTuple):
    """How long each stage takes, ns."""

    ingress: int = 2 * MS
    ring_wait: int = 3 * MS
    match: int = 1 * MS
    journal: int = 4 * MS
    durable: int = 5 * MS
    publish: int = 6 * MS


def told(counts):
    """The values in a histogram, each as the end of its bucket, and how often each is there."""
    return [(int(bucket_end_ns(bucket)), int(counts[bucket])) for bucket in np.flatnonzero(counts)]


def bucketed(value_ns):
    """The end of a value's bucket."""
    return int(bucket_end_ns(bucket_of(value_ns)))


class Line:
    """Worker, journal thread and publisher of one shard, stepped by hand at times that the test chooses."""

    def __init__(self, monkeypatch, release="durable"):
        self.house = House()
        self.now_ns = START_NS
        clock = SimpleNamespace(
            time_ns=lambda: self.now_ns, thread_time_ns=lambda: 0, sleep=lambda _seconds: None
        )
        monkeypatch.setattr(journals, "time", clock)
        self.log = MemoryLog()
        self.worker = self.house.worker(2, lambda: self.log)
        log, state, replay = self.worker.recover()
        self.worker.begin(state, replay)
        self.worker.settled()
        self.house.board.store("worker.0.incarnation", 2)
        self.house.greet(self.worker)
        self.journal = Journal(
            self.worker.segment,
            lambda: (log, BatchWriter(state)),
            routers=1,
            first_position=first_position(2),
            confirmed_seq=lambda: self.house.publisher.load("confirmed_seq.0"),
            cores=[],
        )
        self.journal.open()
        self.sink = MemorySink(addressed=False, confirms=False)
        self.publisher = Publisher(self.sink, Settings(release=release))
        self.publisher.attach_shard(0, self.views())
        self.publisher.step(self.now_ns)
        self.early = release == "matched"

    def close(self):
        """Remove everything."""
        self.house.close()

    def views(self):
        """What the publisher is given."""
        return views_of(self.house.config, 0, self.house.publisher, self.worker.segment, self.house.board)

    def serve(self, now_ns):
        """One turn of the worker."""
        self.worker._clock[0] = self.now_ns = now_ns
        self.worker._serve_one(0)

    def cut(self, now_ns):
        """The journal thread hands what there is to the log, which keeps it for itself."""
        self.now_ns = now_ns
        self.log.held = True
        self.journal.step(0.0)

    def sync(self, now_ns):
        """The log has it."""
        self.now_ns = now_ns
        self.log.held = False
        self.log.release()
        self.journal.step(0.0)

    def match(self, now_ns):
        """The publisher is where it was: there is room for the reports."""
        self.house.publisher.store("output_head.0", self.head)
        self.serve(now_ns)

    def deliver(self, records, pace):
        """Bring frames through, each stage in its time; when the reports are confirmed."""
        markers = records.view(MARKER)[records["kind"] == CommandKind.MARKER]
        written_ns = self.now_ns + pace.ingress
        records.view(MARKER)["ingress_ns"][records["kind"] == CommandKind.MARKER] = self.now_ns
        records.view(MARKER)["engine_ns"][records["kind"] == CommandKind.MARKER] = written_ns
        counted = self.house.router.region("ingress_ns.0")
        histogram.record_many(counted, pace.ingress, int(markers["count"].sum()))  # as the router does
        self.house.submit(records)
        self.head = self.house.publisher.load("output_head.0")
        self.house.publisher.store(
            "output_head.0", first_position(9)
        )  # in a later ring: taken, and not matched yet
        taken_ns = written_ns + pace.ring_wait
        self.serve(taken_ns)
        steps = (
            (taken_ns + pace.match, self.match),
            (taken_ns + pace.journal, self.cut),
            (taken_ns + pace.journal + pace.durable, self.sync),
        )
        for now_ns, step in sorted(steps, key=lambda each: each[0]):
            step(now_ns)
        ready_ns = taken_ns + (pace.match if self.early else max(pace.match, pace.journal + pace.durable))
        self.publisher.step(ready_ns)
        self.sink.confirm(len(self.sink.waiting))
        self.publisher.step(ready_ns + pace.publish)
        self.now_ns = ready_ns + pace.publish
        return self.now_ns


def described(monkeypatch, line, **sections):
    """Have the command find a configuration of this exchange, perhaps with other keys: too small for a file."""
    config = line.house.config
    changed = {name: replace(getattr(config, name), **keys) for name, keys in sections.items()}
    monkeypatch.setattr(latency_view, "load", lambda _path: replace(config, **changed))


@pytest.fixture
def line(monkeypatch):
    """A shard that serves."""
    made = Line(monkeypatch)
    yield made
    made.close()


def run(*arguments):
    """Run `ringpit latency` here."""
    return CliRunner().invoke(app, ["latency", *map(str, arguments)])


def lines_of(result):
    """Rows by stage, and the verdict."""
    assert result.exit_code == 0, result.output
    rows = [json.loads(text) for text in result.stdout.splitlines()]
    return {row["Stage"]: row for row in rows if "Stage" in row}, rows[-1]


# Stages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [*Pace._fields])
@pytest.mark.parametrize("release", ["durable", "matched"])
def test_the_slow_stage_is_named_and_the_stages_add_up(monkeypatch, slow, release):
    """Whichever stage takes longest: each histogram holds its time, their sum is the whole way's, and the sentence names it."""
    line = Line(monkeypatch, release)
    try:
        pace = Pace(**{slow: 100 * MS})
        came_ns = line.now_ns
        records = frames_of(ORDERS)
        whole_ns = line.deliver(records, pace) - came_ns
        commands = int((records["kind"] != CommandKind.MARKER).sum())
        described(monkeypatch, line, output={"release": release})
        with watching.Watch(line.house.config) as watch:
            counts = watch.read()[0]
        result = run("--once", "--json")
    finally:
        line.close()

    middle = pace.match if release == "matched" else max(pace.match, pace.journal + pace.durable)
    assert whole_ns == pace.ingress + pace.ring_wait + middle + pace.publish
    expected = dict(zip(NAMES, (*pace, whole_ns), strict=True))
    assert {name: [(bucketed(taken_ns), commands)] for name, taken_ns in expected.items()} == {
        name: told(each) for name, each in zip(NAMES, counts, strict=True)
    }
    rows, verdict = lines_of(result)
    assert expected.keys() == rows.keys()
    assert {name: bucketed(taken_ns) for name, taken_ns in expected.items()} == {
        name: row["P50Ns"] for name, row in rows.items()
    }
    shares = [rows[name]["Share"] for name in WAYS[release]]
    if slow != "match":
        assert sum(shares) == pytest.approx(1, abs=0.02)
    name = slow.replace("_", " ")
    if release == "matched" and name in ("journal", "durable"):
        assert verdict["Slowest"] == "publish"  # nobody waits for the log
    else:
        assert verdict["Slowest"] == name == verdict["SlowestAtP99"]
        assert verdict["Sentence"].startswith(f"slowest stage: {name}, ")
        assert verdict["Hint"]


def test_two_deliveries_of_two_shapes(line):
    """Counts are of records, whatever the frames; marks tell the two apart."""
    first, second = frames_of(ORDERS), frames_of(7, seed=3, size=2)
    line.deliver(first, Pace())
    line.deliver(second, Pace(publish=70 * MS, durable=50 * MS))
    sizes = [int((records["kind"] != CommandKind.MARKER).sum()) for records in (first, second)]
    with watching.Watch(line.house.config) as watch:
        publish, durable = (watch.read()[0, NAMES.index(name)] for name in ("publish", "durable"))
    assert list(zip(map(bucketed, (6 * MS, 70 * MS)), sizes, strict=True)) == told(publish)
    assert list(zip(map(bucketed, (5 * MS, 50 * MS)), sizes, strict=True)) == told(durable)


def test_every_stage_has_a_histogram_of_its_own_and_one_writer():
    """ST1: no two stages share a region, and each process's layout has those of its stages, for every shard."""
    config = Config()
    layouts = {"router": router_layout, "worker": worker_layout, "publisher": publisher_layout}
    for process, layout in layouts.items():
        names = [region.name for region in layout(config).regions]
        wanted = regions_of(process, config.exchange.shards)
        assert set(wanted) <= set(names)
        assert len(set(wanted)) == len(wanted)
    assert {stage.process for stage in STAGES} == set(layouts)
    assert {Role[stage.process.upper()] for stage in STAGES} == {Role.ROUTER, Role.WORKER, Role.PUBLISHER}


@given(st.lists(st.integers(0, VALUE_NS_MAX), max_size=8), st.lists(st.integers(0, VALUE_NS_MAX), max_size=8))
def test_what_was_counted_between_two_looks(some, more):
    """The later ones; all of them if a histogram has begun anew."""
    before, now, anew = nothing(1), nothing(1), nothing(1)
    for value in some:
        histogram.record(before[0, 2], value)
        histogram.record(now[0, 2], value)
    for value in more:
        histogram.record(now[0, 2], value)
        histogram.record(anew[0, 2], value)
    assert anew.tolist() == since(now, before).tolist()
    if (anew < before).any():
        assert anew.tolist() == since(anew, before).tolist()


def part_of(**values_ns):
    """A table of one command a stage; stages that are not named have none."""
    counts = nothing(1)[0]
    for name, value_ns in values_ns.items():
        histogram.record(counts[NAMES.index(name.replace("_", " "))], value_ns)
    return Part(ALL, counts)


def test_what_does_not_come_through_is_told():
    """Commands that are durable and not published wait for the publisher; with none at all nothing is wrong."""
    stuck = part_of(ingress=5, ring_wait=5, match=5, journal=5, durable=5)
    assert stuck_at(stuck.counts, "durable").name == "publish"
    verdict = verdict_of(stuck, "durable")
    assert (None, "publish") == (verdict["Slowest"], verdict["Stuck"])
    assert verdict["Sentence"] == "no command has come through: what is taken in waits before 'publish' ends"
    quiet = verdict_of(part_of(), "durable")
    assert ("no command has come through", "") == (quiet["Sentence"], quiet["Hint"])


def test_a_ring_that_fills_up_is_part_of_the_hint():
    """Whoever empties it is the one to look at."""
    ring = watching.Ring("output", 3, 0.97, "publisher")
    hint = verdict_of(part_of(publish=5, whole_way=9), "durable", ring)["Hint"]
    assert hint.startswith("shard 3's output ring is 97% full: everything before it waits for the publisher; ")


@pytest.mark.parametrize(
    ("time_ns", "expected"),
    [(0, "0 ns"), (999, "999 ns"), (1_000, "1.00 us"), (12_345, "12.3 us"), (999_400, "999 us"), (2_345_678, "2.35 ms"),
     (3_600 * 10**9, "3600 s")],
)  # fmt: skip
def test_durations_have_three_digits(time_ns, expected):
    """In the unit that suits them."""
    assert expected == duration(time_ns)


# The command ----------------------------------------------------------------------------------------------


def test_a_table_for_people(line, monkeypatch):
    """Every stage with its commands; the slowest marked; the sentence and the hint below. It fits 80 columns."""
    line.deliver(frames_of(ORDERS), Pace(durable=100 * MS))
    described(monkeypatch, line)
    result = run("--once")
    assert result.exit_code == 0, result.output
    lines = [text.rstrip() for text in result.stdout.splitlines()]
    assert "since the start" == lines[0]
    assert [name for name in NAMES if any(text[2:].startswith(f"{name} ") for text in lines)] == list(NAMES)
    assert [text for text in lines if text.startswith("> ")] == [lines[2 + NAMES.index("durable")]]
    assert max(map(len, lines[: 2 + len(NAMES)])) < 80
    assert any(text.startswith("slowest stage: durable, ") for text in lines)
    assert any(text.startswith("look at: the log: ") for text in lines)


def test_an_interval_holds_what_came_in_it(line, monkeypatch):
    """--seconds: what came before is not in it; --per-shard and --shard name theirs."""
    line.deliver(frames_of(ORDERS), Pace())

    def while_it_waits(_stopping, _seconds):
        line.deliver(frames_of(5, seed=9), Pace(ring_wait=200 * MS))

    clock = SimpleNamespace(time_ns=lambda: line.now_ns, monotonic=lambda: line.now_ns / 1e9)
    monkeypatch.setattr(latency_view, "time", clock)
    monkeypatch.setattr(Stopping, "wait", while_it_waits)
    described(monkeypatch, line)
    for which in (["--per-shard"], ["--shard", "0"]):
        rows, verdict = lines_of(run("--seconds", "0.1", "--json", *which))
        assert {"Period": "interval", "Shard": 0}.items() <= rows["match"].items()
        records = int((frames_of(5, seed=9)["kind"] != CommandKind.MARKER).sum())
        assert {records} == {row["Count"] for row in rows.values()}
        assert verdict["Slowest"] == "ring wait"


def test_it_ends_with_the_exchange(line, monkeypatch):
    """A board that is gone, or a worker that has left, ends the watching with a sentence."""
    monkeypatch.setattr(Stopping, "wait", lambda *_: line.worker._word("state", State.DRAINED))
    described(monkeypatch, line)
    result = run()
    assert result.exit_code == 0
    assert "ringpit: the exchange has stopped" in result.stderr


@pytest.mark.parametrize(
    ("sections", "arguments", "code", "said"),
    [
        ({"exchange": {"name": "nobody-of-this-name"}}, [], Exit.UNAVAILABLE, "no exchange 'nobody-of-this-name' runs"),
        ({"exchange": {"routers": 2}}, [], Exit.REFUSED, "or watch with the version and the configuration that it was"),
        ({}, ["--shard", 9], Exit.CONFIG, "--shard must be from 0 to 0, was 9"),
        ({}, ["--seconds", 1], Exit.CONFIG, "choose one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_a_remedy(line, monkeypatch, sections, arguments, code, said):
    """No exchange, another layout, no such shard, nonsense: a sentence and an exit code each."""
    described(monkeypatch, line, **sections)
    result = run("--once", *arguments)
    assert code == result.exit_code
    assert said in result.stderr
    assert result.stdout == ""


def test_a_configuration_that_cannot_be_used_is_refused(tmp_path):
    """As everywhere: with the key and the rule."""
    (tmp_path / "bad.toml").write_text("[exchange]\nshards = 0\n")
    result = run("-c", tmp_path / "bad.toml", "--once")
    assert result.exit_code == Exit.CONFIG
    assert "exchange.shards" in result.stderr


def test_an_exchange_that_is_starting_is_not_there_yet(line, monkeypatch):
    """The board names no worker."""
    line.house.board.store("worker.0.incarnation", 0)
    described(monkeypatch, line)
    result = run("--once")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "is starting: there is no worker 0 now: the board names none; try again" in result.stderr


# What is kept ---------------------------------------------------------------------------------------------


def parts(counts):
    """All shards together."""
    return [Part(ALL, counts.sum(axis=0))]


def exported(folder, config, *intervals):
    """An export of intervals, each the values of its `durable` and `whole way`."""
    export = Export(folder, config, parts)
    for number, values_ns in enumerate(intervals):
        counts = nothing(1)
        for value_ns in values_ns:
            histogram.record(counts[0, NAMES.index("durable")], value_ns)
            histogram.record(counts[0, WHOLE], 2 * value_ns)
        export.add(counts, START_NS + number * 10**9, START_NS + (number + 1) * 10**9)
    return list(export.finish(rows_of, verdict_of))


@pytest.fixture
def config(line):
    """A configuration of one shard."""
    return line.house.config


def test_an_export_reads_back(tmp_path, config):
    """The log has a line for each interval and stage, the standard reader adds them up, the texts have the same percentiles."""
    intervals = ([5_000, 7_000], [], [900, 9_000_000, 12_345_678])
    said = exported(tmp_path / "kept", config, *intervals)
    assert [f"exported to {tmp_path / 'kept'}"] == said
    reader = HistogramLogReader(str(tmp_path / "kept" / "latency.hlog"), HdrHistogram(1, 3_600 * 10**9, 2))
    read = []
    while (found := reader.get_next_interval_histogram()) is not None:
        read.append(found)
    reader.close()
    assert [("durable", 2), ("whole-way", 2), ("durable", 3), ("whole-way", 3)] == [
        (each.get_tag(), each.get_total_count()) for each in read
    ]
    assert reader.get_start_time_sec() == START_NS / 1e9
    assert [START_NS / 1e6 + 2_000, START_NS / 1e6 + 3_000] == [
        read[2].get_start_time_stamp(), read[2].get_end_time_stamp()
    ]  # fmt: skip
    whole = histogram.empty()
    for value_ns in chain(*intervals):
        histogram.record(whole, value_ns)
    read[0].add(read[2])
    assert read[0].get_max_value() == percentile(whole, 1.0)
    assert [hdr_of(whole).get_count_at_index(index) for index in range(len(whole))] == [
        read[0].get_count_at_index(index) for index in range(len(whole))
    ]
    text = (tmp_path / "kept" / "durable.hgrm").read_text()
    assert f"#[Max     = {percentile(whole, 1.0):12.2f}, TotalCount     = {5:12.2f}]" in text
    assert (tmp_path / "kept" / "latency.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((tmp_path / "kept" / FACTS).read_text())
    assert [5] == [row["Count"] for row in facts["Stages"] if row["Stage"] == "durable"]


def test_whoever_is_asked_to_stop_keeps_what_was_seen(line, monkeypatch, tmp_path):
    """SIGINT and SIGTERM end the watching after a look, with the export whole."""
    described(monkeypatch, line)
    line.deliver(frames_of(ORDERS), Pace())
    wait = Stopping.wait
    for number in (signal.SIGINT, signal.SIGTERM):

        def interrupted(stopping, _seconds, number=number):
            line.deliver(frames_of(5, seed=number), Pace())
            signal.raise_signal(number)
            return wait(stopping, DEADLINE_SECONDS)

        monkeypatch.setattr(Stopping, "wait", interrupted)
        before = signal.getsignal(number)
        result = run("--json", "--export", tmp_path / number.name)
        assert result.exit_code == 0, result.output
        assert len(NAMES) + 1 == len(result.stdout.splitlines())
        assert (tmp_path / number.name / FACTS).exists()
        assert before == signal.getsignal(number)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, config):
    """Before anything is watched."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--export: .*file cannot be written .*: name another folder"):
        Export(tmp_path / "file", config, parts)


def test_an_export_is_never_written_over(tmp_path, config):
    """The second of the same name is refused before it writes."""
    exported(tmp_path / "kept", config, [5_000])
    before = (tmp_path / "kept" / "latency.hlog").read_bytes()
    with pytest.raises(ValueError, match="kept holds an export already: name another folder, or remove it"):
        Export(tmp_path / "kept", config, parts)
    assert before == (tmp_path / "kept" / "latency.hlog").read_bytes()


def test_without_matplotlib_the_rest_is_kept(tmp_path, config, monkeypatch):
    """A sentence says how to get the picture."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = exported(tmp_path / "kept", config, [5_000])
    assert "pip install 'ringpit[plots]'" in said[0]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted(
        [FACTS, "latency.hlog", *(f"{name.replace(' ', '-')}.hgrm" for name in NAMES)]
    )


def test_two_exports_side_by_side(tmp_path, config):
    """Percentiles, ratios, and what changed by most nanoseconds."""
    first, second = tmp_path / "a", tmp_path / "b"
    exported(first, config, [1_000_000] * 9)
    exported(second, config, [4_000_000] * 9)
    rows = changes(facts_of(first), facts_of(second))
    assert (bucketed(1_000_000), bucketed(4_000_000)) == rows[NAMES.index("durable")]["P99Ns"]
    assert most_changed(rows, "P50Ns")["Stage"] == "durable"
    assert most_changed(changes(facts_of(first), facts_of(first)), "P50Ns") is None
    result = run("--diff", first, second)
    assert result.exit_code == 0, result.output
    assert "changed most at p50: durable, 1.00 ms -> 4.01 ms (x4.00)" in result.stdout
    assert "at p99 no stage changed" not in result.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("{}", "missing required field"),
        ("nonsense", "JSON is malformed"),
        ('{"Format": "other", "Version": 1, "Exchange": "x", "Stages": []}', "its format is 'other'"),
        ('{"Format": "ringpit latency", "Version": 9, "Exchange": "x", "Stages": []}', "version 9, expected 1: export both again"),
    ],
)  # fmt: skip
def test_what_is_no_export_is_refused(tmp_path, config, content, said):
    """With what it is not, and what to name instead."""
    exported(tmp_path / "good", config, [5_000])
    (tmp_path / "bad").mkdir()
    if content is not None:
        (tmp_path / "bad" / FACTS).write_text(content)
    result = run("--diff", tmp_path / "good", tmp_path / "bad")
    assert result.exit_code == Exit.CONFIG
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_shard_that_is_not_there_is_refused():
    """By number, with the range."""
    with pytest.raises(ValueError, match="--shard must be from 0 to 1, was 2"):
        Asked(2, False, 1.0, False, None, False, None).parts(nothing(2))
