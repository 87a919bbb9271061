"""A follower takes over from a worker that is killed, and what comes out is what was submitted."""

import pytest

ORDERS = 30_000
KILLS = 3

pytestmark = pytest.mark.compiled
FOLLOWED = "[follower]\nenabled = true\n"


@pytest.fixture
def followed(make_exchange):
    """An exchange whose shards have followers."""
    return make_exchange(FOLLOWED).start()


def test_a_killed_worker_is_taken_over(followed, make_flow_on):
    """Three workers killed under load are taken over by their followers, and no report is lost or changed."""
    flow = make_flow_on(followed, ORDERS, seed=31)
    for take_over in range(1, KILLS + 1):
        followed.until_said_times("shard 0: follows", take_over)
        flow.offer(until=flow.acknowledged() + 50)
        followed.kill("worker-0")
        followed.until_said_times("has taken over", take_over)
    flow.finish()
    assert 0 == followed.stop(), followed.said()
    assert [] == followed.living()
    assert [] == followed.shared_memory()
    followed.assert_published(flow.commands)
