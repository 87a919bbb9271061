"""
The real brokers, as tests see them: where they are, and how to take one away in the middle.

`make brokers` (deploy/brokers) starts them and writes their addresses to a file; the environment, if it names brokers, wins.
Nothing here starts a broker that was not there: a missing one is an error with the remedy, so a test run can
never quietly prove less than it says.

    brokers = Brokers()
    with brokers.stopped("kafka"):
        ...                        # the log is away
    ...                            # it is back, with its data
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "deploy" / "brokers"
FOLDER_DEFAULT = ROOT / "build" / "brokers"
COMMAND_SECONDS = 180
SETTLE_SECONDS = 10.0
REMEDY = "run `make brokers`, or name ones that run in RINGPIT_RABBITMQ_URL and RINGPIT_KAFKA_BOOTSTRAP"


class BrokersMissing(RuntimeError):
    """No broker of this kind is named by the environment or by a started folder. The message says what to do."""


class BrokerCommandFailed(RuntimeError):
    """A broker could not be stopped, started or killed; the message holds what the command printed."""


def folder() -> Path:
    """Return the folder of the brokers that this machine runs for us."""
    return Path(os.environ.get("RINGPIT_BROKERS_FOLDER") or FOLDER_DEFAULT)


def address(name: str) -> str:
    """Return the value of a variable from the environment or brokers.env. Raises BrokersMissing if neither has it."""
    if os.environ.get(name):
        return os.environ[name]
    path = folder() / "brokers.env"
    try:
        values = dict(pair.split("=", 1) for pair in shlex.split(path.read_text()))
        return values[name]
    except (FileNotFoundError, KeyError):
        raise BrokersMissing(f"{name} is not set and {path} does not name it: {REMEDY}") from None


def rabbitmq_url() -> str:
    """Return the AMQP URL of the real RabbitMQ, for pika.URLParameters. Raises BrokersMissing."""
    return address("RINGPIT_RABBITMQ_URL")


def kafka_bootstrap() -> str:
    """Return `host:port` of the real Kafka, for bootstrap.servers. Raises BrokersMissing."""
    return address("RINGPIT_KAFKA_BOOTSTRAP")


class Brokers:
    """
    Stops, starts and kills the brokers that deploy/brokers started, one at a time; names are "rabbitmq" and "kafka".

    Every method returns when the broker is down, or answers again. Brokers that run elsewhere cannot be stopped from here.
    Raises BrokerCommandFailed. Cost: stop 0.3-1.5 s, start 2-6 s, kill 0.2 s.
    """

    def __init__(self) -> None:
        """Use the folder that the environment names, else build/brokers."""
        self.folder = folder()

    def stop(self, name: str) -> None:
        """Stop a broker as its operator would; its data stays."""
        self.run("stop", name)

    def start(self, name: str) -> None:
        """Start a stopped or killed broker on the ports and the data it had."""
        self.run("start", name)

    def restart(self, name: str) -> None:
        """Stop and start a broker."""
        self.run("restart", name)

    def kill(self, name: str) -> None:
        """
        End a broker with SIGKILL, as a crash would; its data stays as it lies.

        RabbitMQ 3.10 writes the names of new quorum queues to disk up to a second late. A queue that was declared just
        before the kill would be found afterwards but refuse every message for ever (seen), so that is waited for.
        """
        if name == "rabbitmq":
            deadline = time.monotonic() + SETTLE_SECONDS
            while unnamed := self.queues_not_on_disk():
                if time.monotonic() > deadline:
                    raise BrokerCommandFailed(
                        f"after {SETTLE_SECONDS:.0f} s the names of {unnamed} are not on disk"
                    )
                os.sched_yield()
        self.run("kill", name)

    def queues_not_on_disk(self) -> list[str]:
        """Return the folders of quorum queues whose names RabbitMQ's table on disk does not hold yet."""
        missing = []
        for table in self.folder.glob("rabbitmq/data/*/quorum/*/names.dets"):
            names = table.read_bytes()
            queues = [config.parent.name for config in table.parent.glob("*/config")]  # a deleted one has none
            missing += [queue for queue in queues if queue.encode() not in names]
        return missing

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Keep a broker stopped for the body, and start it again however the body ends."""
        self.stop(name)
        try:
            yield
        finally:
            self.start(name)

    def run(self, action: str, name: str) -> None:
        """Run one command of deploy/brokers."""
        command = [sys.executable, str(PROGRAM), action, name, "--folder", str(self.folder)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise BrokerCommandFailed(f"`{action} {name}` failed: {done.stdout}")
