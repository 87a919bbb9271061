"""
The tables of the configuration file: every key once, with its type, bounds, default and meaning.

`shards/config.py` loads them; the check for unknown keys, the environment's names, the printed
explanation and most of the errors are made from these declarations. Rules that bind several keys are in
`config.broken_rules`. The sample files in `deploy/` are loaded by a test.

Secrets (passwords, the user in a broker's URL, Kafka settings whose names speak of secrets) become `Secret`
strings as soon as a struct is made: they are themselves when used and `***` in every repr.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from ringpit.engine.codes import SelfTrade
from ringpit.engine.limits import Limits
from ringpit.wal.writer import BATCH_BYTES_LEAST

GENERATION_PREFIX: Final = "generation-"
SECRET_SETTING: Final = re.compile(r"password|secret|token|jaas|\.pem$|credential", re.IGNORECASE)


class Secret(str):
    """A string that shows itself to nobody who only prints it."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Three stars, or nothing where nothing is hidden."""
        return "'***'" if self else "''"


class SecretUrl(Secret):
    """A URL that hides its user and password."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The URL, with stars for whatever stands before the last @."""
        scheme, _, rest = self.rpartition("://")
        return repr(f"{scheme}://***@{rest.rpartition('@')[2]}" if "@" in self else str(self))


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


Cores = Annotated[
    list[Annotated[int, Meta(ge=0, le=4095)]], Meta(description="core numbers; empty: not pinned")
]
CoresEach = Annotated[
    list[Annotated[int, Meta(ge=0, le=4095)] | list[Annotated[int, Meta(ge=0, le=4095)]]],
    Meta(description="one core number, or list of them, per process; empty: not pinned"),
]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Setting = str | bool | int | float


class Exchange(Section, frozen=True):
    """What runs, and where its files are."""

    name: Annotated[
        str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z", description="1 to 32 of a-z, 0-9 and -; names memory, lock and folders")
    ] = "ringpit"  # fmt: skip
    data: Annotated[str, Meta(min_length=1, description="folder of everything that is written")] = "data"
    shards: Annotated[
        int, Meta(ge=1, le=64, description="worker processes, 1 to 64, each with its part of the log")
    ] = 2
    routers: Annotated[int, Meta(ge=1, le=8, description="router processes, 1 to 8")] = 1
    generation: Annotated[
        int,
        Meta(
            ge=0, le=1 << 30, description="topology generation, 0: what topology.json says; another is refused"
        ),
    ] = 0
    stop_seconds: Annotated[int, Meta(ge=1, le=3600, description="patience of a clean stop, 1 to 3600")] = 30
    hang_seconds: Annotated[
        int,
        Meta(ge=0, le=3600, description="a process whose heart stands still for so long is killed; 0: never"),
    ] = 30


class LimitsConfig(Section, frozen=True):
    """Sizes of one shard's pools; bounds are the engine's."""

    events: Annotated[int, Meta(description="events ever created on a shard")] = 1 << 14
    orders: Annotated[int, Meta(description="resting orders, a power of two")] = 1 << 18
    levels: Annotated[int, Meta(description="price levels, a power of two")] = 1 << 20
    keys: Annotated[int, Meta(description="frame keys remembered against duplicates, a power of two")] = 1 << 16
    nodes: Annotated[
        int, Meta(description="prices of skip lists, triggers and all-or-none limits, a power of two")
    ] = 1 << 14
    grids: Annotated[int, Meta(description="different tables of price bands")] = 64

    def limits(self) -> Limits:
        """The engine's own form; raises ValueError for what the engine refuses."""
        return Limits(**{name: getattr(self, name) for name in self.__struct_fields__})


class Orders(Section, frozen=True):
    """What an order means that does not say; packed ones say everything."""

    self_trade: Annotated[
        Literal["none", "cancel_taker", "cancel_maker", "cancel_both", "decrement"],
        Meta(description="what happens where an order meets another of its own account"),
    ] = "none"

    def self_trade_mode(self) -> SelfTrade:
        """The engine's own form."""
        return SelfTrade[self.self_trade.upper()]


class Rings(Section, frozen=True):
    """Slots of the rings, each of 64 bytes."""

    input_slots: Annotated[int, Meta(le=1 << 26, description="router to worker, a power of two")] = 1 << 16
    journal_slots: Annotated[int, Meta(le=1 << 26, description="worker to log, a power of two")] = 1 << 17
    output_slots: Annotated[int, Meta(le=1 << 26, description="worker to publisher, a power of two")] = 1 << 17
    ingress_slots: Annotated[int, Meta(le=1 << 26, description="feeder to router, a power of two")] = 1 << 16


class Intake(Section, frozen=True):
    """Where orders come from."""

    source: Annotated[
        Literal["ring", "rabbitmq"], Meta(description="another process through shared memory, or a queue")
    ] = "ring"


class Output(Section, frozen=True):
    """Where reports and market data go."""

    sink: Annotated[
        Literal["files", "stdout", "rabbitmq", "none"], Meta(description="who gets the reports")
    ] = "files"
    encoding: Annotated[Literal["json", "packed"], Meta(description="form of what is sent")] = "json"
    release: Annotated[
        Literal["durable", "matched"],
        Meta(description="when the log has the command, or before: then provisional"),
    ] = "durable"
    market_data: Annotated[bool, Meta(description="also trades, prices and books")] = True
    books_interval_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="time between two books, 1 to 60000")
    ] = 100
    depth: Annotated[int, Meta(ge=1, le=1_000, description="levels of a book, 1 to 1000")] = 10


class Rabbitmq(Section, frozen=True):
    """The broker of orders and reports."""

    url: Annotated[str, Meta(min_length=1, description="amqp://host:port/vhost, amqps:// for TLS")] = (
        "amqp://127.0.0.1:5672/%2F"
    )
    username: Annotated[str, Meta(max_length=255, description="empty: from the url, else guest")] = ""
    password: Annotated[str, Meta(description="better from RINGPIT_RABBITMQ_PASSWORD or password_file")] = ""
    password_file: Annotated[str, Meta(description="file whose first line is the password")] = ""
    ca_file: Annotated[str, Meta(description="certificates to trust; empty: the system's")] = ""
    cert_file: Annotated[str, Meta(description="our certificate, for brokers that ask")] = ""
    key_file: Annotated[str, Meta(description="its private key")] = ""
    queue: Name = "ringpit.orders"
    dead_letter_exchange: Name = "ringpit.dead"
    reports_exchange: Name = "ringpit.reports"
    trades_exchange: Name = "ringpit.trades"
    prices_exchange: Name = "ringpit.prices"
    books_exchange: Name = "ringpit.books"
    prefetch: Annotated[int, Meta(ge=1, le=65_535, description="unacknowledged deliveries, 1 to 65535")] = 500
    heartbeat_seconds: Annotated[int, Meta(ge=2, le=600, description="2 to 600")] = 20
    publish_window: Annotated[int, Meta(ge=1, le=65_536, description="unconfirmed messages, 1 to 65536")] = 256
    scanner: Annotated[
        Literal["auto", "off"],
        Meta(description="scan deliveries past pika's decoder if it fits, or have pika decode each"),
    ] = "auto"

    def __post_init__(self) -> None:
        """Hide what must not be printed."""
        force_setattr(self, "url", SecretUrl(self.url))
        force_setattr(self, "password", Secret(self.password))


class Log(Section, frozen=True):
    """Where commands are at rest."""

    kind: Annotated[
        Literal["segments", "kafka", "memory"], Meta(description="files, a topic, or nothing that lasts")
    ] = "segments"
    folder: Annotated[str, Meta(description="of the segment files; empty: log in the data folder")] = ""
    batch_bytes: Annotated[
        int, Meta(ge=BATCH_BYTES_LEAST, le=1 << 24, description="a batch is closed at this size")
    ] = 1 << 19
    segment_bytes: Annotated[
        int, Meta(ge=1 << 16, le=1 << 34, description="a segment file is followed by another at this size")
    ] = 1 << 26
    fsync: Annotated[bool, Meta(description="wait for the disk, not for its cache")] = True


class Kafka(Section, frozen=True):
    """The broker of the log."""

    bootstrap: Annotated[str, Meta(min_length=1, description="host:port, more of them after commas")] = (
        "127.0.0.1:9092"
    )
    topic: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}\Z", description="one partition per shard")] = (
        "ringpit.wal"
    )
    replication: Annotated[int, Meta(ge=1, le=32, description="copies of the topic, 1 to 32")] = 1
    flush_messages: Annotated[
        int, Meta(ge=0, le=1 << 30, description="1: the broker syncs every batch; 0: its default")
    ] = 0
    transactional: Annotated[
        bool,
        Meta(description="a start on another host fences the owner of a shard here: for two hosts, one log"),
    ] = False
    connect_seconds: Annotated[int, Meta(ge=1, le=3600, description="patience at start, 1 to 3600")] = 30
    settings: Annotated[dict[str, Setting], Meta(description="librdkafka settings, passed through")] = {}
    settings_file: Annotated[str, Meta(description="more of them, as TOML or key=value lines; for secrets")] = (
        ""
    )

    def __post_init__(self) -> None:
        """Hide the settings whose names speak of secrets; the rest is for all to see."""
        force_setattr(self, "settings", {
            name: Secret(value) if SECRET_SETTING.search(name) and not isinstance(value, bool | int | float) else value
            for name, value in self.settings.items()
        })  # fmt: skip


class Cpu(Section, frozen=True):
    """Which cores the processes may run on, and how."""

    auto: Annotated[
        bool, Meta(description="cores for whatever is not named here: chosen by isolation, siblings and memory nodes")
    ] = False  # fmt: skip
    realtime_priority: Annotated[
        int, Meta(ge=0, le=99, description="SCHED_FIFO priority of all but the supervisor, 1 to 99; 0: none. For cores of their own")
    ] = 0  # fmt: skip
    local_memory: Annotated[
        bool, Meta(description="memory of a pinned process on the memory node of its core")
    ] = False  # fmt: skip
    supervisor: Cores = []
    routers: CoresEach = []
    workers: CoresEach = []
    journals: CoresEach = []
    followers: CoresEach = []
    publisher: Cores = []

    def cores_of(self, role: str, index: int) -> list[int]:
        """Cores of process `index` of a role; empty: not pinned."""
        return self.cores("publisher" if role == "publisher" else f"{role}s", index)

    def cores(self, key: str, index: int = 0) -> list[int]:
        """Cores of process `index` under a key of this section; empty: not pinned."""
        value = getattr(self, key)
        if key in {"supervisor", "publisher"} or not value:
            return list(value)
        return [value[index]] if isinstance(value[index], int) else list(value[index])


Waiting = Annotated[
    Literal["", "sleep", "spin", "spin-then-yield"], Meta(description="theirs alone; empty: as $.wait.mode")
]


class Wait(Section, frozen=True):
    """What processes do when there is nothing to do: `mode`, or what one kind of them is told instead."""

    mode: Annotated[
        Literal["sleep", "spin", "spin-then-yield"], Meta(description="spin only on cores of one's own")
    ] = "sleep"
    routers: Waiting = ""
    workers: Waiting = ""
    journals: Waiting = ""
    publisher: Waiting = ""
    followers: Waiting = ""

    def mode_of(self, key: str) -> str:
        """How the processes under a key of this section wait."""
        return getattr(self, key) or self.mode


class Memory(Section, frozen=True):
    """How processes hold their memory; what the machine does not grant is said at the start, and done without."""

    prefault: Annotated[
        bool, Meta(description="rings and tables have all their pages before the first order")
    ] = True
    huge_pages: Annotated[
        Literal["off", "try"], Meta(description="of shared memory: needs /dev/shm mounted with huge=advise")
    ] = "off"
    lock: Annotated[
        Literal["off", "try"], Meta(description="nothing leaves memory: needs an unlimited memlock limit")
    ] = "off"


class Follower(Section, frozen=True):
    """A hot standby for each shard, on this machine: it follows the worker, takes the snapshots, and takes over."""

    enabled: Annotated[
        bool, Meta(description="one follower a shard: another process, and its memory once more")
    ] = False
    heartbeat_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="a worker silent for so long is replaced, 1 to 60000")
    ] = 250


class Snapshots(Section, frozen=True):
    """State at rest, from which a start goes on instead of from the log's beginning."""

    folder: Annotated[str, Meta(description="of the files; empty: snapshots in the data folder")] = ""
    interval_seconds: Annotated[
        int, Meta(ge=0, le=1 << 20, description="time between two of a shard; 0: at a clean stop only")
    ] = 60
    keep: Annotated[int, Meta(ge=2, le=1_000, description="how many of a shard are kept, 2 to 1000")] = 3


RANGE: Final = re.compile(r"(-?\d{1,19})\.\.(-?\d{1,19})")


class Placement(Section, frozen=True):
    """Which shard an event is created on; for others a hash of the id decides. One event goes before a range."""

    events: Annotated[
        dict[Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)], Annotated[int, Meta(ge=0, le=63)]],
        Meta(description='event id to shard, as in "7" = 1'),
    ] = {}
    ranges: Annotated[
        dict[str, Annotated[int, Meta(ge=0, le=63)]],
        Meta(description='event ids from the first to the last, to a shard, as in "1000..1999" = 2'),
    ] = {}
    reserved: Annotated[
        list[Annotated[int, Meta(ge=0, le=63)]],
        Meta(description="shards of their own: no event gets there by its hash"),
    ] = []

    def rows(self) -> list[tuple[int, int, int]]:
        """(first id, last id, shard) of each range, in order. Raises ValueError with a rule that one of them breaks."""
        rows = []
        for text, shard in self.ranges.items():
            found = RANGE.fullmatch(text)
            if found is None or int(found[1]) > int(found[2]):
                raise ValueError(f'must be like "1000..1999" = 2, the smaller id first, was {text!r}')
            rows.append((int(found[1]), int(found[2]), shard))
        rows.sort()
        for before, after in pairwise(rows):
            if before[1] >= after[0]:
                raise ValueError(f"must not overlap, as {before[0]}..{before[1]} and {after[0]}..{after[1]} do")
        return rows


class Config(Section, frozen=True):
    """Everything. `sources` says where each value came from that is not a default."""

    exchange: Exchange = Exchange()
    limits: LimitsConfig = LimitsConfig()
    orders: Orders = Orders()
    rings: Rings = Rings()
    intake: Intake = Intake()
    output: Output = Output()
    rabbitmq: Rabbitmq = Rabbitmq()
    log: Log = Log()
    kafka: Kafka = Kafka()
    cpu: Cpu = Cpu()
    wait: Wait = Wait()
    memory: Memory = Memory()
    follower: Follower = Follower()
    snapshots: Snapshots = Snapshots()
    placement: Placement = Placement()
    sources: dict[str, str] = {}

    def data_folder(self) -> Path:
        """Folder of everything that is written."""
        return Path(self.exchange.data)

    def generation_folder(self) -> str:
        """Name of the generation's own folder under those of logs and snapshots; the first one has none, and no name."""
        return f"{GENERATION_PREFIX}{self.exchange.generation:04}" if self.exchange.generation > 1 else ""

    def snapshots_folder(self) -> Path:
        """Folder of the generation's snapshots."""
        folder = Path(self.snapshots.folder) if self.snapshots.folder else self.data_folder() / "snapshots"
        return folder / self.generation_folder()

    def log_folder(self) -> Path:
        """Folder of the generation's segment files."""
        folder = Path(self.log.folder) if self.log.folder else self.data_folder() / "log"
        return folder / self.generation_folder()

    def log_topic(self) -> str:
        """Topic of the generation's log in Kafka."""
        generation = self.exchange.generation
        return f"{self.kafka.topic}.{generation}" if generation > 1 else self.kafka.topic
