"""The whole exchange ends: cleanly, at once, or by SIGKILL; and its next life goes on where the last one was."""

import os
import re
import signal

import pytest

ORDERS = 20_000
DELIVERIES = ORDERS // 100

pytestmark = pytest.mark.compiled


def resting(exchange):
    """How many orders the newest life of each shard found resting."""
    found = {}
    for line in exchange.said().splitlines():
        if " orders rest; " in line:
            found[line.split(":")[0]] = int(line.split(" orders rest; ")[0].rsplit(" ", 1)[1])
    return sum(found.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_it_cleanly(exchange, make_flow, number):
    """A SIGINT to the whole process group, as a terminal sends it, or a SIGTERM: what was taken in is published, exit 0."""
    flow = make_flow(ORDERS, seed=1)
    flow.offer(until=DELIVERIES)
    os.killpg(exchange.process.pid, number)
    assert 0 == exchange.wait(), exchange.said()
    assert [] == exchange.living()
    assert [] == exchange.shared_memory()
    assert {} == exchange.restarts()
    exchange.assert_published(flow.taken())


def test_the_next_life_goes_on_where_a_clean_stop_left_it(exchange, make_flow):
    """After a stop in the middle of the flow, a second life takes the rest; together they say what one life would."""
    flow = make_flow(ORDERS, seed=2)
    flow.offer(until=DELIVERIES // 2)
    assert 0 == exchange.stop(), exchange.said()
    exchange.start()
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def test_a_clean_stop_leaves_nothing_to_make_again(exchange, make_flow):
    """A stop confirms everything, so the next start publishes no report again, only finds the books as they were."""
    flow = make_flow(ORDERS, seed=3)
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    lines = (exchange.data / "out" / "reports.ndjson").read_bytes()
    exchange.start()
    assert 0 == exchange.stop(), exchange.said()
    assert "are made again" not in exchange.said()
    assert lines == (exchange.data / "out" / "reports.ndjson").read_bytes()
    assert resting(exchange) > 0


@pytest.mark.parametrize("name", ["publisher-0", "worker-0"])
def test_a_stop_does_not_leave_out_who_waits_for_its_next_start(exchange, make_flow, name):
    """Who died often waits for up to a second and more; a stop meanwhile starts it, and everything is published."""
    flow = make_flow(ORDERS, seed=4)
    for kills in range(1, 6):
        exchange.kill(name)
        exchange.until(lambda: exchange.restarts()[name] == kills, f"{name} is not started again")  # noqa: B023 - it is called here
    flow.offer(until=DELIVERIES - (10 if name == "publisher-0" else 0))
    flow.settle()
    exchange.kill(name)
    flow.finish()  # the log needs no publisher, and of a worker nothing is left but reports
    assert 0 == exchange.stop(), exchange.said()
    assert [] == exchange.shared_memory()
    exchange.assert_published(flow.commands)


def test_a_second_signal_ends_it_at_once(exchange, make_flow):
    """While a clean stop waits for a process that does not move, a second SIGINT ends everything; the log has the rest."""
    flow = make_flow(ORDERS, seed=4)
    flow.offer(until=DELIVERIES // 2)
    exchange.child("publisher-0").suspend()
    exchange.process.send_signal(signal.SIGINT)
    exchange.until_said("stopping on SIGINT")
    exchange.process.send_signal(signal.SIGINT)
    assert 128 + signal.SIGINT == exchange.wait()
    assert "ended at once" in exchange.said()
    assert [] == exchange.living()
    assert [] == exchange.shared_memory()
    exchange.start()
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def test_a_killed_supervisor_takes_everything_with_it(exchange, make_flow):
    """SIGKILL of the supervisor ends its children and removes its shared memory; the next life loses nothing."""
    flow = make_flow(ORDERS, seed=5)
    for share in (3, 2):
        flow.offer(until=DELIVERIES // share)
        exchange.process.kill()
        exchange.wait()
        exchange.until(lambda: not exchange.living(), "children live on")
        exchange.until(lambda: not exchange.shared_memory(), "segments are left")
        exchange.start()
        flow.connect()
    flow.finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)


def test_a_signal_while_it_starts_stops_it(make_exchange):
    """A SIGTERM before it accepts orders ends it too, with nothing left."""
    exchange = make_exchange()
    exchange.launch()
    exchange.until_said("loading kernels")
    assert 0 == exchange.stop(), exchange.said()
    assert [] == exchange.shared_memory()
    assert "stopping on SIGTERM" in exchange.said()


def test_a_signal_while_it_reads_its_log_ends_it_at_once(exchange, make_flow):
    """However long that takes: nothing was dealt yet, and the next start reads the log again."""
    flow = make_flow(ORDERS, seed=6)
    flow.offer(until=DELIVERIES // 2)
    exchange.kill_all()
    identity = exchange.config.log_folder() / "shard-0000" / "identity"
    kept = identity.rename(identity.with_name("kept"))
    os.mkfifo(identity)  # whoever reads it waits for ever
    exchange.launch()
    exchange.child("worker-0")
    assert 0 == exchange.stop(), exchange.said()
    assert re.search("ended while .*worker-0.* read the log", exchange.said())
    assert [] == exchange.shared_memory()
    kept.rename(identity)
    exchange.start()
    flow.connect().finish()
    assert 0 == exchange.stop(), exchange.said()
    exchange.assert_published(flow.commands)
