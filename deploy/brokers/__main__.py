#!/usr/bin/env python3
"""
A real RabbitMQ and a real Apache Kafka on loopback, for tests, demonstrations and a first look.

    python3 deploy/brokers up                 install what is missing, start both, wait until they answer
    python3 deploy/brokers down               stop both, make sure that nothing is left, remove their data
    python3 deploy/brokers status             one line each; exit 0 if both answer, else 3
    python3 deploy/brokers env                the lines that name them, for a shell
    python3 deploy/brokers stop|start|restart|kill rabbitmq|kafka         keeps the data; kill is SIGKILL

`--folder DIR` (default build/brokers) holds everything of one pair; several pairs run side by side, as ports are chosen when
a folder is new and kept in DIR/brokers.env. Brokers that run elsewhere are named by RINGPIT_RABBITMQ_URL and
RINGPIT_KAFKA_BOOTSTRAP: then nothing of that kind is started, and nothing stopped. Needs Python's standard library only.

Exit 0 done, 1 failed (a sentence on standard error says what to do), 2 wrong arguments, 3 not running.
"""

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import kafka
import rabbitmq
from processes import (
    BrokerError,
    end_all,
    free_ports,
    kill_leader,
    leader,
    marked,
    resident_megabytes,
    wait_until,
)

BROKERS = {rabbitmq.NAME: rabbitmq, kafka.NAME: kafka}
READY_SECONDS = 120.0
LOG_TAIL_BYTES = 3_000
NOT_RUNNING = 3


def say(text: str) -> None:
    """Print one fact at once."""
    print(text, flush=True)


def environment_file(folder: Path) -> Path:
    """Return where a folder's ports and addresses are kept."""
    return folder / "brokers.env"


def read_environment(folder: Path) -> dict[str, str]:
    """Return the names and values of a folder's brokers.env; empty if it was never started."""
    with contextlib.suppress(FileNotFoundError):
        return dict(pair.split("=", 1) for pair in shlex.split(environment_file(folder).read_text()))
    return {}


def write_environment(folder: Path, values: dict[str, str]) -> None:
    """Write brokers.env whole, so that a reader never sees half of it."""
    partial = folder / "brokers.env.partial"
    partial.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
    partial.replace(environment_file(folder))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one command at a time work on a folder. The lock lies beside it, as `down` removes the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def elsewhere(name: str, values: dict[str, str]) -> str | None:
    """Return the address that the environment names, unless it is the one that this folder itself handed out."""
    url = BROKERS[name].URL
    given = os.environ.get(url, "")
    own = all(port in values for port in BROKERS[name].PORTS) and given == values.get(url)
    return None if own or not given else given


def place(address: str) -> str:
    """Return host and port of an address, without the password that a URL may hold."""
    return (
        address.rpartition("@")[2].partition("/")[0]
        if "://" not in address
        else urlsplit(address).netloc.rpartition("@")[2]
    )


def ports_of(name: str, values: dict[str, str]) -> dict[str, int]:
    """Return a broker's ports. Raises BrokerError if the folder has none, as it was never started."""
    try:
        return {port: int(values[port]) for port in BROKERS[name].PORTS}
    except KeyError:
        raise BrokerError(f"{name} is not one of this folder's brokers: run `up` first") from None


def log_of(folder: Path, name: str) -> Path:
    """Return the file that collects what a broker prints."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    return folder / "log" / f"{name}.log"


def log_tail(folder: Path, name: str) -> str:
    """Return the last lines of a broker's logs, for an error message."""
    parts = []
    for path in sorted((folder / "log").glob(f"{name}*.log")):
        text = path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        parts.append(f"--- the end of {path}\n{text}")
    return "\n".join(parts)


def launch(folder: Path, name: str, values: dict[str, str]) -> subprocess.Popen | None:
    """Start one broker on its ports; None if it runs already."""
    broker = BROKERS[name]
    if leader(folder, name, broker.PROGRAM):
        return None
    try:
        return broker.start(folder, ports_of(name, values), log_of(folder, name))
    except BrokerError as error:
        raise BrokerError(f"{log_tail(folder, name)}\n{error}") from None


def await_ready(folder: Path, name: str, values: dict[str, str], process: subprocess.Popen | None) -> None:
    """Wait until a broker answers. Raises BrokerError with the end of its log if it ends or takes too long."""
    broker, ports = BROKERS[name], ports_of(name, values)
    started = time.monotonic()
    ended = False

    def settled() -> bool:
        """Tell whether the broker answers or has given up."""
        nonlocal ended
        ended = process is not None and process.poll() is not None
        return ended or broker.ready(ports)

    if not wait_until(settled, READY_SECONDS) or ended:
        what = "ended while starting" if ended else f"did not answer within {READY_SECONDS:.0f} s"
        end_all(folder, name, broker.PROGRAM)
        raise BrokerError(
            f"{log_tail(folder, name)}\n{name} {what}: see the log above; `down` clears {folder}, then try again"
        )
    pid = leader(folder, name, broker.PROGRAM)
    if pid is None:
        raise BrokerError(
            f"port {next(iter(ports.values()))} answers but {name} of {folder} does not run: `down`, then `up`"
        )
    took = f"ready after {time.monotonic() - started:.1f} s" if process else "runs already"
    say(f"{name}: {took}, pid {pid}, {place(values[broker.URL])}, {resident_megabytes(pid)} MB")


def record_pids(folder: Path, values: dict[str, str]) -> None:
    """Note the pids for the reader of brokers.env; nothing of ours relies on them."""
    for name, broker in BROKERS.items():
        pid = leader(folder, name, broker.PROGRAM)
        values.pop(f"RINGPIT_{name.upper()}_PID", None)
        if pid is not None:
            values[f"RINGPIT_{name.upper()}_PID"] = str(pid)
    write_environment(folder, values)


def up(folder: Path) -> int:
    """Start what does not run, both at a time, and wait for both. Harmless if everything runs."""
    values = read_environment(folder)
    own = []
    for name, broker in BROKERS.items():
        given = elsewhere(name, values)
        if given:
            values[broker.URL] = given
            say(f"{name}: {broker.URL} names {place(given)}; nothing started")
            continue
        own.append(name)
        broker.install()
        if any(port not in values for port in broker.PORTS):
            values |= {
                port: str(number)
                for port, number in zip(broker.PORTS, free_ports(len(broker.PORTS)), strict=True)
            }
            values[broker.URL] = broker.address(ports_of(name, values))
    values["RINGPIT_BROKERS_FOLDER"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_environment(folder, values)
    started = {name: launch(folder, name, values) for name in own}
    for name, process in started.items():
        await_ready(folder, name, values, process)
    record_pids(folder, values)
    say(f"brokers: addresses in {environment_file(folder)}")
    return 0


def down(folder: Path, *, keep_logs: bool) -> int:
    """Stop what this folder started, prove that nothing is left, and remove the folder."""
    for name, broker in BROKERS.items():
        ran = bool(marked(folder, name))
        end_all(folder, name, broker.PROGRAM)
        say(f"{name}: {'stopped' if ran else 'did not run'}")
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not (keep_logs and path.name == "log"):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    if folder.is_dir() and not keep_logs:
        folder.rmdir()
    return 0


def status(folder: Path) -> int:
    """Print one line for each broker; 0 if both answer."""
    values = read_environment(folder)
    answers = 0
    for name, broker in BROKERS.items():
        pid = leader(folder, name, broker.PROGRAM)
        if elsewhere(name, values):
            say(f"{name}: {broker.URL} names {place(os.environ[broker.URL])}")
            answers += 1
        elif pid is not None and broker.ready(ports_of(name, values)):
            say(f"{name}: runs, pid {pid}, {place(values[broker.URL])}, {resident_megabytes(pid)} MB")
            answers += 1
        else:
            say(f"{name}: {'does not answer yet, pid ' + str(pid) if pid else 'does not run'}")
    return 0 if answers == len(BROKERS) else NOT_RUNNING


def one(folder: Path, action: str, name: str) -> int:
    """Stop, start, restart or kill one broker of ours and keep its data."""
    values, broker = read_environment(folder), BROKERS[name]
    ports_of(name, values)
    if action == "kill":
        kill_leader(folder, name, broker.PROGRAM)
    if action in ("stop", "restart"):
        end_all(folder, name, broker.PROGRAM)
    if action in ("start", "restart"):
        await_ready(folder, name, values, launch(folder, name, values))
    else:
        say(f"{name}: {'killed' if action == 'kill' else 'stopped'}, data kept")
    record_pids(folder, values)
    return 0


def env(folder: Path) -> int:
    """Print brokers.env as it is."""
    if not environment_file(folder).exists():
        raise BrokerError(f"{environment_file(folder)} does not exist: run `python3 deploy/brokers up` first")
    print(environment_file(folder).read_text(), end="")
    return 0


def parse() -> argparse.Namespace:
    """Read the arguments; argparse answers wrong ones with the usage and exit 2."""
    parser = argparse.ArgumentParser(
        prog="brokers", description="A real RabbitMQ and a real Apache Kafka on loopback."
    )
    commands = parser.add_subparsers(dest="action", required=True)
    for action in ("up", "down", "status", "env", "stop", "start", "restart", "kill"):
        command = commands.add_parser(action)
        if action in ("stop", "start", "restart", "kill"):
            command.add_argument("broker", choices=sorted(BROKERS))
        if action == "down":
            command.add_argument("--keep-logs", action="store_true", help="leave DIR/log")
        command.add_argument("--folder", type=Path, default=kafka.ROOT / "build" / "brokers", metavar="DIR")
    return parser.parse_args()


def main() -> int:
    """Run one command on one folder."""
    arguments = parse()
    folder = arguments.folder.absolute()
    try:
        if arguments.action in ("status", "env"):
            return status(folder) if arguments.action == "status" else env(folder)
        with locked(folder):
            if arguments.action == "up":
                return up(folder)
            if arguments.action == "down":
                return down(folder, keep_logs=arguments.keep_logs)
            return one(folder, arguments.action, arguments.broker)
    except BrokerError as error:
        print(f"brokers: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
