"""
Processes of one broker folder: marked when started, found by the mark, ended for certain.

A started broker has no parent that waits for it, forks helpers of its own (epmd, erl_child_setup), and its
pid may be used again by somebody else after it has died. So a pid file proves nothing. Every process that we start carries
`RINGPIT_BROKER=<folder>:<name>` in its environment, its children inherit it, and Linux shows it in
/proc/PID/environ: whoever carries the mark is ours, whoever does not is never touched.

    mark -> /proc/*/environ -> pids -> SIGTERM to the leader -> deadline -> SIGKILL to all -> nobody left

Invariants:

    P1  no signal goes to a process without the mark
    P2  `end_all` returns only when no process carries the mark
    P3  every wait has a deadline
"""

# ruff: noqa: INP001  a folder that Python runs as a program, not a package that is imported
import os
import secrets
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

MARK = "RINGPIT_BROKER"
POLL_SECONDS = 0.05
END_SECONDS = 30.0
PORT_FIRST, PORT_LAST = 20_000, 32_000  # below the range from which Linux gives ports to clients


class BrokerError(Exception):
    """A broker could not be started, reached or ended. The message says what to do."""


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Poll `done` until it holds or `seconds` have passed; returns whether it holds."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that nobody listens on now."""
    ports: list[int] = []
    for _ in range(1_000):
        port = PORT_FIRST + secrets.randbelow(PORT_LAST - PORT_FIRST)
        if port not in ports and bindable(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise BrokerError(
        f"no {count} free ports between {PORT_FIRST} and {PORT_LAST} on 127.0.0.1: end what holds them"
    )


def bindable(port: int) -> bool:
    """Return whether this process could listen on a loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's linger is no holder
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def exchange_bytes(port: int, request: bytes, reply_bytes: int) -> bytes:
    """Send `request` to a loopback port and return up to `reply_bytes` of the answer; empty if there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.settimeout(2)
            connection.sendall(request)
            return connection.recv(reply_bytes, socket.MSG_WAITALL)
    except OSError:
        return b""


def mark(folder: Path, name: str) -> str:
    """Return the mark's value for the broker `name` of `folder`."""
    return f"{folder}:{name}"


def marked(folder: Path, name: str) -> list[int]:
    """Return the pids that carry the mark, smallest first. Cost: one pass over /proc."""
    wanted = f"{MARK}={mark(folder, name)}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it ended meanwhile, or it is another user's and so not ours
                continue
    return sorted(found)


def leader(folder: Path, name: str, program: str) -> int | None:
    """Return the pid of the marked process whose program is called `program`, or None if it does not run."""
    for pid in marked(folder, name):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                return pid
        except OSError:
            continue
    return None


def resident_megabytes(pid: int) -> int:
    """Return what a process holds in memory, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        return 0


def end(pid: int, number: int) -> bool:
    """
    Send a signal to a process and return whether it ends in END_SECONDS, with all its threads.

    One of them may sit in a sync of the disk, and keep the ports and locks while the process looks dead already.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:  # it has ended meanwhile
        return True
    try:
        signal.pidfd_send_signal(handle, number)
        return bool(select.select([handle], [], [], END_SECONDS)[0])
    finally:
        os.close(handle)


def kill_leader(folder: Path, name: str, program: str) -> None:
    """End the broker itself with SIGKILL, as a crash would, and return when it is gone."""
    pid = leader(folder, name, program)
    if pid is None:
        raise BrokerError(f"{name} does not run in {folder}: start it first")
    if not end(pid, signal.SIGKILL):
        raise BrokerError(f"{name}: process {pid} survived SIGKILL for {END_SECONDS:.0f} s; look at it with ps")


def end_all(folder: Path, name: str, program: str) -> None:
    """Ask the broker to stop, wait, then make sure that none of its processes is left."""
    pid = leader(folder, name, program)
    if pid is not None:
        end(pid, signal.SIGTERM)

    def nobody_left() -> bool:
        """Send SIGKILL to what remains and tell whether anything did."""
        remaining = marked(folder, name)
        for each in remaining:
            end(each, signal.SIGKILL)
        return not remaining

    if not wait_until(nobody_left, END_SECONDS):
        raise BrokerError(f"{name}: processes {marked(folder, name)} survived SIGKILL; look at them with ps")
