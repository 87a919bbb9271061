"""
`ringpit wal`: look at the log at rest, check it, and say what a start would do with it.

    ringpit wal inspect      what is in it, batch by batch, or record by record
    ringpit wal verify       whether it is whole, and whether the snapshots agree with it
    ringpit wal tail         what is being written
    ringpit wal diff         where two logs first tell different histories
    ringpit wal plan         what a start would do, and how long it would take
    ringpit wal skip         refuse a command at which a shard died
    ringpit wal trim         forget what lies before the snapshots

All but `skip` and `trim` only read. All but `skip` may run beside a running exchange, and take a log in Kafka and one in files alike. Only printing is here;
what is printed comes from history.py, verify.py, tailing.py, differ.py, planning.py, skipping.py and trimming.py.

Exit codes: 0 good; 65 damaged, refused or different; 69 out of reach; 2 the command line or the configuration is wrong.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from ringpit.shards.asking import AsJson, Fields, console_of_any_width, print_json, print_table
from ringpit.shards.exits import Exit
from ringpit.shards.instance import nonce_of
from ringpit.shards.saying import say

app = typer.Typer(
    name="wal",
    help="Look at the log at rest: inspect, verify, tail, diff, plan a start; skip a command; trim.",
    no_args_is_help=True,
    add_completion=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file of the exchange whose log it is.", show_default=False),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Folder of segment files (of all shards, or one shard's); with -c, limits come from there.",
        show_default=False,
    ),
]
Snapshots = Annotated[
    Path | None,
    typer.Option("--snapshots", help="Folder of the snapshots, if not the exchange's own.", show_default=False),
]
Shard = Annotated[
    int | None, typer.Option("--shard", min=0, help="One shard; without it all.", show_default=False)
]
FromSeq = Annotated[int, typer.Option("--from", min=1, help="First seq.")]
ToSeq = Annotated[int | None, typer.Option("--to", min=1, help="Last seq.", show_default=False)]

TAIL_SECONDS: Final = 0.2  # between two looks
BATCH_COLUMNS: Final = (
    "Position",
    "Kind",
    "Epoch",
    "Seqs",
    "Records",
    "Bytes",
    "Confirmed",
    "Positions",
    "Time",
    "Note",
)


def load_config(path: Path | None) -> Any:
    """The configuration of a file, of the generation that counts; None for none."""
    from ringpit.shards.config import load
    from ringpit.shards.topology import resolved

    return None if path is None else resolved(load(path))


@contextmanager
def told() -> Iterator[None]:
    """Turn what may go wrong into a sentence and an exit code."""
    from ringpit.engine.state import StateTooLarge
    from ringpit.shards.lock import AlreadyRunning
    from ringpit.shards.resharding import ReshardRefused
    from ringpit.shards.skipping import NotSkippable
    from ringpit.wal.errors import LogError, LogUnavailable, SnapshotError

    try:
        yield
    except (LogUnavailable, AlreadyRunning) as error:
        code, failure = Exit.UNAVAILABLE, str(error)
    except (LogError, SnapshotError, NotSkippable, ReshardRefused) as error:
        code, failure = Exit.REFUSED, str(error)
    except (StateTooLarge, ValueError) as error:  # ConfigError is one
        code, failure = Exit.CONFIG, str(error)
    except BrokenPipeError:  # `ringpit wal inspect | head`: it has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.STOPPED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code, failure = Exit.UNAVAILABLE, f"{where}{error.strerror}; look at the path, its rights and its room"
    else:
        return
    say(failure)
    raise typer.Exit(code)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (seq reached, seq of the end) that moves a bar on a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _seq, _end: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda seq, end: progress.update(task, completed=seq, total=max(end, seq))


def time_of(engine_ns: int) -> str:
    """An engine time as UTC, with microseconds; nothing for 0."""
    if not engine_ns:
        return ""
    seconds, rest = divmod(engine_ns, 10**9)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest // 1_000:06}"


def size_of(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1_024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1_024
    return f"{count:.1f} TiB"


# inspect ----------------------------------------------------------------------------------------------------


def note_of(row: Any) -> str:
    """What is worth saying about a batch."""
    if not row.counts:
        return "ignored: of an owner that was replaced"
    if row.skip_seq:
        return f"skips seq {row.skip_seq}"
    return "clean stop" if row.clean else ""


def batch_fields(row: Any) -> Fields:
    """A batch under the names of BATCH_COLUMNS."""
    seqs = f"{row.first_seq}-{row.last_seq}" if row.records else ""
    used = [f"{router}:{position}" for router, position in enumerate(row.positions) if position]
    values = (
        row.position,
        row.kind.name,
        row.epoch,
        seqs,
        row.records,
        row.bytes,
        row.confirmed_seq,
        " ".join(used),
        time_of(row.engine_ns),
        note_of(row),
    )
    return dict(zip(BATCH_COLUMNS, values, strict=True))


def batch_json(shard: int, row: Any) -> Fields:
    """A batch as an object of plain numbers."""
    fields: Fields = row._asdict()
    return {"Shard": shard} | fields | {"kind": row.kind.name, "records": row.records}


def summary_fields(summary: Any) -> Fields:
    """A log's summary, for people."""
    fields = {
        "Shard": summary.shard,
        "Batches": summary.batches,
        "Bytes": summary.bytes,
        "Epochs": f"{summary.epochs[0]}-{summary.epochs[-1]}" if summary.epochs else "none",
        "Seqs": f"{summary.first_seq}-{summary.last_seq}" if summary.last_seq else "none",
        "Confirmed": summary.confirmed_seq,
        "Claims": summary.claims,
        "Marks": summary.marks,
        "First time": time_of(summary.first_ns),
        "Last time": time_of(summary.last_ns),
        "Last stop": "clean" if summary.clean else "not clean",
    }
    if summary.skips:
        fields["Skipped"] = ", ".join(map(str, summary.skips))
    if summary.ignored:
        fields["Ignored batches"] = summary.ignored
    if summary.torn_bytes:
        fields["Torn end"] = f"{summary.torn_bytes} bytes: being written, or torn; a start cuts them"
    return fields | ({"Damage": summary.damage} if summary.damage else {})


class Wanted(NamedTuple):
    """Which batches are to be shown."""

    first: int  # seq
    last: int | None
    newest: int  # so many of them; 0: all

    def has(self, row: Any) -> bool:
        """True for a batch that has to do with the range of seqs."""
        return bool(row.last_seq >= self.first - 1 and (self.last is None or row.first_seq <= self.last))


def print_batches(rows: Iterable[Any]) -> None:
    """A table of batches."""
    from rich.table import Table

    table = Table(*BATCH_COLUMNS)
    for row in rows:
        table.add_row(*(str(value) for value in batch_fields(row).values()))
    console_of_any_width().print(table)


@app.command("inspect")
def inspect_command(
    config: ConfigFile = None,
    folder: Folder = None,
    shard: Shard = None,
    records: Annotated[
        bool, typer.Option("--records", help="The records of a range instead, field by field.")
    ] = False,
    first: FromSeq = 1,
    last: ToSeq = None,
    newest: Annotated[
        int, typer.Option("--newest", min=0, help="Batches in the table, the last ones of the range; 0: all.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """What is in the log: its newest batches and a summary of all, or the records of a range of seqs."""
    from ringpit.shards.logs import sources_of

    damaged = False
    with told():
        for source in sources_of(load_config(config), folder, shard):
            if records:
                damaged |= inspect_records(source, first, last, as_json)
            else:
                damaged |= inspect_batches(source, Wanted(first, last, newest), as_json)
    raise typer.Exit(Exit.REFUSED if damaged else Exit.STOPPED)


def inspect_batches(source: Any, wanted: Wanted, as_json: bool) -> bool:
    """Print one shard's batches and summary; True if it is damaged."""
    from ringpit.shards.history import Summary, surveyed

    summary = Summary(shard=source.shard)
    rows: deque[Any] = deque(maxlen=wanted.newest or None)
    found = 0
    for step in surveyed(source, summary):
        if not wanted.has(step.row):
            continue
        found += 1
        if as_json:
            print_json([batch_json(source.shard, step.row)])
        else:
            rows.append(step.row)
    if as_json:
        print_json([{"Summary": True} | vars(summary)])
    else:
        if found > len(rows):
            print(
                f"shard {source.shard}: {found - len(rows)} earlier batches are not shown (--newest 0 shows all)"
            )
        print_batches(rows)
        print_table([summary_fields(summary)])
    if summary.damage:
        say(f"{summary.damage}; `ringpit wal verify` says what is still good")
    return bool(summary.damage)


def inspect_records(source: Any, first: int, last: int | None, as_json: bool) -> bool:
    """Print one shard's records of a range, decoded; True if the log is damaged before its end."""
    from ringpit.shards.decoded import fields_of
    from ringpit.shards.history import Summary, surveyed

    summary = Summary(shard=source.shard)
    found = []
    for step in surveyed(source, summary):
        begin = step.row.last_seq + 1 - len(step.records)
        for seq, record in enumerate(step.records, begin):
            if first <= seq and (last is None or seq <= last):
                found.append(fields_of(record, seq))
        if last is not None and step.row.last_seq >= last:
            break
        if as_json:
            print_json(found)
            found.clear()
    (print_json if as_json else print_records)(found)
    if summary.damage:
        say(summary.damage)
    return bool(summary.damage)


def print_records(found: list[Fields]) -> None:
    """One line a record: its fields by name."""
    for fields in found:
        rest = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("Seq", "Record"))
        print(f"{fields['Seq']:>12}  {fields['Record']:<13} {rest}")


# verify -----------------------------------------------------------------------------------------------------


@app.command("verify")
def verify_command(
    config: ConfigFile = None,
    folder: Folder = None,
    snapshots: Snapshots = None,
    shard: Shard = None,
    as_json: AsJson = False,
) -> None:
    """Walk the whole log and compare every snapshot with it; 65 and the position if anything is damaged."""
    from ringpit.shards.logs import sources_of
    from ringpit.shards.verify import verify

    good = True
    with told():
        for source in sources_of(load_config(config), folder, shard, snapshots):
            with progress_bar(f"shard {source.shard}") as progress:
                verdict = verify(source, progress)
            if as_json:
                print_json([vars(verdict) | {"summary": vars(verdict.summary), "good": verdict.good}])
            else:
                print_verdict(verdict)
            good &= verdict.good
    raise typer.Exit(Exit.STOPPED if good else Exit.REFUSED)


def print_verdict(verdict: Any) -> None:
    """Sentences: what is good on standard output, what is not on standard error."""
    summary = verdict.summary
    name = f"shard {summary.shard}"
    reached = f"{summary.batches} batches, {summary.records} records up to seq {summary.last_seq}"
    if verdict.damage:
        say(f"{name}: damaged behind {reached}: {verdict.damage}")
        say(f"{name}: {verdict.advice}")
    else:
        stop = "the last stop was clean" if summary.clean else "it runs, or its last stop was not clean"
        print(f"{name}: the log is whole: {reached}; {stop}")
    if summary.torn_bytes:
        print(f"{name}: {summary.torn_bytes} bytes at the end are torn or being written; a start cuts them")
    for which, wrong in verdict.snapshots:
        if wrong:
            say(f"{name}: {which} is not good: {wrong}")
        else:
            print(f"{name}: {which} agrees with the log")


# tail -------------------------------------------------------------------------------------------------------


@app.command("tail")
def tail_command(
    config: ConfigFile = None,
    folder: Folder = None,
    shard: Shard = None,
    from_end: Annotated[
        int, typer.Option("--from-end", min=0, help="Begin so many batches before the end.")
    ] = 10,
    records: Annotated[bool, typer.Option("--records", help="A line for each record, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Follow the log as it is written, until interrupted; works beside a running exchange."""
    from ringpit.shards.logs import sources_of
    from ringpit.shards.tailing import Tail

    with told():
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell ignores it for what it runs in the background
        tails = [Tail(source, from_end) for source in sources_of(load_config(config), folder, shard)]
        try:
            while True:
                for tail in tails:
                    for row, batch_records in tail.poll():
                        print_tail(tail.shard, row, batch_records if records else (), as_json)
                sys.stdout.flush()
                time.sleep(TAIL_SECONDS)
        except KeyboardInterrupt:
            pass


def print_tail(shard: int, row: Any, records: Any, as_json: bool) -> None:
    """One line for a batch, and one for each of its records that is to be shown."""
    from ringpit.shards.decoded import fields_of

    found = [fields_of(record, seq) for seq, record in enumerate(records, row.first_seq)]
    if as_json:
        print_json([batch_json(shard, row), *found])
        return
    fields = batch_fields(row)
    seqs = f"seqs {fields['Seqs']}" if row.records else f"next seq {row.first_seq}"
    print(
        f"shard {shard}  epoch {row.epoch}  {fields['Kind']:<8}  {seqs}  {row.records} records  {row.bytes} bytes  "
        f"confirmed {row.confirmed_seq}  {fields['Time']}  {fields['Note']}".rstrip()
    )
    print_records(found)


# diff -------------------------------------------------------------------------------------------------------


@app.command("diff")
def diff_command(
    left: Annotated[Path, typer.Argument(help="Folder of segment files.", show_default=False)],
    right: Annotated[
        Path | None, typer.Argument(help="Another one; without it the log of -c.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    shard: Shard = None,
    first: FromSeq = 1,
) -> None:
    """Compare two logs command by command; 65 and the first difference, field by field, if their histories differ."""
    from ringpit.shards.config import ConfigError
    from ringpit.shards.differ import difference
    from ringpit.shards.logs import sources_of

    equal = True
    with told():
        loaded = load_config(config)
        if right is None and loaded is None:
            raise ConfigError("diff needs two logs: name a second folder, or a configuration with -c")
        ours = list(sources_of(loaded, left, shard))
        theirs = {source.shard: source for source in sources_of(loaded, right, shard)}
        if sorted(theirs) != [source.shard for source in ours]:
            raise ConfigError(
                f"the logs must be of the same shards, were {[source.shard for source in ours]} and {sorted(theirs)}; name "
                f"one with --shard"
            )
        for source in ours:
            found, compared = difference(source, theirs[source.shard], first)
            print_difference(source.shard, found, compared, first)
            equal &= found is None
    raise typer.Exit(Exit.STOPPED if equal else Exit.REFUSED)


def print_difference(shard: int, found: Any, compared: int, first: int) -> None:
    """A sentence, and the fields that differ."""
    from ringpit.shards.decoded import differences, kind_of

    if found is None:
        print(f"shard {shard}: equal: {compared} records from seq {first} on")
        return
    print(f"shard {shard}: {compared} records from seq {first} on are equal, then seq {found.seq} differs")
    for name, record in (("the first log", found.ours), ("the second log", found.theirs)):
        if record is None:
            print(f"  {name} ends before seq {found.seq}")
    if found.ours is not None and found.theirs is not None:
        rows = [
            {"Record": kind_of(found.ours), "Field": name, "First log": ours, "Second log": theirs}
            for name, ours, theirs in differences(found.ours, found.theirs)
        ]
        for row in rows:
            print(
                f"  {row['Record']} {row['Field']}: {row['First log']} in the first log, {row['Second log']} in the second"
            )


# plan -------------------------------------------------------------------------------------------------------


@app.command("plan")
def plan_command(
    config: ConfigFile = None,
    folder: Folder = None,
    snapshots: Snapshots = None,
    shard: Shard = None,
    as_json: AsJson = False,
) -> None:
    """What a start would do and how long it would take, without doing it; 65 if it would be refused."""
    from ringpit.shards.planning import plans_of

    works = True
    with told():
        for made in plans_of(load_config(config), folder, shard, snapshots):
            if as_json:
                print_json([vars(made) | {"works": made.works, "snapshot": str(made.snapshot or "")}])
            else:
                print_table([plan_fields(made)])
            if made.lost_end:
                say(
                    f"shard {made.shard}: a start would work, but {made.lost_end}; put it back from a copy first"
                )
            for refusal in made.refusals:
                say(f"shard {made.shard}: a start would be refused: {refusal}")
            works &= made.works
    raise typer.Exit(Exit.STOPPED if works else Exit.REFUSED)


def plan_fields(made: Any) -> Fields:
    """A plan, for people."""
    fields: Fields = {"Shard": made.shard, "Log": made.log}
    if made.position:
        fields["Begins with"] = f"{made.snapshot} (seq {made.snapshot_seq})" if made.snapshot else "empty books"
    fields |= {f"Not used ({number})": why for number, why in enumerate(made.passed_over, 1)}
    if made.position:
        fields["Reads the log from"] = made.position if made.snapshot else "its first batch"
        fields["Reads"] = f"{made.batches} batches, {made.records} records, {size_of(made.bytes)}"
    if made.works:
        estimate = f"about {made.seconds:.1f} s" if made.seconds >= 0.1 else "less than 0.1 s"
        fields["Takes"] = f"{estimate}, beside starting the processes" + (
            f" ({made.seconds_from})" if made.seconds_from else ""
        )
        fields["Then"] = f"claims epoch {made.next_epoch}, goes on at seq {made.next_seq}"
        if made.confirmed_seq < made.next_seq - 1:
            fields["Makes again"] = f"reports above seq {made.confirmed_seq}, which may not have gone out"
        fields["Last stop"] = "clean" if made.clean else "not clean"
    if made.skips:
        fields["Skips"] = ", ".join(map(str, made.skips))
    if made.torn_bytes:
        never = (
            "which had been synced and may have been acknowledged"
            if made.lost_end
            else "which were never durable"
        )
        fields["Cuts"] = f"{made.torn_bytes} bytes off the end, {never}"
    if made.free_bytes:
        fields["Log on disk"] = f"{size_of(made.log_bytes)}, {size_of(made.free_bytes)} are free"
    fields["Grows by"] = (
        f"{size_of(made.bytes_a_day)} a day"
        if made.bytes_a_day
        else "not known yet: the log spans less than a minute"
    )
    if made.days_left:
        fields["Disk is full in"] = f"{made.days_left:.1f} days"
    return fields | {"A start": "works" if made.works else "would be refused"}


# skip -------------------------------------------------------------------------------------------------------


def require_stopped(config: Any, shard: int, what: str) -> None:
    """Refuse to write beside a running exchange, before anything is asked. Raises AlreadyRunning."""
    from ringpit.shards.lock import AlreadyRunning
    from ringpit.shards.logs import holders

    for holder in holders(config, shard):
        raise AlreadyRunning(f"{holder} holds the lock: stop that ringpit first, then {what}")


@app.command("skip")
def skip_command(
    seq: Annotated[int, typer.Option("--seq", min=1, help="Seq of the command.", show_default=False)],
    shard: Annotated[int, typer.Option("--shard", min=0, help="Its shard.", show_default=False)],
    config: ConfigFile = None,
    snapshots: Snapshots = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Refuse a command at which a shard died, for good and for all readers; the exchange must not run."""
    from ringpit.shards.config import load
    from ringpit.shards.logs import sources_of
    from ringpit.shards.skipping import candidate, skip
    from ringpit.shards.topology import resolved

    with told():
        loaded = resolved(load(config))
        require_stopped(loaded, shard, "skip")
        [source] = sources_of(loaded, None, shard, snapshots)
        chosen = candidate(source, seq)
        source.view.close()
        print_records([*chosen.completed_by, chosen.fields])
        if chosen.confirmed:
            say(
                f"seq {seq} was applied before and its reports have gone out: skipping contradicts what clients were told"
            )
        question = f"Skip seq {seq} of shard {shard}, so that it is refused with the reason SKIPPED?"
        if not yes and not typer.confirm(question, err=True):
            say("nothing was skipped")
            raise typer.Exit(Exit.STOPPED)
        skip(loaded, shard, chosen, nonce_of(loaded))
        say(f"seq {seq} of shard {shard} is skipped; start the exchange")


# trim -------------------------------------------------------------------------------------------------------


@app.command("trim")
def trim_command(
    config: ConfigFile = None,
    shard: Shard = None,
    snapshots: Snapshots = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what lies before the second newest snapshot of each shard; may run beside a running exchange."""
    from ringpit.shards.config import load
    from ringpit.shards.logs import sources_of
    from ringpit.shards.topology import resolved
    from ringpit.shards.trimming import NothingToTrim, cut_of

    with told():
        cuts = []
        for source in sources_of(resolved(load(config)), None, shard, snapshots):
            try:
                cut = cut_of(source)
            except NothingToTrim as reason:
                say(str(reason))
                continue
            say(
                f"shard {source.shard}: what is before {cut.where} can go; a start needs nothing up to seq {cut.seq}"
            )
            cuts.append((source, cut))
        if cuts and not yes and not typer.confirm("Remove it for good?", err=True):
            say("nothing was removed")
            raise typer.Exit(Exit.STOPPED)
        for source, cut in cuts:
            source.view.trim(cut.position)
            begins_at = source.view.beginning()
            if begins_at > cut.begins_at:
                say(f"shard {source.shard}: trimmed, the log begins at {source.view.locate(begins_at)}")
            else:
                say(
                    f"shard {source.shard}: nothing was removed: files go whole, and the one that is being written stays; stop and "
                    f"start the exchange, which begins another, wait for two snapshots, and trim again"
                )
