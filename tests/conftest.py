"""
What every test shares: the cache of machine code, real brokers, and proof that a run leaves nothing behind.

The run marks itself in the environment, which every process that a test starts inherits; at the end no
marked process may live and no shared memory of ours may be held by nobody. Other runs on the same machine carry other marks.
"""

import os
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ringpit.engine.cache import use_cache_of_these_sources
from ringpit.testing.brokers import Brokers, BrokersMissing, kafka_bootstrap, rabbitmq_url

use_cache_of_these_sources()

RUN_MARK = "RINGPIT_TEST_RUN"
RUN_MARK_VALUE = uuid.uuid4().hex
WHOLE = (
    "deploy",
    "faults",
    "integration",
    "perf",
)  # folders of tests that start whole exchanges, brokers or benchmarks
WHOLE_SECONDS = 600  # for each of them: the first start on a machine compiles
SHARED_MEMORY = Path("/dev/shm")
LEFT_OVER_SECONDS = 15.0
HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")  # they end with this process
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
EXAMPLES_INTERPRETED = 25  # an interpreted kernel is a hundred times slower

# No deadline, and no complaint that making examples is slow: the first call compiles, and the machine may be busy.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("compiled", **UNTIMED)
settings.register_profile("interpreted", **UNTIMED, max_examples=EXAMPLES_INTERPRETED, stateful_step_count=25)
settings.load_profile("interpreted" if INTERPRETED else "compiled")


def pytest_addoption(parser):
    """Offer --soak, which runs the long tests and nothing else, and --seed, for a simulation that failed."""
    parser.addoption("--seed", type=int, help="the one seed that tests/simulation runs")
    parser.addoption("--soak", action="store_true", help="run the tests marked soak, and only those")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark the tests of whole things, before -m selects; skip, with the reason, what this run cannot or shall not execute."""
    soak = config.getoption("--soak")
    no_brokers = os.environ.get("RINGPIT_NO_BROKERS") == "1"
    for item in items:
        if item.path.relative_to(config.rootpath).parts[1] in WHOLE:
            item.add_marker(pytest.mark.whole)
            if not soak and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(WHOLE_SECONDS))
        if bool(item.get_closest_marker("soak")) != soak:
            item.add_marker(pytest.mark.skip(reason="not a soak test" if soak else "long: make soak"))
        if INTERPRETED and item.get_closest_marker("compiled"):
            item.add_marker(pytest.mark.skip(reason="NUMBA_DISABLE_JIT=1: twins of the atomics order nothing"))
        if no_brokers and item.get_closest_marker("brokers"):
            item.add_marker(pytest.mark.skip(reason="RINGPIT_NO_BROKERS=1"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Fail a test that needs brokers where there are none: a run must not prove less than it says."""
    if item.get_closest_marker("brokers") and os.environ.get("RINGPIT_NO_BROKERS") != "1":
        try:
            rabbitmq_url()
            kafka_bootstrap()
        except BrokersMissing as missing:
            pytest.fail(f"{missing}, or leave these tests out with RINGPIT_NO_BROKERS=1", pytrace=False)


def pytest_configure():
    """Mark this run before anything is started."""
    os.environ[RUN_MARK] = RUN_MARK_VALUE


@pytest.fixture(name="rabbitmq_url", scope="session")
def rabbitmq_url_fixture():
    """AMQP URL of the real RabbitMQ."""
    return rabbitmq_url()


@pytest.fixture(name="kafka_bootstrap", scope="session")
def kafka_bootstrap_fixture():
    """Bootstrap address of the real Kafka."""
    return kafka_bootstrap()


@pytest.fixture
def brokers():
    """Stop, start or kill a broker; whatever the test did, both run again after it."""
    control = Brokers()
    yield control
    for name in ("rabbitmq", "kafka"):
        control.start(name)


def marked_processes():
    """Return pid -> command line of every other process of this run that still lives."""
    wanted = f"{RUN_MARK}={RUN_MARK_VALUE}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:  # it ended meanwhile, or belongs to somebody else
                continue
            if not any(helper in command for helper in HELPERS):
                found[int(entry.name)] = command.decode(errors="replace")
    return found


def shared_memory_names():
    """Return our names in shared memory."""
    return {path.name for path in SHARED_MEMORY.glob("*ringpit*")}


def held_elsewhere():
    """Return all mappings of processes that are not of this run, as one text: what they map is in use."""
    own = {os.getpid(), *marked_processes()}
    texts = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in own:
            try:
                texts.append((entry / "maps").read_text())
            except OSError:
                continue
    return "\n".join(texts)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """A test run leaves no process and no shared memory behind."""
    before = shared_memory_names()
    yield
    deadline = time.monotonic() + LEFT_OVER_SECONDS
    while True:
        processes = marked_processes()
        names = shared_memory_names() - before
        in_use = held_elsewhere() if names else ""
        names = {name for name in names if f"{SHARED_MEMORY}/{name}" not in in_use}
        if not processes and not names:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: processes {processes}, shared memory {sorted(names)}", pytrace=False)
        os.sched_yield()
