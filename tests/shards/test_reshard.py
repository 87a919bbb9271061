"""Resharding: the same books on another number of shards, proven, or nothing changed at all."""

import re
import shutil
import uuid
from collections import defaultdict

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace
from typer.testing import CliRunner

from ringpit.engine.codes import CommandKind, EventState, Trait
from ringpit.engine.digest import digest_of_each
from ringpit.engine.records import COMMAND, MARKER
from ringpit.engine.state import export
from ringpit.engine.tables import allocate
from ringpit.shards import faults, resharding
from ringpit.shards.cli import app
from ringpit.shards.config import ConfigError, load
from ringpit.shards.directory import Directory
from ringpit.shards.exits import Exit
from ringpit.shards.faults import Crash, Step
from ringpit.shards.keeper import load_newest, store_of
from ringpit.shards.lock import AlreadyRunning, lock_of_folder, lock_of_name
from ringpit.shards.logs import source_of
from ringpit.shards.planning import plan
from ringpit.shards.processes import open_log, open_view
from ringpit.shards.rerun import Books, snapshot_below
from ringpit.shards.resharding import ReshardRefused, reshard
from ringpit.shards.sections import Placement
from ringpit.shards.supervisor import Supervisor
from ringpit.shards.topology import Topology, established, path_of, read, resolved, write
from ringpit.shards.verify import verify
from ringpit.testing.logs import LIMITS, LogAt, in_frames, write_log
from ringpit.testing.sessions import session
from ringpit.wal.batch import decode
from ringpit.wal.errors import BatchDamaged, LogNotEmpty, SnapshotForeign, SnapshotMissing
from ringpit.wal.reader import FIRST, recover
from ringpit.wal.snapshots import SnapshotFacts
from ringpit.wal.writer import BatchWriter

EVENTS = 100  # ids of a shard's events are in a range of its own
TICK_KEYS = 10_000
KEYS = 1_000  # and so are its frame keys
COMMANDS = 130
BEFORE_THE_TOPOLOGY = [
    Step.RESHARD_READ,
    Step.RESHARD_CLEARED,
    Step.RESHARD_LOG_MADE,
    Step.RESHARD_SHARD_WRITTEN,
    Step.RESHARD_SHARD_PUBLISHED,
    Step.RESHARD_COMPARED,
    Step.TOPOLOGY_WRITTEN,
]


def records_of(shard, *, seed=3):
    """A shard's records: a session with events of its own, and one of them settled at the end."""
    records = session(COMMANDS, seed=seed + shard, events=5, accounts=3)
    settle = np.zeros(1, COMMAND)
    settle["kind"], settle["event"] = CommandKind.SETTLE, 2
    records = np.concatenate([in_frames(records), in_frames(settle)])
    named = (records["kind"] != CommandKind.MARKER) & (records["event"] > 0)
    records["event"][named] += EVENTS * shard
    markers = records.view(MARKER)
    keyed = (records["kind"] == CommandKind.MARKER) & (markers["key_low"] != 0)
    markers["key_low"][keyed] += KEYS * shard
    return records


RECORDS = [records_of(shard) for shard in range(3)]


def config_in(folder, shards, **keys):
    """A configuration of an exchange with its data in a folder."""
    limits = {f"LIMITS__{name.upper()}": str(value * 4) for name, value in vars(LIMITS).items()}
    limits["LIMITS__GRIDS"] = "16"
    named = {"EXCHANGE__NAME": f"reshard-{uuid.uuid4().hex[:12]}", "EXCHANGE__DATA": str(folder / "data")}
    given = named | {"EXCHANGE__SHARDS": str(shards), "LOG__FSYNC": "false"} | limits | keys
    return load(None, {f"RINGPIT__{key}": value for key, value in given.items()})


def write_exchange(config, *, clean=True):
    """The logs of an exchange that has run and was stopped, each with snapshots and a tail behind the last one."""
    config.data_folder().mkdir()
    config = established(config)
    for shard in range(config.exchange.shards):
        made = LogAt(config.data_folder(), shard=shard, open_log=lambda shard=shard: open_log(config, shard))
        write_log(made, RECORDS[shard], lives=2, snapshots_at=(0.3, 0.7), seed=shard, clean=clean)


@pytest.fixture(name="written", scope="module")
def written_fixture(tmp_path_factory):
    """Folder of exchanges of one, two and three shards; not to be changed."""
    folders = {}
    for shards in (1, 2, 3):
        folders[shards] = tmp_path_factory.mktemp(f"exchange-{shards}")
        write_exchange(config_in(folders[shards], shards))
    return folders


@pytest.fixture
def exchange(written, tmp_path):
    """Copies of them, to be recut."""

    def make(shards, **keys):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(written[shards] / "data", tmp_path / "data")
        return config_in(tmp_path, shards, **keys)

    return make


def recut(config, shards, *, yes=True):
    """Reshard; the books, and what was said."""
    said = []
    return reshard(config, shards, said.append, lambda question: said.append(question) or yes), said


def tables_of(config, shard):
    """A shard's tables as a start finds them, and where it goes on."""
    log = open_view(config, shard)
    loaded = load_newest(config, shard, log, lambda _text: None)
    books = Books(loaded.tables, loaded.begin.seq) if loaded else Books(empty(config), 0)
    return books, loaded.begin if loaded else FIRST, loaded.position if loaded else 0


def empty(config):
    """Tables without anything."""
    return allocate(config.limits.limits(), market_data=True)


def lived(config, shard, records):
    """A life of a shard: recovered as a worker does it, then records applied and logged, and a clean stop. Its books."""
    books, begin, position = tables_of(config, shard)
    log = open_log(config, shard)
    generation = config.exchange.generation
    state = recover(
        log, shard, generation, 77, lambda _, rows: books.apply(rows), begin=begin, position=position
    )
    writer = BatchWriter(state)
    appended = state.appended_count
    while len(records):
        batch, taken = writer.cut(records.view(MARKER), confirmed_seq=writer.next_seq - 1)
        log.append(batch)
        appended += 1
        books.apply(records[:taken].view(MARKER))
        records = records[taken:]
    log.append(writer.mark(writer.next_seq - 1, clean=True))
    while log.poll(60) < appended + 1:
        pass
    log.close()
    return books


def expected(shards):
    """Digest of each event that is open behind all records of so many shards, and the settled events."""
    digests, settled = {}, set()
    for shard in range(shards):
        books = Books(allocate(LIMITS, market_data=False), 0)
        books.apply(RECORDS[shard].view(MARKER))
        digests |= digest_of_each(books.tables)
        events = export(books.tables).events
        settled |= set(events["event"][events["state"] == EventState.SETTLED].tolist())
    return digests, settled


def files_of(folder):
    """Every file below a folder, with its bytes; locks come and go."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"lock", "ringpit.lock"}
    }


def of_old_generation(files):
    """Those that a start of the first generation reads."""
    return {path: data for path, data in files.items() if "generation-0002" not in path.parts}


# -- the same books


def test_the_sessions_have_everything_that_moves():
    """Stops, trailing ones, icebergs, orders that expire, all-or-none orders, bands, skip lists, and settled events."""
    found = defaultdict(int)
    for records in RECORDS:
        books = Books(allocate(LIMITS, market_data=False), 0)
        books.apply(records.view(MARKER))
        state = export(books.tables)
        traits = state.orders["traits"]
        for trait in (Trait.STOP, Trait.TRAILING, Trait.TIMED, Trait.ALL_OR_NONE):
            found[trait] += np.count_nonzero(traits & trait)
        found["iceberg"] += np.count_nonzero(state.details["display"])
        found["bands"] += len(state.grids)
        found["lists"] += len(state.lists)
        found["settled"] += np.count_nonzero(state.events["state"] == EventState.SETTLED)
    assert all(found.values()), found


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 2), (2, 1)])
def test_every_event_has_its_book_on_its_new_shard(exchange, old, new):
    """Digests and settled events as before, each event where it belongs, seq from 1; the old files are as they were."""
    config = exchange(old, PLACEMENT__EVENTS="{101 = 0, 1 = 0}")
    before = files_of(config.data_folder())
    digests, settled = expected(old)
    books, said = recut(config, new)
    assert Topology(2, new) == read(config)
    after = resolved(replace(config, exchange=replace(config.exchange, shards=new)))
    directory = Directory(new, 1, Placement(events={101: 0, 1: 0}))
    directory.place()
    found, found_settled = {}, set()
    for shard in range(new):
        tables, begin, _ = tables_of(after, shard)
        assert (0, 0) == (begin.seq, tables.seq)
        found |= digest_of_each(tables.tables)
        events = export(tables.tables).events
        found_settled |= set(events["event"][events["state"] == EventState.SETTLED].tolist())
        assert all(shard == directory.shard_of(int(event)) for event in events["event"])
    assert (digests, settled) == (found, found_settled)
    unchanged = of_old_generation(files_of(config.data_folder()))
    del unchanged[next(path for path in unchanged if path.name == "topology.json")]
    assert unchanged == {path: data for path, data in before.items() if path.name != "topology.json"}
    assert [(1, shard) for shard in range(old)] + [(2, shard) for shard in range(new)] == [
        (each.generation, each.shard) for each in books
    ]
    assert any(line.endswith("counts from now on") for line in said)


def test_the_placement_moves_an_event_alone(exchange):
    """With the same number of shards only what is placed elsewhere moves; where nothing would move, nothing is done."""
    config = exchange(1)
    with pytest.raises(
        ConfigError, match=r"--shards 1: there are as many already .* or place events in \[placement\]"
    ):
        recut(config, 1)
    config = exchange(2)
    first = Directory(2, 1)
    moved = next(event for event in (1, 3, 4, 5) if first.shard_of(event) == 0)
    recut(exchange(2, PLACEMENT__EVENTS=f"{{{moved} = 1}}"), 2)
    books, _, _ = tables_of(resolved(config), 1)
    assert moved in digest_of_each(books.tables)


def test_a_life_behind_it_goes_on(exchange):
    """Frames of before are duplicates on every shard, orders of before can be cancelled, and a second recut has it all."""
    config = exchange(2)
    recut(config, 3)
    new = resolved(replace(config, exchange=replace(config.exchange, shards=3)))
    directory = Directory(3, 1)
    newest = keyed_frames(RECORDS[1])[-2:]
    tick = np.zeros(1, COMMAND)
    tick["kind"] = CommandKind.TICK
    for shard in range(3):
        untouched, _, _ = tables_of(new, shard)
        untouched.apply(
            in_frames(tick).view(MARKER)
        )  # time is the latest of all shards: what has expired by then goes
        books = lived(new, shard, np.concatenate(newest))
        assert untouched.digest() == books.digest(), "a duplicate changed something"
        assert sum(map(len, newest)) == books.seq
    again = {}
    for shard in range(3):
        state = export(tables_after(new, shard).tables)
        rows = np.repeat(state.events["event"], state.events["orders"])
        cancels = np.zeros(len(rows), COMMAND)
        cancels["kind"] = CommandKind.CANCEL
        cancels["event"], cancels["order"], cancels["account"] = (
            rows,
            state.orders["id"],
            state.orders["account"],
        )
        books = lived(new, shard, in_frames(cancels))
        assert 0 == len(export(books.tables).orders)
        again |= digest_of_each(books.tables)
        assert all(shard == directory.shard_of(event) for event in digest_of_each(books.tables))
    recut(config_of(new, 3), 1)
    (books, _, _) = tables_of(resolved(config_of(new, 1)), 0)
    assert again == digest_of_each(books.tables)
    assert Topology(3, 1) == read(new)


def keyed_frames(records):
    """The frames that have a key, in order."""
    frames, at = [], 0
    while at < len(records):
        marker = records[at : at + 1].view(MARKER)[0]
        behind = at + 1 + int(marker["count"])
        if marker["key_low"]:
            frames.append(records[at:behind])
        at = behind
    return frames


def tables_after(config, shard):
    """Books behind a shard's whole log."""
    books, begin, position = tables_of(config, shard)
    log = open_log(config, shard)
    generation = config.exchange.generation
    recover(log, shard, generation, 78, lambda _, rows: books.apply(rows), begin=begin, position=position)
    log.close()
    return books


def config_of(config, shards):
    """The same exchange as its operator writes it: so many shards, whatever generation counts."""
    return replace(config, exchange=replace(config.exchange, shards=shards, generation=0))


def test_the_window_keeps_the_newest_keys(exchange):
    """A window that is shorter than all old ones together is told, and keeps the newest of each."""
    config = exchange(2, LIMITS__KEYS="64")
    for shard in range(2):
        lived(resolved(config), shard, np.concatenate([tick_of(50 * shard + number) for number in range(50)]))
    _, said = recut(config, 1)
    rule = r"the old shards remember \d{3} frame keys, the new ones the newest 64 of them \(limits\.keys\)"
    assert any(re.fullmatch(rule, line) for line in said), said
    keys = export(tables_of(resolved(config_of(config, 1)), 0)[0].tables).keys["low"].tolist()
    assert 64 == len(keys)
    assert {TICK_KEYS + number for number in (*range(18, 50), *range(68, 100))} == set(keys)


def tick_of(number):
    """A frame with a key of its own that does nothing."""
    frame = np.zeros(2, COMMAND)
    frame["kind"][1] = CommandKind.TICK
    marker = frame[:1].view(MARKER)
    marker["kind"], marker["count"], marker["key_low"] = CommandKind.MARKER, 1, TICK_KEYS + number
    return frame


# -- refusals, which change nothing


def test_an_exchange_that_runs_is_refused(exchange):
    """Its locks are held."""
    config = exchange(2)
    for lock in (lock_of_name(config.exchange.name), lock_of_folder(config.data_folder())):
        with (
            lock,
            pytest.raises(AlreadyRunning, match=r"holds the lock: stop that ringpit first, then reshard"),
        ):
            recut(config, 3)
    log = open_log(resolved(config), 1)
    with pytest.raises(AlreadyRunning, match=r"log of shard 1 .* holds the lock"):
        recut(config, 3)
    log.close()
    assert Topology(1, 2) == read(config)


def test_a_stop_that_was_not_clean_is_refused(exchange, tmp_path):
    """A delivery might be half dealt: the sentence says to start and stop it."""
    config = exchange(2)
    old = resolved(config)
    log = open_log(old, 1)
    state = recover(log, 1, 1, 5, lambda *_: None)
    log.append(BatchWriter(state).mark(state.next_seq - 1, clean=False))
    while log.poll(60) < 2:
        pass
    log.close()
    assert_refused(
        config,
        ReshardRefused,
        r"log of shard 1 does not end with a clean stop .*: start the exchange and stop it",
    )
    lived(old, 1, RECORDS[1][:0])
    recut(config, 3)
    shutil.rmtree(tmp_path / "data")
    write_exchange(config, clean=False)
    assert_refused(config, ReshardRefused, "log of shard 0 does not end with a clean stop")


def assert_refused(config, kind, rule, shards=3):
    """A refusal with its sentence; not one file is changed."""
    before = files_of(config.data_folder())
    with pytest.raises(kind, match=rule):
        recut(config, shards)
    assert before == files_of(config.data_folder())


def test_a_clean_mark_before_the_snapshot_counts(exchange):
    """A worker takes its last snapshot behind its mark: then nothing is read, and the stop was clean all the same."""
    config = exchange(1)
    log = LogAt(config.data_folder()).source().view
    last = list(log.read())[-1]
    header, _ = decode(last.batch)
    books = Books(empty(config), 0)
    books.apply(RECORDS[0].view(MARKER))
    facts = SnapshotFacts(
        shard=0,
        generation=1,
        seq=books.seq,
        epoch=int(header["epoch"]),
        nonce=int(header["nonce"]),
        checksum=int(header["checksum_after"]),
        confirmed_seq=books.seq,
        engine_ns=0,
        skip_count=0,
        log_position=last.following,
        log_seq=books.seq,
        log_identity=log.identity(),
        digest=books.digest(),
    )
    store_of(resolved(config), 0).write(facts, export(books.tables)._asdict()).publish()
    _, said = recut(config, 2)
    assert said[0].endswith(f"0 records replayed behind the snapshot at seq {books.seq}, up to seq {books.seq}")


def test_what_belongs_to_another_log_is_refused(exchange):
    """A snapshot that was taken of another log, as a start refuses it."""
    config = exchange(2)
    (config.data_folder() / "log" / "shard-0001" / "identity").write_text("other\n")
    assert_refused(config, SnapshotForeign, "its log must be 'other', was ")


def test_a_damaged_log_is_refused(exchange):
    """With the position, as a start refuses it; a snapshot that lies is refused, too."""
    config = exchange(2)
    path = LogAt(config.data_folder(), shard=1).files()[-1]
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
    assert_refused(config, BatchDamaged, f"{path} at byte ")
    config = exchange(2)
    store = store_of(resolved(config), 0)
    snapshot = store.load(store.listing()[0].path)
    store.write(
        type(snapshot.facts)(**(vars(snapshot.facts) | {"digest": "0" * 32})), snapshot.arrays
    ).publish()
    assert_refused(config, ReshardRefused, "shard 0: the snapshot at seq .* do not agree: its digest is 0000")


def test_limits_that_are_too_small_are_refused(exchange):
    """With the limit's name, before anything is written."""
    config = exchange(3, LIMITS__ORDERS="64")
    most = max(len(export(tables_of(resolved(config), shard)[0].tables).orders) for shard in range(3))
    assert most <= 64
    assert_refused(
        config, ConfigError, r"new shard 0 of 1: limits\.orders must be at least \d+ .*; nothing was written", 1
    )


def test_what_cannot_be_meant_is_refused(exchange, tmp_path):
    """No topology, a log in memory, a placement on a shard that will not be, another generation."""
    config = exchange(3, PLACEMENT__EVENTS="{1 = 2}")
    assert_refused(config, ConfigError, r"placement\.events must name shards from 0 to 1, was \{1: 2\}", 2)
    assert_refused(exchange(3, EXCHANGE__GENERATION="2"), ConfigError, r"generation must be 1, which counts", 2)
    assert_refused(exchange(3, LOG__KIND="memory"), ConfigError, "kind is memory: nothing lasts", 2)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match=r"there is no .*topology\.json: an exchange that never ran"):
        recut(config_in(tmp_path / "nothing", 2), 3)
    assert [] == list((tmp_path / "nothing").iterdir())


def test_a_no_changes_nothing(exchange):
    """The question names both numbers."""
    config = exchange(2)
    before = files_of(config.data_folder())
    books, said = recut(config, 3, yes=False)
    assert ([], before) == (books, files_of(config.data_folder()))
    assert said[-1].startswith("Deal ")
    assert said[-1].endswith(" events of 2 shards out to 3, as topology generation 2?")


def test_books_that_differ_are_never_made_to_count(exchange, monkeypatch):
    """If reading back showed other books, the old generation would go on."""
    config = exchange(2)
    split = resharding.split

    def careless(*arguments):
        """Lose a lot of the last order."""
        parts = split(*arguments)
        for part in parts:
            part.orders["filled"][-1:] += 1
        return parts

    monkeypatch.setattr(resharding, "split", careless)
    with pytest.raises(
        ReshardRefused, match=r"event \d+ must be the same on the new shards, was .* counts as before"
    ):
        recut(config, 3)
    assert Topology(1, 2) == read(config)


# -- killed


@pytest.mark.parametrize("step", BEFORE_THE_TOPOLOGY)
def test_killed_before_the_topology_counts_nothing_happened(exchange, monkeypatch, step):
    """At each step: the old generation starts as it was and goes on, and the next attempt works, whatever the first has left."""
    config = exchange(2)
    before = files_of(config.data_folder())
    monkeypatch.setattr(faults, "armed", faults.Armed(step, 0, 1))
    with pytest.raises(Crash):
        recut(config, 3)
    left = of_old_generation(files_of(config.data_folder()))
    assert before == {path: data for path, data in left.items() if path.suffix != ".unfinished"}
    old = resolved(config)
    for shard in range(2):
        assert RECORDS[shard].shape[0] == lived(old, shard, RECORDS[shard][:0]).seq
    _, said = recut(config, 1)
    wrote = BEFORE_THE_TOPOLOGY.index(step) > BEFORE_THE_TOPOLOGY.index(Step.RESHARD_READ)
    assert wrote == any("left by an attempt before" in line for line in said)
    assert Topology(2, 1) == read(config)
    assert expected(2)[0] == digest_of_each(tables_of(resolved(config_of(config, 1)), 0)[0].tables)


def test_killed_behind_the_rename_it_is_done(exchange, monkeypatch):
    """The new generation counts."""
    config = exchange(2)
    monkeypatch.setattr(faults, "armed", faults.Armed(Step.TOPOLOGY_COUNTS, 0, 1))
    with pytest.raises(Crash):
        recut(config, 1)
    assert expected(2)[0] == digest_of_each(tables_of(resolved(config_of(config, 1)), 0)[0].tables)


def test_what_somebody_has_used_is_not_removed(exchange):
    """A topology of before, put back over a generation that has run: its logs are no leftovers."""
    config = exchange(2)
    recut(config, 3)
    new = resolved(config_of(config, 3))
    lived(new, 0, RECORDS[0][:0])
    write(config, Topology(1, 2))
    assert_refused(
        config, LogNotEmpty, r"generation-0002.*epoch-000001\.log is of the generation that would be made now"
    )
    shutil.rmtree(new.log_folder())
    store = store_of(new, 0)
    first = store.load(store.listing()[0].path)
    store.write(type(first.facts)(**(vars(first.facts) | {"seq": 10})), first.arrays).publish()
    assert_refused(config, LogNotEmpty, r"seq-0+10\.snapshot is of the generation that would be made now")


# -- a later generation for whoever reads it


def test_without_its_first_snapshot_a_later_generation_is_refused(exchange):
    """Empty books would be wrong ones: by a start, a plan, verify and a replay."""
    config = exchange(2)
    recut(config, 1)
    new = resolved(config_of(config, 1))
    lived(new, 0, RECORDS[2])
    source = source_of(new, 0)
    assert verify(source).good
    assert [] == plan(source, []).refusals
    shutil.rmtree(new.snapshots_folder())
    rule = r"shard 0 of topology generation 2 begins with a snapshot, .* restore its files"
    for read_it in (lambda: tables_of(new, 0), lambda: snapshot_below(source, None, print)):
        with pytest.raises(SnapshotMissing, match=rule):
            read_it()
    assert re.search(rule, plan(source, []).refusals[0])
    verdict = verify(source)
    assert re.search(rule, verdict.snapshots[0][1])
    assert not verdict.good


def test_the_first_snapshot_is_kept(exchange):
    """Later ones come and go; the one that the log goes on from stays."""
    config = exchange(2)
    recut(config, 1)
    store = store_of(resolved(config_of(config, 1)), 0)
    first = store.load(store.listing()[0].path)
    for seq in (5, 6, 7):
        store.write(type(first.facts)(**(vars(first.facts) | {"seq": seq})), first.arrays).publish()
    store.prune(2)
    assert [7, 6, 0] == [found.seq for found in store.listing()]


# -- the command


def test_the_command_tells_asks_and_shows(exchange, tmp_path):
    """A line a step, a question, a table of both generations, what is left of the old one, and what to write where."""
    config = exchange(2)
    file = tmp_path / "ringpit.toml"
    limits = "".join(f"{name} = {getattr(config.limits, name)}\n" for name in vars(LIMITS))
    file.write_text(
        f'[exchange]\nname = "{config.exchange.name}"\ndata = "{config.data_folder()}"\n[limits]\n{limits}'
    )
    code, _, error = ringpit("reshard", "--shards", 3, "-c", file, given="n\n")
    assert (0, True) == (code, error.endswith("ringpit: nothing was changed\n"))
    code, out, error = ringpit("reshard", "--shards", 3, "-c", file, "--yes")
    assert (0, 5) == (code, out.count("equal"))
    lines = error.splitlines()
    folder = config.data_folder()
    assert f"remove it: `rm -r {folder}/log/shard-* {folder}/snapshots/shard-*`" in lines[-2]
    assert f"ringpit: write exchange.shards = 3 into {file} before the next start" == lines[-1]
    code, _, error = ringpit("wal", "verify", "-c", file)
    assert (Exit.CONFIG, True) == (code, "write 3, or stop it cleanly" in error)
    file.write_text(file.read_text().replace("[limits]", "shards = 3\n[limits]"))
    new = resolved(load(file))
    code, out, error = ringpit("wal", "plan", "-c", file)
    assert (0, 3, "") == (code, out.count("(seq 0)"), error)
    lived(new, 1, RECORDS[2])
    digest = tables_after(new, 1).digest()
    for more in ((), ("--from-start",)):
        code, out, _ = ringpit("replay", "--log", "-c", file, "--shard", 1, "--digest", *more)
        assert (0, digest) == (code, out.strip())
    code, out, _ = ringpit("wal", "verify", "-c", file)
    assert (0, 3) == (code, out.count("snapshot at seq 0 agrees with the log"))
    for logs, shards in ((folder / "log", 2), (folder / "log" / "generation-0002", 3)):
        code, out, error = ringpit("wal", "verify", "--folder", logs)
        assert (0, shards, "") == (code, out.count("the log is whole"), error)
    code, out, error = ringpit("reshard", "--shards", 2, "-c", file, "--yes")
    assert (Exit.REFUSED, True) == (code, "does not end with a clean stop" in error)
    lived(new, 1, RECORDS[0][:0])
    code, out, error = ringpit("reshard", "--shards", 2, "-c", file, "--yes")
    assert f"remove it: `rm -r {folder}/log/generation-0002 {folder}/snapshots/generation-0002`" in error
    assert (0, Topology(3, 2)) == (code, read(new))


# -- over Kafka


@pytest.mark.brokers
def test_over_kafka_a_killed_attempt_is_cleared_away(kafka_bootstrap, tmp_path, monkeypatch):
    """A topic of its own for the new generation; the next attempt removes an empty one, and refuses one that was used."""
    topic = f"ringpit.test.{uuid.uuid4().hex[:12]}"
    keys = {"LOG__KIND": "kafka", "KAFKA__BOOTSTRAP": kafka_bootstrap, "KAFKA__TOPIC": topic}
    config = config_in(tmp_path, 2, **keys)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    try:
        write_exchange(config)
        with monkeypatch.context() as patched:
            patched.setattr(faults, "armed", faults.Armed(Step.RESHARD_SHARD_WRITTEN, 0, 1))
            with pytest.raises(Crash):
                recut(config, 3)
        _, said = recut(config, 1)
        assert f"removed the empty topic '{topic}.2', left by an attempt before" in said
        new = resolved(config_of(config, 1))
        assert expected(2)[0] == digest_of_each(tables_of(new, 0)[0].tables)
        lived(new, 0, RECORDS[2])
        write(config, Topology(1, 2))
        with pytest.raises(
            LogNotEmpty, match=rf"topic '{topic}\.2' must be empty to be removed, partition 0 has had"
        ):
            recut(config, 3)
        write(config, Topology(2, 1))
        assert f"delete the topic '{topic}.2' with your Kafka's tools" in resharding.remains_of(config, 2)
        recut(config_of(config, 1), 2)
        assert Topology(3, 2) == read(config)
        path_of(config).unlink()
        with pytest.raises(
            ConfigError, match=rf"but the topic '{topic}\.2' of a later generation: copy the file"
        ):
            Supervisor(config, print)._establish()
        other = config_in(tmp_path, 1, **(keys | {"KAFKA__TOPIC": f"{topic}.3"}))
        with pytest.raises(
            ConfigError, match=r"shards is 1, but the topic .* has 2 partitions, .* write 2, or name"
        ):
            Supervisor(other, print)._establish()
        assert read(config) is None
    finally:
        admin.delete_topics([topic, f"{topic}.2", f"{topic}.3"])


def ringpit(*arguments, given=None):
    """Run a command in this process; exit code, standard output, standard error."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], input=given, catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr
