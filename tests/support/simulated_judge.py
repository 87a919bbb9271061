"""
The judge of a simulation: looks at what clients submitted, what the log took, and what came out, and at nothing else.

It reads the log by the reader rule in twenty lines of its own, feeds the naive exchange the commands *as they were
submitted* in the order of the log's markers, and compares.

Invariants that it holds the exchange to, while it runs:

    J1  a delivery is acknowledged only when each shard that it touches has its frame in the durable log
    J2  a report leaves only when its command is in the durable log, and only once in the life of a publisher
        (release mode "durable")

and when it has settled:

    J3  every delivery has its frame on each shard that it touches, whole, and the frames that count come in the order of
        their queue
    J4  the reports that came out are those of the naive exchange, with their frame's time, each told once or the same again,
        in order
    J5  books: the naive exchange, the worker, its follower and a replay of the log have one digest
"""

from typing import Any, Final

import numpy as np

from ringpit.engine.codes import CommandKind, Flag, ReportKind
from ringpit.engine.digest import digest
from ringpit.engine.limits import INT64_MAX, Limits
from ringpit.engine.records import COMMAND, MARKER
from ringpit.engine.tables import allocate
from ringpit.shards.directory import Directory
from ringpit.shards.packed import view
from ringpit.shards.router import body_hash
from ringpit.shards.worker import Replay
from ringpit.testing.naive import NaiveExchange, named
from ringpit.testing.received import Told
from ringpit.testing.simulated_brokers import LogStore, Message, Queue, is_whole
from ringpit.wal.batch import HEADER, HEADER_BYTES, BatchKind

LEVEL: Final = int(ReportKind.LEVEL)


class Broken(AssertionError):
    """The exchange broke a promise."""


class History:
    """What counts of one shard's log, read batch by batch: the reader rule once more."""

    def __init__(self) -> None:
        """Nothing read."""
        self.epoch = self.nonce = self.read = 0
        self.records: list[np.void] = []
        self.frames: set[tuple[int, int, int]] = set()  # key, body hash
        self.left = 0  # of the frame that was begun

    def read_to(self, batches: list[bytes], end: int) -> "History":
        """Read on."""
        while self.read < end:
            self._take(batches[self.read])
            self.read += 1
        return self

    def _take(self, batch: bytes) -> None:
        """One batch: a newer claim, or records of whoever claimed last."""
        header = np.frombuffer(batch, HEADER, 1)[0]
        epoch, nonce = int(header["epoch"]), int(header["nonce"])
        if header["kind"] == BatchKind.CLAIM:
            if epoch > self.epoch:
                self.epoch, self.nonce = epoch, nonce
            return
        if (epoch, nonce) != (self.epoch, self.nonce):
            return
        skip = len(self.records) + 1 - int(header["first_seq"])
        if skip < 0:
            raise Broken(f"the log has a gap before seq {header['first_seq']}, {len(self.records)} are there")
        for row in np.frombuffer(batch, MARKER, offset=HEADER_BYTES)[skip:]:
            self.records.append(row)
            if self.left:
                self.left -= 1
            else:
                self.left = int(row["count"])
                self.frames.add((int(row["key_low"]), int(row["key_high"]), int(row["body_hash"])))


class Judge:
    """Knows everything that was submitted, and reads everything that is durable."""

    def __init__(
        self, limits: Limits, shards: int, queues: list[Queue], logs: list[LogStore], *, early: bool = False
    ) -> None:
        """Nothing has happened. `early`: reports may leave before the log has their commands, and be taken back."""
        self.limits = limits
        self._early = early
        self.queues = queues
        self.logs = logs
        self._directory = Directory(shards, 1)
        self.durable = [History() for _ in logs]
        self._sent: dict[int, tuple[int, int]] = {}  # shard to the newest report of the publisher that lives
        self._parts: dict[bytes, dict[int, np.ndarray]] = {}

    def parts(self, body: bytes) -> dict[int, np.ndarray]:
        """A delivery's commands on each shard that it touches."""
        if body not in self._parts:
            commands = view(body)
            every = (commands["kind"] == CommandKind.MASS_CANCEL) & (commands["flags"] & Flag.ALL_EVENTS != 0)
            homes = np.array([self._directory.shard_of(int(event)) for event in commands["event"]])
            self._parts[body] = {
                shard: commands[every | (homes == shard)]
                for shard in range(len(self.logs))
                if (every | (homes == shard)).any()
            }
        return self._parts[body]

    def _history(self, shard: int) -> History:
        """What is durable now."""
        log = self.logs[shard]
        return self.durable[shard].read_to(log.batches, log.durable)

    def acknowledging(self, message: Message) -> None:
        """J1."""
        if not message.valid:
            return
        for shard in self.parts(message.body):
            if (*message.key, body_hash(message.body)) not in self._history(shard).frames:
                raise Broken(f"a delivery is acknowledged that the log of shard {shard} has not: {message.key}")

    def publisher_started(self) -> None:
        """A publisher may send again what another has sent."""
        self._sent.clear()

    def sending(self, told: list[Told]) -> None:
        """J2."""
        if self._early:
            return
        for shard, report, *_ in told:
            identity = (report.seq, report.index)
            if identity <= self._sent.get(shard, (0, 0)):
                raise Broken(f"shard {shard}: report {identity} is sent a second time by one publisher")
            self._sent[shard] = identity
            end = len(self._history(shard).records)
            if report.seq > end:
                raise Broken(f"a report of seq {report.seq} leaves, and the log of shard {shard} ends at {end}")

    def settled(self, shard: int, received: list[Told], digests: dict[str, str]) -> None:
        """J3 to J5, for one shard."""
        log = self.logs[shard]
        history = History().read_to(log.batches, len([batch for batch in log.batches if is_whole(batch)]))
        naive, wanted = self._played(shard, history)
        self._compare(shard, wanted, received)
        digests["a replay"] = self.replayed(history)
        for name, found in digests.items():
            if found != naive.digest():
                raise Broken(f"shard {shard}: the books of {name} are not those of the naive exchange")

    def _played(self, shard: int, history: History) -> tuple[NaiveExchange, list[tuple[Any, int]]]:
        """J3, and what the naive exchange says to the submitted commands in the log's order, with the time of each frame."""
        bodies = {
            (*message.key, body_hash(message.body)): message.body
            for queue in self.queues
            for message in queue.messages
            if message.valid
        }
        naive = NaiveExchange(self.limits, market_data=True)
        told: list[tuple[Any, int]] = []
        order: list[tuple[int, int]] = []
        at = 0
        while at < len(history.records):
            marker = history.records[at]
            name = (int(marker["key_low"]), int(marker["key_high"]), int(marker["body_hash"]))
            count = int(marker["count"])
            logged = np.array(history.records[at + 1 : at + 1 + count], MARKER).view(COMMAND)
            if marker["router"] >= 0:
                submitted = self.parts(bodies[name]).get(shard) if name in bodies else None
                if submitted is None or submitted.tobytes() != logged.tobytes():
                    raise Broken(f"shard {shard}: a frame at seq {at + 1} is not as it was submitted")
                order.append(name[:2])
            said = naive.run([named(marker), *map(named, logged)])
            told += [(report, int(marker["engine_ns"])) for report in said if report.kind < LEVEL]
            at += 1 + count
        self._require_order(shard, list(dict.fromkeys(order)))
        return naive, told

    def _require_order(self, shard: int, order: list[tuple[int, int]]) -> None:
        """J3: first frames of keys come as the queues took them."""
        for queue in self.queues:
            valid = [message for message in queue.messages if message.valid]
            wanted = list(dict.fromkeys(message.key for message in valid if shard in self.parts(message.body)))
            mine = set(wanted)
            found = [key for key in order if key in mine]
            if found != wanted:
                missing = [key for key in wanted if key not in set(found)]
                raise Broken(
                    f"shard {shard}: {len(missing)} deliveries are missing in the log"
                    if missing
                    else f"shard {shard}: deliveries are not in the order of their queue"
                )

    def _compare(self, shard: int, wanted: list[tuple[Any, int]], received: list[Told]) -> None:
        """J4; a higher epoch takes back what lower ones told above the seq that it names."""
        kept: dict[tuple[int, int], Any] = {}
        newest, newest_epoch = (0, 0), 0
        for _, report, time_ns, epoch, epoch_seq in (told for told in received if told.shard == shard):
            said = report, time_ns
            identity = (report.seq, report.index)
            if epoch < newest_epoch:
                raise Broken(
                    f"shard {shard}: report {identity} of epoch {epoch} came behind epoch {newest_epoch}"
                )
            if epoch > newest_epoch:
                kept = {(seq, index): kept[seq, index] for seq, index in kept if seq <= epoch_seq}
                newest, newest_epoch = max(kept, default=(0, 0)), epoch
            if identity in kept:
                if kept[identity] != said:
                    raise Broken(f"shard {shard}: report {identity} was contradicted: {kept[identity]}, {said}")
                continue
            if identity < newest:
                raise Broken(f"shard {shard}: report {identity} came behind {newest}")
            newest = identity
            kept[identity] = said
        for said in wanted:
            found = kept.get((said[0].seq, said[0].index))
            if found != said:
                raise Broken(f"shard {shard}: expected {said}, received {found}")
        if len(kept) != len(wanted):
            raise Broken(f"shard {shard}: {len(kept) - len(wanted)} reports too many")

    def replayed(self, history: History) -> str:
        """The digest after a replay of everything that counts."""
        tables = allocate(self.limits)
        records = np.array(history.records, MARKER)
        if len(records):
            Replay(tables, INT64_MAX).apply(np.zeros(1, HEADER)[0], records)
        return digest(tables)
