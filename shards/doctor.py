"""
`ringpit doctor`: is this machine ready for an exchange that spins?

Reads what the kernel says of the machine (readiness.py), compares /dev/shm with what the configuration needs, and spins on a core
for some seconds to see what it is kept from (jitter.py). Each finding has a severity, why it matters and what to do. Exit code 1 if
anything is bad. It changes nothing.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

COLORS: Final = {"OK": "green", "NOTE": "cyan", "WARNING": "yellow", "BAD": "bold red"}
BAD_CODE: Final = 1


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="TOML file; without one the defaults hold.", show_default=False),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="How long to spin for the jitter; 0: not at all.")
    ] = 3.0,
    core: Annotated[
        int | None,
        typer.Option(help="The core to spin on; else the last one that may be used.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
) -> None:
    """Say whether this machine is ready, what is in the way, and what to do about it."""
    from ringpit.shards.config import load
    from ringpit.shards.logtool import told

    with told():
        findings = examine(load(config), Path("/"), seconds, core)
    if as_json:
        for finding in findings:
            print(json.dumps(finding._asdict() | {"severity": finding.severity.name.lower()}))
    else:
        print_findings(findings)
    if any(finding.severity.name == "BAD" for finding in findings):
        raise typer.Exit(BAD_CODE)


def examine(config: Any, root: Path, seconds: float, core: int | None) -> list[Any]:
    """All findings for a configuration. Raises ValueError for a core that may not be used."""
    from ringpit.ipc.segment import SHARED_MEMORY
    from ringpit.shards import jitter, readiness

    pinned = set(pinned_cores(config))
    needed_bytes = shared_bytes(config)
    # A file system as the machine has it: made-up trees are read, not mounted.
    disk = os.statvfs(SHARED_MEMORY)
    findings = [
        *readiness.look(
            root,
            needed_bytes=needed_bytes,
            needed_cores=wanted_cores(config),
            allowed=os.sched_getaffinity(0),
            pinned=pinned,
            spins=any("spin" in str(getattr(config.wait, key)) for key in config.wait.__struct_fields__),
        ),
        readiness.shared_memory(needed_bytes, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize),
    ]
    before = readiness.stolen_of(root)
    if seconds:
        chosen = core if core is not None else max(pinned & os.sched_getaffinity(0), default=None)
        findings.append(readiness.jitter(jitter.measure(seconds, chosen)))
    else:
        time.sleep(1)  # the kernel counts steal in ticks of 10 ms
    findings.append(readiness.steal(before, readiness.stolen_of(root)))
    return findings


def shared_bytes(config: Any) -> int:
    """Bytes in /dev/shm of all segments that a configuration's exchange makes."""
    from ringpit.shards import layout

    exchange = config.exchange
    workers = exchange.shards * (2 if config.follower.enabled else 1)
    counted = [
        (layout.board_layout(config), 1),
        (layout.queries_layout(config), 1),
        (layout.router_layout(config), exchange.routers),
        (layout.worker_layout(config), workers),
        (layout.publisher_layout(config), 1),
    ]
    if config.intake.source == "ring":
        counted.append((layout.ingress_layout(config), exchange.routers))
    return sum(each.bytes_total * count for each, count in counted)


def wanted_cores(config: Any) -> int:
    """A core for each process but the supervisor, which sleeps, and for each journal thread."""
    exchange = config.exchange
    return int(exchange.routers + exchange.shards * (3 if config.follower.enabled else 2) + 1)


def pinned_cores(config: Any) -> Iterator[int]:
    """Core numbers anywhere in [cpu]."""
    fields = [getattr(config.cpu, key) for key in config.cpu.__struct_fields__]
    waiting = [value for value in fields if isinstance(value, list)]  # other keys say how, not where
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        else:
            yield value


def print_findings(findings: list[Any]) -> None:
    """Worst first; what is as it should be in one line each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda each: -each.severity):
        name = finding.severity.name
        text = Text(finding.found)
        if name != "OK":
            text.append(f"\n{finding.why}", style="dim")
            if finding.remedy:
                text.append(f"\n-> {finding.remedy}")
        table.add_row(Text(name.lower(), style=COLORS[name]), Text(finding.name), text)
    out = Console(highlight=False)
    out.print(table)
    counts = [(name, sum(finding.severity.name == name for finding in findings)) for name in reversed(COLORS)]
    out.print(", ".join(f"{count} {name.lower()}" for name, count in counts))
