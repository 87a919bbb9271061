"""Logs and snapshots that are damaged, mixed up or out of room: what `ringpit run` says and how it ends, or goes on."""

import os
import random
import shutil

import psutil
import pytest

from ringpit.shards.exits import Exit
from ringpit.wal.segment_files import SegmentFiles, begin_of
from ringpit.wal.segments import SegmentView

ORDERS = 6_000
DISK_BYTES = 4 << 20
LEFT_BYTES = 32 << 10  # of the disk, too few for a snapshot

pytestmark = pytest.mark.compiled
ONLY_AT_THE_END = "[snapshots]\ninterval_seconds = 0\n"


@pytest.fixture
def stopped(make_exchange, make_flow_on):
    """An exchange that took half of a flow and was stopped cleanly, so that each shard has a snapshot; and the flow."""
    exchange = make_exchange(ONLY_AT_THE_END).start()
    flow = make_flow_on(exchange, ORDERS, seed=61)
    flow.offer(until=len(flow.bodies) // 2)
    flow.settle()
    assert 0 == exchange.stop(), exchange.said()
    return exchange, flow


def refusal(exchange):
    """What it says when it is started and refuses; it has ended with the code for that and left nothing."""
    before = len(exchange.said())
    exchange.launch()
    assert Exit.REFUSED == exchange.wait(), exchange.said()
    said = exchange.said()[before:]
    assert "Traceback" not in said
    assert [] == exchange.shared_memory()
    return said


def goes_on(exchange, flow):
    """It starts, takes the rest of the flow, and everything is as submitted."""
    exchange.start()
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def log_file(exchange, shard):
    """The newest file of a shard's log."""
    return SegmentFiles(exchange.config.log_folder(), shard).paths()[-1]


def test_a_log_that_does_not_belong_to_its_snapshot_is_refused(stopped):
    """Two exchanges mixed up: the snapshot, both identities, and what to do; put right, it goes on."""
    exchange, flow = stopped
    ours, theirs = (exchange.config.log_folder() / f"shard-{shard:04}" / "identity" for shard in (0, 1))
    kept = ours.read_text()
    ours.write_text(theirs.read_text())
    said = refusal(exchange)
    assert "its log must be" in said
    assert "do not belong together; name the right log, or another folder in snapshots.folder" in said
    ours.write_text(kept)
    goes_on(exchange, flow)


def test_a_log_shorter_than_its_snapshot_is_refused(stopped):
    """A log that lost its end: where it ends, where it should, and what to do; restored, it goes on."""
    exchange, flow = stopped
    path = log_file(exchange, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = refusal(exchange)
    assert "restore the missing part of the log before starting" in said
    path.write_bytes(whole)
    goes_on(exchange, flow)


def test_a_torn_snapshot_is_left_out(stopped):
    """Named, with its lengths, and the log is read instead."""
    exchange, flow = stopped
    path = max((exchange.config.snapshots_folder() / "shard-0000").glob("*.snapshot"))
    os.truncate(path, path.stat().st_size - 1)
    goes_on(exchange, flow)
    assert f"{path}: must be" in exchange.said()
    assert "it is left out, the next older one is tried" in exchange.said()


def test_a_full_disk_under_snapshots_is_said_and_costs_nothing(make_exchange, make_flow_on, small_disk):
    """There is no room for a snapshot: a sentence, and orders go on; when there is room again, one is taken."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES - LEFT_BYTES))
    exchange = make_exchange(f'[snapshots]\nfolder = "{small_disk}/snapshots"\ninterval_seconds = 1\n').start()
    flow = make_flow_on(exchange, ORDERS, seed=62)
    exchange.until(lambda: flow.offer_some() or "no room for a snapshot in" in exchange.said(), "it is silent")
    assert "free disk space or move the snapshots: the log is whole without it" in exchange.said()
    flow.finish()
    ballast.unlink()
    exchange.until_said("snapshot at seq")
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def torn_anywhere(make_exchange, make_flow_on, count, seed):
    """Cut the last batch of a log, which nobody was told to be durable, at random bytes, and start; then judge."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    exchange = make_exchange(ONLY_AT_THE_END, "worker-0.1:DURABLE:SIGSTOP:2")
    exchange.use("log.segment_bytes", 1 << 26)  # one file, or the newest might be one that has just been begun
    exchange.start()
    flow = make_flow_on(exchange, ORDERS, seed, window=10)
    worker = exchange.child("worker-0")
    exchange.until(lambda: flow.offer_some() or worker.status() == psutil.STATUS_STOPPED, "it does not stop")
    flow.connect()  # counts what was acknowledged while the shared memory is there
    exchange.kill_all()
    exchange.environment.pop("RINGPIT_FAULT")
    last = list(SegmentView(exchange.config.log_folder(), 0).read())[-1]
    path = log_file(exchange, 0)
    start = last.position - begin_of(path)
    kept = exchange.data.with_name("kept")
    shutil.copytree(exchange.data, kept)
    size = path.stat().st_size - start
    for cut in sorted({1, size - 1, *chance.sample(range(2, size - 1), count - 2)}):
        if exchange.process.poll() is None:
            exchange.kill_all()
        shutil.rmtree(exchange.data)
        shutil.copytree(kept, exchange.data)
        os.truncate(path, start + cut)
        exchange.start()
        assert f"shard 0: {cut} bytes at the end of its log are torn and were cut" in exchange.said()
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def test_a_torn_end_of_the_log_is_cut_and_said(make_exchange, make_flow_on):
    """At its first byte, at its last, and between: what nobody was told to be durable comes again, and nothing is lost."""
    torn_anywhere(make_exchange, make_flow_on, 3, seed=63)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_torn_end_of_the_log_is_cut_wherever_it_is_torn(make_exchange, make_flow_on):
    """At two hundred bytes of the last batch."""
    torn_anywhere(make_exchange, make_flow_on, 200, seed=64)
