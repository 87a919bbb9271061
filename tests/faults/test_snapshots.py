"""A start goes on from a snapshot: what comes out and what rests is as if the whole log had been read."""

import pytest

ORDERS = 20_000

pytestmark = pytest.mark.compiled
OFTEN = "[snapshots]\ninterval_seconds = 1\n"
FOLLOWED = (
    OFTEN + "[follower]\nenabled = true\nheartbeat_ms = 5000\n"
)  # whoever dies is seen at once; nobody hangs


def snapshots_of(exchange):
    """Names of the snapshots that count, by shard."""
    folder = exchange.config.snapshots_folder()
    return {
        shard: sorted(path.name for path in (folder / f"shard-{shard:04}").glob("*.snapshot"))
        for shard in (0, 1)
    }


@pytest.mark.parametrize("more", [OFTEN, FOLLOWED], ids=["worker", "follower"])
def test_a_snapshot_is_taken_under_load_and_a_start_goes_on_from_it(make_exchange, make_flow_on, more):
    """Killed as by a power cut after snapshots were taken, it goes on from the newest one, and nothing is lost or changed."""
    exchange = make_exchange(more).start()
    flow = make_flow_on(exchange, ORDERS, seed=41)
    flow.offer(until=len(flow.bodies) // 2)
    exchange.until(lambda: all(snapshots_of(exchange).values()), "no snapshot is taken")
    exchange.kill_all()
    exchange.start()
    for shard in (0, 1):
        assert f"worker-{shard}: shard {shard}: goes on from the snapshot at seq" in exchange.said(), (
            exchange.said()
        )
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


@pytest.mark.parametrize("step", ["SNAPSHOT_WRITTEN", "SNAPSHOT_PUBLISHED"])
@pytest.mark.parametrize(
    ("more", "who"), [(OFTEN, "worker"), (FOLLOWED, "follower")], ids=["worker", "follower"]
)
def test_whoever_dies_at_a_snapshot_costs_nothing(make_exchange, make_flow_on, more, who, step):
    """Killed with a snapshot that does not count yet, or that has just begun to count: whole or not at all, and nothing is lost."""
    first = 1 if who == "worker" else 2
    faults = ",".join(f"{who}-{shard}.{first}:{step}:SIGKILL:1" for shard in (0, 1))
    exchange = make_exchange(more, faults)
    exchange.use(
        "rings.journal_slots", 1 << 17
    )  # more than is sent: no follower is let go before its first snapshot
    exchange.start()
    if who == "follower":
        exchange.until_followed()
    flow = make_flow_on(exchange, 2 * ORDERS, seed=43, window=20)
    for shard in (0, 1):
        exchange.until(
            lambda: flow.offer_some() or f"{who}-{shard}: was killed by signal 9" in exchange.said(),  # noqa: B023 - it is called here
            "it lives on",
        )
    flow.finish()
    exchange.until(lambda: all(snapshots_of(exchange).values()), "no snapshot is taken")
    assert 0 == exchange.stop(), exchange.said()
    assert "it is left out" not in exchange.said()
    exchange.assert_published(flow.commands)


def test_a_clean_stop_leaves_nothing_to_replay(make_exchange, make_flow_on):
    """Each worker takes a snapshot at a clean stop, and the next start replays no record."""
    exchange = make_exchange("[snapshots]\ninterval_seconds = 0\n").start()
    flow = make_flow_on(exchange, ORDERS, seed=42)
    flow.offer(until=len(flow.bodies) // 2)
    flow.settle()
    assert 0 == exchange.stop(), exchange.said()
    assert all(len(names) == 1 for names in snapshots_of(exchange).values()), exchange.said()
    exchange.start()
    assert 2 + 2 == exchange.said().count(", 0 records replayed"), exchange.said()  # in both lives
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)
