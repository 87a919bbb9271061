"""A follower takes over from a worker that is killed, and what comes out is what was submitted."""

import re

import pytest

ORDERS = 30_000
KILLS = 3

pytestmark = pytest.mark.compiled
FOLLOWED = "[follower]\nenabled = true\nheartbeat_ms = 5000\n"  # whoever dies is seen at once; nobody hangs
TAKEN_OVER = re.compile(r"worker-0: incarnation \d+, until now follower-0, has taken over")


@pytest.fixture
def followed(make_exchange):
    """An exchange whose shards have followers."""
    return make_exchange(FOLLOWED).start()


def test_a_killed_worker_is_taken_over(followed, make_flow_on):
    """Three workers killed under load are taken over by their followers, and no report is lost or changed."""
    flow = make_flow_on(followed, ORDERS, seed=31)

    def taken_over():
        return len(TAKEN_OVER.findall(followed.said()))

    def replaced():
        return taken_over() + followed.restarts()["worker-0"]

    while taken_over() < KILLS:
        before = replaced()
        followed.until_said_times("shard 0: follows", before + 1)
        flow.offer(until=min(flow.acknowledged() + 50, len(flow.bodies)))
        followed.kill("worker-0")
        followed.until(lambda: replaced() > before, "nobody takes over")  # noqa: B023 - it is called here
        # One whose core is taken for two seconds is not waited for.
        assert replaced() < 2 * KILLS, followed.said()
    flow.finish()
    assert 0 == followed.stop(), followed.said()
    assert [] == followed.living()
    assert [] == followed.shared_memory()
    followed.assert_published(flow.commands)
