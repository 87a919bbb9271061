"""`ringpit wal` and `ringpit replay --log` as an operator uses them: what they print, where, and their exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ringpit.engine.codes import CommandKind, Reason
from ringpit.engine.tables import allocate
from ringpit.shards.cli import app
from ringpit.shards.config import load
from ringpit.shards.exits import Exit
from ringpit.shards.lock import lock_of_name
from ringpit.shards.logs import source_of
from ringpit.shards.processes import open_log
from ringpit.shards.rerun import Books
from ringpit.shards.skipping import NotSkippable, candidate
from ringpit.shards.tailing import Tail
from ringpit.testing.logs import LIMITS, LogAt, in_frames, write_log
from ringpit.testing.sessions import session
from ringpit.wal.batch import BatchKind
from ringpit.wal.snapshots import SnapshotStore

RINGPIT = Path(sys.executable).with_name("ringpit")
RECORDS = in_frames(session(400, seed=11))
KINDS = RECORDS["kind"]


@pytest.fixture(name="made", scope="module")
def made_fixture(tmp_path_factory):
    """A log of two lives with a snapshot; not to be changed."""
    return write_log(LogAt(tmp_path_factory.mktemp("logtool")), RECORDS, lives=2, snapshots_at=(0.4,))


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be changed."""
    shutil.copytree(made.folder, tmp_path / "data")
    return LogAt(tmp_path / "data", ends=made.ends, snapshots=made.snapshots)


@pytest.fixture
def config(copy, tmp_path):
    """A configuration file of the exchange that wrote the log."""
    limits = "".join(f"{name} = {value}\n" for name, value in vars(LIMITS).items())
    path = tmp_path / "ringpit.toml"
    path.write_text(
        f'[exchange]\nname = "wal-{uuid.uuid4().hex[:12]}"\ndata = "{copy.folder}"\nshards = 1\n[limits]\n{limits}'
    )
    return path


def ringpit(*arguments, given=None):
    """Run a command in this process; exit code, standard output, standard error."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], input=given, catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def command_seq(above, kind=CommandKind.NEW, *, extended=False):
    """Seq of the first command of a kind above a seq, with or without an extension before it, that the edge let through."""
    for seq in range(above + 1, len(RECORDS) + 1):
        before = KINDS[seq - 2] == CommandKind.EXTENSION
        if KINDS[seq - 1] == kind and before == extended and not RECORDS["verdict"][seq - 1]:
            return seq
    raise AssertionError(kind)


# -- inspect, verify, tail


def test_inspect_shows_batches_and_a_summary(made, copy, config):
    """A table and a summary for people; lines that add up for programs."""
    code, out, _ = ringpit("wal", "inspect", "--folder", made.log_folder)
    assert 0 == code
    assert "CLAIM" in out
    assert f"1-{len(RECORDS)}" in out
    assert "clean stop" in out
    code, out, _ = ringpit("wal", "inspect", "-c", config, "--json")
    *rows, summary = map(json.loads, out.splitlines())
    assert (0, len(RECORDS), True) == (code, summary["last_seq"], summary["clean"])
    assert len(RECORDS) == sum(row["records"] for row in rows)
    assert 2 == sum(row["kind"] == BatchKind.CLAIM.name for row in rows)
    code, out, _ = ringpit("wal", "inspect", "-c", config, "--newest", 2)
    assert (0, True) == (code, f"shard 0: {len(rows) - 2} earlier batches are not shown" in out)
    copy.files()[0].write_bytes(copy.files()[0].read_bytes()[:-1])
    code, out, error = ringpit("wal", "inspect", "-c", config)
    assert Exit.REFUSED == code
    assert "Damage" in out
    assert "`ringpit wal verify` says what is still good" in error


def test_inspect_decodes_records(made):
    """The records of a range, field by field."""
    seq = command_seq(0)
    code, out, _ = ringpit(
        "wal", "inspect", "--folder", made.log_folder, "--records", "--from", seq, "--to", seq
    )
    assert 0 == code
    assert f"{seq:>12}  NEW           " in out
    assert f"order={RECORDS['order'][seq - 1]}" in out
    code, out, _ = ringpit(
        "wal", "inspect", "--folder", made.log_folder, "--records", "--json", "--from", 2, "--to", seq
    )
    assert list(range(2, seq + 1)) == [json.loads(line)["Seq"] for line in out.splitlines()]


def test_verify_says_whether_all_is_good(copy, config):
    """0 and a line for log and snapshot; 65, the position and the advice when a bit has flipped."""
    code, out, error = ringpit("wal", "verify", "-c", config)
    assert (0, "") == (code, error)
    assert f"shard 0: the log is whole: {len(copy.ends) + 4} batches, {len(RECORDS)} records up to seq" in out
    assert f"shard 0: snapshot at seq {copy.snapshots[0]} agrees with the log" in out
    data = bytearray(copy.files()[0].read_bytes())
    data[len(data) // 2] ^= 1
    copy.files()[0].write_bytes(data)
    code, _, error = ringpit("wal", "verify", "-c", config)
    assert Exit.REFUSED == code
    assert f"{copy.files()[0]} at byte" in error
    assert "is sound" in error
    code, out, _ = ringpit("wal", "verify", "-c", config, "--json")
    assert (Exit.REFUSED, False) == (code, json.loads(out)["good"])


def test_tail_follows_until_it_is_interrupted(copy):
    """The last batches at once, then what is appended meanwhile, and a clean end on ctrl-C."""
    command = [RINGPIT, "wal", "tail", "--folder", copy.log_folder, "--from-end", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        try:
            assert "MARK" in tail.stdout.readline()
            write_log(LogAt(copy.folder), RECORDS[:0], clean=False)
            assert "epoch 3  CLAIM" in tail.stdout.readline()
            assert f"epoch 3  MARK      next seq {len(RECORDS) + 1}" in tail.stdout.readline()
            tail.send_signal(signal.SIGINT)
            _, error = tail.communicate(timeout=60)
        finally:
            tail.kill()
    assert (0, "") == (tail.returncode, error)


# -- diff, plan


def test_diff_shows_the_first_difference(made, copy, config, tmp_path):
    """Equal, different in a field, and what is missing on the command line."""
    code, out, _ = ringpit("wal", "diff", made.log_folder, "-c", config)
    assert (0, f"shard 0: equal: {len(RECORDS)} records from seq 1 on\n") == (code, out)
    seq = command_seq(0)
    changed = RECORDS.copy()
    changed["account"][seq - 1] += 1
    other = write_log(LogAt(tmp_path / "other"), changed)
    code, out, _ = ringpit("wal", "diff", copy.log_folder, other.log_folder)
    first, field = out.splitlines()
    assert (Exit.REFUSED, f"shard 0: {seq - 1} records from seq 1 on are equal, then seq {seq} differs") == (
        code,
        first,
    )
    account = RECORDS["account"][seq - 1]
    assert f"  NEW account: {account} in the first log, {account + 1} in the second" == field
    code, _, error = ringpit("wal", "diff", made.log_folder)
    assert (Exit.CONFIG, True) == (code, "name a second folder, or a configuration with -c" in error)


def test_plan_says_what_a_start_would_do(copy, config):
    """What is read, from where, how long; refused with the holder of the lock; and a first start."""
    code, out, error = ringpit("wal", "plan", "-c", config)
    assert (0, "") == (code, error)
    assert f"(seq {copy.snapshots[0]})" in out
    assert f"{len(RECORDS) - copy.snapshots[0]} records" in out
    assert f"claims epoch 3, goes on at seq {len(RECORDS) + 1}" in out
    with lock_of_name(load(config).exchange.name):
        code, _, error = ringpit("wal", "plan", "-c", config)
    assert Exit.REFUSED == code
    assert f"(process {os.getpid()}) holds the lock: stop that ringpit first" in error
    shutil.rmtree(copy.log_folder)
    code, out, _ = ringpit("wal", "plan", "-c", config, "--json")
    made_plan = json.loads(out)
    assert (0, 1, True) == (code, made_plan["next_epoch"], made_plan["works"])


@pytest.mark.parametrize("command", ["inspect", "verify", "tail"])
def test_what_cannot_be_meant_is_refused(command, config, tmp_path):
    """A shard that does not exist, a folder that holds no log, and a log that is not there."""
    code, _, error = ringpit("wal", command, "-c", config, "--shard", 3)
    assert (Exit.CONFIG, "ringpit: --shard must be from 0 to 0, was 3\n") == (code, error)
    (tmp_path / "empty").mkdir()
    code, _, error = ringpit("wal", command, "--folder", tmp_path / "empty")
    assert (Exit.CONFIG, True) == (code, "must hold folders named shard-NNNN" in error)
    config.write_text(config.read_text().replace("data = ", 'data = "nowhere" # '))
    code, _, error = ringpit("wal", command, "-c", config)
    assert (Exit.UNAVAILABLE, True) == (code, "there is no log of shard 0" in error)
    config.write_text('[log]\nkind = "memory"\n')
    code, _, error = ringpit("wal", command, "-c", config)
    assert (Exit.CONFIG, True) == (code, "there is no log at rest" in error)


# -- skip


def test_a_skip_is_obeyed_by_everybody_from_then_on(copy, config):
    """Shown, asked, appended: a rerun, with and without snapshot, refuses the command; plan and verify say so."""
    seq = command_seq(copy.snapshots[0])
    code, out, error = ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", seq, given="n\n")
    assert (0, True) == (code, "nothing was skipped" in error)
    assert f"{seq:>12}  NEW" in out
    assert 2 == len(copy.files())
    code, _, error = ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", seq, given="y\n")
    assert (0, True) == (code, f"seq {seq} of shard 0 is skipped; start the exchange" in error)
    changed = RECORDS.copy()
    changed["verdict"][seq - 1] = Reason.SKIPPED
    books = Books(allocate(LIMITS, market_data=False), 0)
    books.apply(changed)
    for extra in ((), ("--from-start",)):
        code, out, _ = ringpit("replay", "--log", "-c", config, "--digest", *extra)
        assert (0, f"{books.digest()}\n") == (code, out)
    assert 0 == ringpit("wal", "verify", "-c", config)[0]
    assert f"skips seq {seq}" in ringpit("wal", "inspect", "-c", config)[1]
    assert [seq] == json.loads(ringpit("wal", "plan", "-c", config, "--json")[1])["skips"]
    code, _, error = ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", seq, "--yes")
    assert (Exit.REFUSED, True) == (code, f"seq {seq} of shard 0 is skipped already" in error)
    code, _, error = ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", command_seq(seq), "--yes")
    assert 0 == code
    assert 2 == len(json.loads(ringpit("wal", "plan", "-c", config, "--json")[1])["skips"])
    assert "its reports have gone out: skipping contradicts what clients were told" in error


def test_what_cannot_be_skipped_is_refused_and_nothing_is_written(copy, config):
    """Markers, extensions, what is not there, what a snapshot holds: each with what to do instead."""
    above = copy.snapshots[0]
    source = source_of(load(config), 0)
    marker = above + 1 + int(np.flatnonzero(KINDS[above:] == CommandKind.MARKER)[0])
    extended = command_seq(above, extended=True)
    for seq, sentence in (
        (
            marker,
            f"seq {marker} is a MARKER, the head of a frame: skip one of its commands, seqs {marker + 1} to ",
        ),
        (
            extended - 1,
            f"seq {extended - 1} is an EXTENSION and belongs to the NEW at seq {extended}: skip that instead",
        ),
        (above, f"--seq must be above {above}, was {above}: the newest snapshot holds its effect"),
        (
            len(RECORDS) + 1,
            f"--seq must be from {above + 1} to {len(RECORDS)}, which is what the log of shard 0 holds",
        ),
    ):
        with pytest.raises(NotSkippable, match=sentence):
            candidate(source, seq)
        assert Exit.REFUSED == ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", seq, "--yes")[0]
    chosen = candidate(source, extended)
    assert [("EXTENSION", extended - 1)] == [(each["Record"], each["Seq"]) for each in chosen.completed_by]
    assert 2 == len(copy.files())


def test_nothing_is_skipped_while_an_exchange_runs(config, copy):
    """The lock of the exchange's name is held: refused, and by whom."""
    with lock_of_name(load(config).exchange.name):
        code, _, error = ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", 900, "--yes")
    assert Exit.UNAVAILABLE == code
    assert f"(process {os.getpid()}) holds the lock: stop that ringpit first, then skip" in error
    assert 2 == len(copy.files())


# -- replay --log


def test_replay_goes_to_any_seq(copy, config):
    """The books and the digest there, from snapshot or start; an event's book; what the snapshot says."""
    seq = copy.snapshots[0] + 5
    books = Books(allocate(LIMITS, market_data=False), 0)
    books.apply(RECORDS[:seq])
    code, out, _ = ringpit("replay", "--log", "-c", config, "--to", seq)
    assert 0 == code
    assert f"shard 0 at seq {seq}, from the snapshot at seq {copy.snapshots[0]}: digest {books.digest()}" in out
    assert f"shard 0: the snapshot at seq {copy.snapshots[0]} agrees" in out
    code, out, _ = ringpit(
        "replay", "--log", "-c", config, "--to", seq, "--from-start", "--event", 1, "--depth", 3
    )
    assert 0 == code
    assert "event 1" in out
    assert "from its first batch" in out
    code, _, error = ringpit("replay", "--log", "-c", config, "--event", 999)
    assert (Exit.CONFIG, True) == (code, "--event 999 is not OPEN at this seq; open are: " in error)
    code, _, error = ringpit("replay", "--log", "-c", config, "--to", len(RECORDS) + 1)
    assert (Exit.CONFIG, True) == (code, f"--to must be at most {len(RECORDS)}" in error)


def test_replay_writes_reports(tmp_path):
    """Lines as the publisher would have written them, of this shard; a short log, as lines are slow uncompiled."""
    made = write_log(LogAt(tmp_path / "short"), in_frames(session(60, seed=2)))
    code, out, _ = ringpit("replay", "--log", "--folder", made.log_folder, "--reports", tmp_path / "out.ndjson")
    assert (0, True) == (code, "from its first batch" in out)
    lines = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert "EventCreated" == lines[0]["Kind"]
    assert [line["Seq"] for line in lines] == sorted(line["Seq"] for line in lines)


def test_a_snapshot_that_does_not_agree_is_told(copy, config):
    """65: a log that was changed in a way that no checksum shows does not give the snapshot's digest."""
    other = RECORDS.copy()
    other["quantity"][command_seq(0) - 1] = 1
    shutil.rmtree(copy.log_folder)
    write_log(LogAt(copy.folder), other, lives=2)
    code, _, error = ringpit("replay", "--log", "-c", config, "--from-start", "--digest")
    assert (0, "") == (code, error)  # of another log: not compared
    store_identity(copy, copy.source().view.identity())
    code, _, error = ringpit("replay", "--log", "-c", config, "--from-start", "--digest")
    assert Exit.REFUSED == code
    assert f"the snapshot at seq {copy.snapshots[0]} does not agree: its running checksum is" in error


def store_identity(made, identity):
    """Give the snapshots another log's name."""
    store = SnapshotStore(made.folder / "snapshots", 0)
    for found in store.listing():
        snapshot = store.load(found.path)
        facts = type(snapshot.facts)(**(vars(snapshot.facts) | {"log_identity": identity}))
        store.write(facts, snapshot.arrays).publish()


def test_replay_needs_something_to_replay():
    """Neither a file nor --log."""
    code, _, error = ringpit("replay")
    assert (Exit.CONFIG, True) == (code, "replay needs an NDJSON file, - for standard input, or --log" in error)


# -- over Kafka


@pytest.mark.brokers
def test_a_log_in_kafka_is_looked_at_in_the_same_way(copy, config, kafka_bootstrap):
    """Inspect, verify, plan, tail's last batch, diff against the same history in files, and a skip, over a real Kafka."""
    topic = f"ringpit-wal-{uuid.uuid4().hex}"
    config.write_text(
        config.read_text()
        + f'[log]\nkind = "kafka"\n[kafka]\nbootstrap = "{kafka_bootstrap}"\ntopic = "{topic}"\n'
    )
    shutil.rmtree(copy.folder / "snapshots")
    code, out, _ = ringpit("wal", "plan", "-c", config)
    assert (0, True) == (code, "none yet: a start begins one" in out)
    loaded = load(config)
    made = write_log(
        LogAt(copy.folder, open_log=lambda: open_log(loaded, 0)), RECORDS, lives=2, snapshots_at=(0.4,), seed=8
    )
    code, out, _ = ringpit("wal", "inspect", "-c", config, "--json")
    assert (0, len(RECORDS)) == (code, json.loads(out.splitlines()[-1])["last_seq"])
    code, out, error = ringpit("wal", "verify", "-c", config)
    assert (0, "", True) == (code, error, f"snapshot at seq {made.snapshots[0]} agrees with the log" in out)
    code, out, _ = ringpit("wal", "plan", "-c", config, "--json")
    made_plan = json.loads(out)
    assert (0, made.snapshots[0], 3) == (code, made_plan["snapshot_seq"], made_plan["next_epoch"])
    assert len(RECORDS) - made.snapshots[0] == made_plan["records"]
    code, out, _ = ringpit("wal", "diff", copy.log_folder, "-c", config)
    assert (0, f"shard 0: equal: {len(RECORDS)} records from seq 1 on\n") == (code, out)
    assert [BatchKind.MARK] == [row.kind for row, _ in Tail(source_of(loaded, 0), 1).poll()]
    seq = command_seq(made.snapshots[0])
    assert 0 == ringpit("wal", "skip", "-c", config, "--shard", 0, "--seq", seq, "--yes")[0]
    assert [seq] == json.loads(ringpit("wal", "plan", "-c", config, "--json")[1])["skips"]
    code, out, _ = ringpit("wal", "diff", copy.log_folder, "-c", config)
    assert (Exit.REFUSED, True) == (code, "NEW verdict: NONE in the first log, SKIPPED in the second" in out)


# -- trim


def test_a_trim_keeps_what_two_snapshots_need(config, copy):
    """With one snapshot nothing is cut; with more, what lies before the second newest goes, and everything reads on."""
    code, _, error = ringpit("wal", "trim", "-c", config, "--yes")
    assert (0, True) == (code, "must have 2 whole snapshots of this log before it is trimmed, has 1" in error)
    shutil.rmtree(copy.folder)
    copy.folder.mkdir()
    made = write_log(LogAt(copy.folder), RECORDS, lives=4, snapshots_at=(0.3, 0.6, 0.9))
    before = made.files()
    digest = ringpit("replay", "--log", "-c", config, "--digest")[1]
    code, _, error = ringpit("wal", "trim", "-c", config, given="n\n")
    assert (0, True, before) == (code, "nothing was removed" in error, made.files())
    code, _, error = ringpit("wal", "trim", "-c", config, given="y\n")
    assert (0, True) == (code, f"a start needs nothing up to seq {made.snapshots[1]}" in error)
    assert before[2:] == made.files()
    assert 0 == ringpit("wal", "verify", "-c", config)[0]
    assert (0, digest) == ringpit("replay", "--log", "-c", config, "--digest")[:2]
    code, _, error = ringpit("wal", "trim", "-c", config, "--yes")
    assert (0, before[2:]) == (code, made.files())
