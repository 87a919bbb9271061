"""
A whole exchange as a process of its own, fed from here over shared memory, and judged by what was submitted.

    exchange.start()                     `ringpit run` in a process group of its own
    flow.offer(until=300)                deliveries 0 to 299, waiting for room
    exchange.kill("worker-0")            while what was offered is still under way
    flow.finish()                        until everything offered is acknowledged
    exchange.stop()                      SIGTERM; the exit code
    exchange.assert_published(flow.commands)

What is acknowledged is never offered again, not even to the next life of the exchange: if it is not in the
output then, it was lost.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pytest

from ringpit.engine.codes import Reason, ReportFlag, ReportKind, Side
from ringpit.shards.config import load
from ringpit.shards.delivery import publisher_key
from ringpit.shards.faults import VARIABLE
from ringpit.shards.feeders import RouterEnd
from ringpit.shards.flow import flow
from ringpit.shards.layout import prefix
from ringpit.shards.packed import CONTENT_TYPE, encode
from ringpit.shards.peers import Peers
from ringpit.testing.descent import ended, killed, named_children
from ringpit.testing.naive import NaiveExchange

RINGPIT = Path(sys.executable).with_name("ringpit")
SHARED_MEMORY = Path("/dev/shm")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RINGPIT_")}
SMALL_FILES = {"RINGPIT__LOG__SEGMENT_BYTES": "65536"}  # so that the log of every test has many
DEADLINE_SECONDS = 100.0  # for anything: a crowded machine is not a bug
START_SECONDS = 280.0  # the first start on a machine compiles
FRAME_ORDERS = 100
DISK_BYTES = 4 << 20
WORD_BYTES = 8
CONFIG = """
[exchange]
name = "{name}"
data = "{data}"
routers = {routers}
stop_seconds = 60
[limits]
events = 64
orders = 16384
levels = 16384
keys = 4096
[rings]
input_slots = 16384
journal_slots = 16384
output_slots = 16384
ingress_slots = 16384
"""
NAMES = {
    ReportKind.ACCEPTED: "Accepted",
    ReportKind.FILL_MAKER: "FillMaker",
    ReportKind.FILL_TAKER: "FillTaker",
    ReportKind.CANCELED: "Canceled",
    ReportKind.AMENDED: "Amended",
    ReportKind.REJECTED: "Rejected",
    ReportKind.EVENT_CREATED: "EventCreated",
    ReportKind.EVENT_SETTLED: "EventSettled",
}
ORDER_FIELDS = ("OrderID", "Account", "PriceTicks", "Quantity", "Leaves")
CREATED_FIELDS = ("TickUnits", "Decimals", "LowTicks", "HighTicks", "PayoutTicks")


class Said(NamedTuple):
    """What a report says, wherever it was read; its place among the reports of its command included."""

    kind: str
    index: int
    event: int
    order: int
    account: int
    side: int
    price: int
    quantity: int
    leaves: int
    reason: str
    repeat: bool


def of_report(report):
    """What a report of the naive exchange says."""
    created = report.kind == ReportKind.EVENT_CREATED
    return Said(
        NAMES[report.kind],
        report.index,
        report.event,
        report.order,
        report.account,
        0 if created else report.side,
        report.price,
        report.quantity,
        report.leaves,
        Reason(report.reason).name if report.reason else "",
        bool(report.flags & ReportFlag.REPEAT),
    )


def of_line(line):
    """What a line of an output file says. An event's creation tells its tick, decimals and range by names of their own."""
    created = line["Kind"] == "EventCreated"
    names = CREATED_FIELDS if created else ORDER_FIELDS
    order, account, price, quantity, leaves = (line.get(name, 0) for name in names)
    side = Side[line["Side"].upper()] if "Side" in line else 0
    return Said(
        line["Kind"],
        line["Index"],
        line["Event"],
        order,
        account,
        side,
        price,
        quantity,
        leaves,
        line.get("Reason", ""),
        line.get("Repeat", False),
    )


def by_event(told):
    """Event to what was told of it, in order."""
    events = {}
    for said in told:
        events.setdefault(said.event, []).append(said)
    return events


def eventually(condition, what, seconds=DEADLINE_SECONDS):
    """Poll until a condition holds, and return what it returned; `what` says what was last seen if it never does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s: {what()}", pytrace=False)
        os.sched_yield()
    return found


def stopped(process):
    """True if no thread of a process moves until somebody resumes it: they stop one after the other."""
    with contextlib.suppress(psutil.NoSuchProcess):
        threads = [psutil.Process(thread.id) for thread in process.threads()]
        return all(thread.status() == psutil.STATUS_STOPPED for thread in threads)
    return False


class ExchangeProcess:
    """`ringpit run` on a folder of this test's own; each `start` is another life on the same data."""

    def __init__(self, folder, more="", faults="", routers=1):
        self.name = f"fault-{uuid.uuid4().hex[:12]}"
        self.data = folder / "data"
        self.config_file = folder / "ringpit.toml"
        self.config_file.write_text(CONFIG.format(name=self.name, data=self.data, routers=routers) + more)
        self.config = load(self.config_file)
        self.environment = ENVIRONMENT | SMALL_FILES | {VARIABLE: faults}
        self.process = None
        self.started = []  # what it ran when it began to accept orders
        self.said_file = folder / "said.txt"

    def launch(self):
        """Start it without waiting for anything."""
        with self.said_file.open("ab") as said:
            self.process = subprocess.Popen(
                [RINGPIT, "run", "-c", self.config_file],
                stderr=said,
                stdout=said,
                start_new_session=True,
                env=self.environment,
            )

    def start(self):
        """Start it and wait until it accepts orders."""
        before = self.said().count("accepting orders")
        self.launch()
        eventually(
            lambda: self.said().count("accepting orders") > before or self.process.poll() is not None,
            self.said,
            START_SECONDS,
        )
        assert self.process.poll() is None, self.said()
        self.started = list(self.children().values())
        return self

    def said(self):
        """Everything that it has printed."""
        return self.said_file.read_text() if self.said_file.exists() else ""

    def children(self):
        """Name to process of everything that it started and that lives: routers, workers, publisher and their server."""
        return dict(named_children(self.process.pid))

    def child(self, name):
        """A role's process by its name, as soon as it is there."""
        return eventually(lambda: self.children().get(name), lambda: f"{name} is not there: {self.said()}")

    def kill(self, name):
        """SIGKILL for one role's process, whichever incarnation lives; returns when it is gone."""
        self.until(
            lambda: killed(self.child(name), DEADLINE_SECONDS), f"{name} does not live long enough to be killed"
        )

    def kill_supervisor(self):
        """SIGKILL for the supervisor, whose children and shared memory go with it, and another life."""
        self.process.kill()
        self.wait()
        self.until(lambda: not self.living(), "children live on")
        self.until(lambda: not self.shared_memory(), "segments are left")
        self.start()

    def until_followed(self, shards=(0, 1), times=1):
        """Wait until each of these shards has had a follower that could take over so many times."""
        for shard in shards:
            self.until(
                lambda: self.said().count(f"shard {shard}: follows") >= times,  # noqa: B023 - it is called here
                f"shard {shard} has no follower",
            )

    @contextlib.contextmanager
    def held(self, but):
        """Stop every process of it that moves, but one, for the body: nothing else writes to shared memory then."""
        supervisor = psutil.Process(self.process.pid)
        held = []
        try:
            self._hold([supervisor], held)  # it starts and kills nobody any more
            self._hold(supervisor.children(), held)  # the fork server too: it may have been asked for one more
            self._hold([child for child in supervisor.children(recursive=True) if child != but], held)
            yield
        finally:
            for process in reversed(held):  # the supervisor last: nobody is killed for standing still
                process.resume()

    def _hold(self, processes, held):
        """Stop those that move, whether they have a name yet or not, and wait until they stand."""
        moving = [process for process in processes if not (ended(process) or stopped(process))]
        for process in moving:
            process.suspend()
            held.append(process)
        for process in moving:
            eventually(
                lambda: stopped(process) or ended(process),  # noqa: B023 - it is called here
                lambda: f"{process} moves: {self.said()}",  # noqa: B023 - as above
            )

    def memory_but(self, name):
        """Name to content of every segment but one."""
        return {
            segment: (SHARED_MEMORY / segment).read_bytes()
            for segment in self.shared_memory()
            if segment != name
        }

    def changed(self, before, name):
        """Name of every segment but one that is not as it was, to the offsets of its words that differ."""
        after = self.memory_but(name)
        found = {}
        for segment in before.keys() | after.keys():
            old, new = before.get(segment, b""), after.get(segment, b"")
            offsets = range(0, max(len(old), len(new)), WORD_BYTES)
            words = [at for at in offsets if old[at : at + WORD_BYTES] != new[at : at + WORD_BYTES]]
            if words:
                found[segment] = words
        return found

    def kill_all(self):
        """SIGKILL for every process of it at once, as a power cut would; returns when all are gone."""
        everybody = [child for _, child in named_children(self.process.pid)]
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        eventually(lambda: all(map(ended, everybody)), lambda: f"of {everybody} some live")

    def restarts(self):
        """How often each process was started again."""
        return Counter(re.findall(r"^ringpit: (\S+): started again, incarnation", self.said(), re.MULTILINE))

    def living(self):
        """Everything that it started and that is not dead yet."""
        return [child for child in self.started if not ended(child)]

    def until(self, condition, what):
        """Wait for a condition."""
        eventually(condition, lambda: f"{what}: {self.said()}")

    def until_ended(self, child):
        """Wait until a process of it is dead."""
        self.until(lambda: ended(child), f"{child} goes on")

    def until_said(self, text):
        """Wait until it has printed something."""
        self.until(lambda: text in self.said(), f"it does not say {text!r}")

    def until_said_times(self, text, times):
        """Wait until it has printed something so many times."""
        self.until(lambda: self.said().count(text) >= times, f"it has not said {text!r} {times} times")

    def wait(self):
        """The exit code, as soon as there is one."""
        eventually(lambda: self.process.poll() is not None, lambda: f"it does not end: {self.said()}")
        return self.process.returncode

    def stop(self, number=signal.SIGTERM):
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def reshard(self, shards, step=""):
        """Run `ringpit reshard`, killed at a step; the code with which it ended, and what it said."""
        environment = self.environment | {VARIABLE: f"reshard:{step}:SIGKILL:1" if step else ""}
        command = [RINGPIT, "reshard", "-c", self.config_file, "--shards", str(shards), "--yes"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def use(self, setting, value):
        """Have the next lives run with another value of a setting, such as exchange.shards."""
        self.environment[f"RINGPIT__{setting.upper().replace('.', '__')}"] = str(value)
        self.config = load(self.config_file, environment=self.environment)

    def shared_memory(self):
        """Names of its segments."""
        return sorted(path.name for path in SHARED_MEMORY.glob(prefix(self.config) + "*"))

    def clear(self):
        """Leave nothing, whatever the test did."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for path in SHARED_MEMORY.glob(prefix(self.config) + "*"):
            path.unlink()

    def lines(self, stem):
        """
        An output file's lines as dictionaries, each identity once, in the order of the log; equal if they repeat.

        Of provisional ones what stands: a shard's epochs never fall within a generation, and a higher one takes back what lower ones said above its
        EpochSeq.
        """
        kept, newest = {}, Counter()
        for line in (self.data / "out" / f"{stem}.ndjson").read_bytes().splitlines():
            fields = msgspec.json.decode(line)
            identity = (fields["Generation"], fields["Shard"], fields["Seq"], fields["Index"])
            epoch = fields.get("Epoch", 0)
            assert epoch >= newest[identity[:2]]
            if epoch > newest[identity[:2]]:
                kept = {
                    known: kept[known]
                    for known in kept
                    if known[:2] != identity[:2] or known[2] <= fields["EpochSeq"]
                }
            newest[identity[:2]] = epoch
            assert kept.setdefault(identity, fields) == fields
        return [kept[identity] for identity in sorted(kept)]

    def assert_published(self, commands):
        """Reports and trades are, event by event, what the naive exchange says to these commands."""
        wanted = self.assert_reported(commands)
        trades = [
            said._replace(kind="Trade", order=0, account=0, leaves=0)
            for said in wanted
            if said.kind == "FillTaker"
        ]
        assert by_event(trades) == by_event(of_line(line) for line in self.lines("trades"))

    def assert_reported(self, commands):
        """The same of reports alone; what the naive exchange says."""
        wanted = [of_report(report) for report in NaiveExchange(self.config.limits.limits()).run(commands)]
        reports = [of_line(line) for line in self.lines("reports") if line["Kind"] != "Duplicate"]
        assert by_event(wanted) == by_event(reports)
        return wanted


class OrderFlow:
    """
    Seeded orders, and the process that feeds them: this one.

    Each delivery has a key of its own, and is offered again to the exchange's next life only if it was not acknowledged.
    At most `window` deliveries are under way: what waits for a second or third run, batch or cycle needs a small one,
    because a process that had to wait for its core takes everything there is at once.
    """

    def __init__(self, exchange, orders, *, seed, window=sys.maxsize, events=10):
        self.commands = flow(orders, seed=seed, events=events)
        cuts = range(0, len(self.commands), FRAME_ORDERS)
        self.bodies = [encode(self.commands[cut : cut + FRAME_ORDERS]) for cut in cuts]
        self._exchange = exchange
        self._window = window
        self._run = uuid.uuid4().bytes
        self._acknowledged = 0  # deliveries, in all lives but this one
        self._offered = 0
        self._ends = []  # ring position behind each delivery offered in this life

    def connect(self):
        """Go on with the first delivery that is not acknowledged, in the exchange's present life."""
        config = self._exchange.config
        self._acknowledged = self.acknowledged()
        self._offered = self._acknowledged
        self._end = RouterEnd(config, Peers(config), 0)
        self._feeder = self._end.feeder
        self._ends = []
        return self

    def acknowledged(self):
        """How many deliveries the exchange has acknowledged, in all its lives."""
        if not self._ends:
            return self._acknowledged
        head = self._ends[-1] - self._feeder.unacknowledged_slots()
        return self._acknowledged + sum(end <= head for end in self._ends)

    def _look(self):
        """Follow a router that was started again."""
        self._end.follow()

    def _offer_next(self):
        """Offer one delivery; False if there is no room, or enough is under way."""
        number = self._offered
        key = publisher_key(b"", b"faults", self._run + number.to_bytes(4))
        is_open = number < self._window or number - self.acknowledged() < self._window
        if not is_open or not self._feeder.offer(CONTENT_TYPE, key, self.bodies[number]):
            self._look()
            return False
        self._offered += 1
        self._ends.append(self._end.ingress.load("tail"))
        return True

    def offer(self, until):
        """Offer deliveries up to number `until`, waiting for room."""
        while self._offered < until:
            eventually(self._offer_next, self._standing)

    def taken(self):
        """The commands of the deliveries that were acknowledged."""
        return self.commands[: self.acknowledged() * FRAME_ORDERS]

    def offer_some(self):
        """Offer what there is room for; False, so that it can stand in a condition."""
        while self._offered < len(self.bodies) and self._offer_next():
            pass
        return False

    def offer_for(self, seconds):
        """Offer as many deliveries as there is room for, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._offered < len(self.bodies):
            if not self._offer_next():
                os.sched_yield()

    def finish(self):
        """Offer the rest, and wait until everything is acknowledged."""
        self.offer(len(self.bodies))
        self.settle()

    def settle(self):
        """Wait until everything offered is acknowledged."""
        eventually(self._settled, self._standing)

    def _settled(self):
        """True if everything offered is acknowledged."""
        self._look()
        return not self._feeder.unacknowledged_slots()

    def _standing(self):
        """How far it is, in words."""
        return f"{self._offered} of {len(self.bodies)} deliveries offered, {self.acknowledged()} acknowledged: {self._exchange.said()}"


@pytest.fixture
def make_exchange(tmp_path):
    """Make an exchange in a folder of its own; whatever the test does to it, nothing is left."""
    made = []

    def make(more="", faults="", routers=1):
        made.append(ExchangeProcess(tmp_path, more, faults, routers))
        return made[-1]

    yield make
    for exchange in made:
        exchange.clear()


@pytest.fixture
def exchange(make_exchange):
    """An exchange that accepts orders."""
    return make_exchange().start()


@pytest.fixture
def make_flow_on():
    """Make a flow of seeded orders, connected to an exchange."""

    def make(exchange, orders, seed, window=sys.maxsize):
        return OrderFlow(exchange, orders, seed=seed, window=window).connect()

    return make


@pytest.fixture
def make_flow(exchange, make_flow_on):
    """Make a flow of seeded orders, connected to the exchange."""
    return partial(make_flow_on, exchange)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, and its folder."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this container may not mount: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
