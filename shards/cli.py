"""
The `ringpit` command.

Heavy imports wait until a command needs them: start-up counts. Exit codes are those of exits.py.
"""

import os
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ringpit.shards import asking, latency, logtool, timetravel
from ringpit.shards.doctor import doctor
from ringpit.shards.exits import Exit
from ringpit.shards.saying import say

app = typer.Typer(
    name="ringpit",
    help="A matching engine for an exchange of events, sharded over processes.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file; without one the defaults hold.", show_default=False),
]


def fail(error: BaseException, code: Exit) -> typer.Exit:
    """Say what is wrong and how the command ends."""
    say(str(error))
    return typer.Exit(code)


def load_config(path: Path | None) -> Any:
    """The configuration, or exit 2 with a sentence."""
    from ringpit.shards.config import ConfigError, check_cores, load

    try:
        config = load(path)
        check_cores(config)
    except ConfigError as error:
        raise fail(error, Exit.CONFIG) from None
    return config


def expected_errors() -> tuple[tuple[type[BaseException], Exit], ...]:
    """What may go wrong at a start, and how the command ends then."""
    from ringpit.ipc.segment import SegmentError
    from ringpit.shards.lock import AlreadyRunning
    from ringpit.shards.supervisor import Unavailable

    return (
        (AlreadyRunning, Exit.UNAVAILABLE),
        (Unavailable, Exit.UNAVAILABLE),
        (SegmentError, Exit.REFUSED),
        (FileExistsError, Exit.CONFIG),
        (ValueError, Exit.CONFIG),
        (OSError, Exit.UNAVAILABLE),
    )


def guarded(run: Any) -> None:
    """Run, turn expected errors into sentences, and exit with the code."""
    known = expected_errors()
    try:
        code = run()
    except tuple(error for error, _ in known) as error:
        raise fail(error, next(code for kind, code in known if isinstance(error, kind))) from None
    raise typer.Exit(code)


@app.command()
def run(config: ConfigFile = None) -> None:
    """Start the exchange and keep it running until SIGINT or SIGTERM; a second one ends it without waiting."""
    from ringpit.shards.config import warnings

    loaded = load_config(config)
    for warning in warnings(loaded):
        say(f"warning: {warning}")
    guarded(lambda: run_exchange(loaded))


def run_exchange(config: Any) -> Exit:
    """The life of `ringpit run`."""
    from ringpit.shards.supervisor import Supervisor

    stop = StopRequest()
    with Supervisor(config, say, at_once=stop.at_once) as exchange:
        if exchange.wait_ready(lambda: not stop.asked()):
            say(f"accepting orders {exchange.ready_seconds:.2f} s after the processes were started")
        while exchange.watch() and not stop.asked():
            pass
        if stop.wanted:
            say(f"stopping on {stop.wanted}")
        exchange.stop()
    stop.leave_if_at_once()
    return exchange.code


class StopRequest:
    """
    What SIGINT and SIGTERM ask for: the first one a clean stop, the second one an end at once.

    Both are only noted, for whoever waits to look at: what a handler raises is lost if it meets a finalizer. Until somebody
    has asked for the first time nobody looks, so the second one is raised as well; and so is every later one, always.
    """

    def __init__(self) -> None:
        """Take the two signals over."""
        self.wanted = ""  # the first one's name
        self.second = 0  # the second one's number
        self._heeded = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def asked(self) -> bool:
        """True if a stop is wanted; from now on somebody looks."""
        self._heeded = True
        return bool(self.wanted)

    def at_once(self) -> bool:
        """True if nothing shall be waited for any more."""
        return self.second != 0

    def leave_if_at_once(self) -> None:
        """End as by the second signal, if there was one."""
        if self.second:
            raise SystemExit(128 + self.second)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Note it."""
        if not self.wanted:
            self.wanted = signal.Signals(number).name
            return
        ignored = self.second != 0
        self.second = self.second or number
        if ignored or not self._heeded:
            self.leave_if_at_once()


@app.command("check-config")
def check_config(
    config: ConfigFile = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every value and where it came from.")
    ] = False,
) -> None:
    """Check a configuration; exit 2 with a sentence if it cannot be used."""
    from ringpit.shards.config import explain as explained
    from ringpit.shards.config import warnings

    loaded = load_config(config)
    if explain:
        for path, value, source in explained(loaded):
            print(f"{path} = {value}    # {source}")
    for warning in warnings(loaded):
        say(f"warning: {warning}")
    say("the configuration is good")


@app.command()
def demo(
    config: ConfigFile = None,
    brokers: Annotated[
        bool, typer.Option("--brokers", help="Over RabbitMQ and Kafka instead of rings and files.")
    ] = False,
    orders: Annotated[int, typer.Option(min=1_000, help="Orders, cancels and amends to send.")] = 1_000_000,
    events: Annotated[int, typer.Option(min=1, help="Events that they are spread over.")] = 20,
    frame_orders: Annotated[int, typer.Option(min=1, max=4_096, help="Orders in one delivery.")] = 100,
    rate: Annotated[float, typer.Option(min=0, help="Orders a second, open loop; 0: full speed.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order flow.")] = 7,
    data: Annotated[Path, typer.Option(help="Folder of everything that is written; emptied first.")] = Path(
        "data/demo"
    ),
) -> None:
    """Run a whole exchange on a seeded order flow, and print what happened."""
    from ringpit.shards.demo import Demo, demo_config

    loaded = demo_config(load_config(config), data, brokers=brokers)
    stop = StopRequest()

    def run_demo() -> Exit:
        """The demonstration, stopped by a signal."""
        demonstration = Demo(
            loaded,
            orders=orders,
            seed=seed,
            events=events,
            frame_orders=frame_orders,
            orders_per_second=rate,
            say=say,
            interrupted=stop.asked,
            at_once=stop.at_once,
        )
        code = demonstration.run()
        stop.leave_if_at_once()
        return code if not stop.wanted else Exit.INTERRUPTED

    guarded(run_demo)


@app.command()
def replay(
    source: Annotated[
        str, typer.Argument(help="NDJSON file of EventMessages, or - for standard input.", show_default=False)
    ] = "",
    log: Annotated[bool, typer.Option("--log", help="Apply a shard's log instead.")] = False,
    config: ConfigFile = None,
    folder: logtool.Folder = None,
    snapshots: logtool.Snapshots = None,
    shard: logtool.Shard = None,
    to_seq: logtool.ToSeq = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="--log: use no snapshot.")] = False,
    event: Annotated[
        int | None, typer.Option("--event", help="--log: show this event's book.", show_default=False)
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="--log: levels of each side.")] = 10,
    reports: Annotated[
        Path | None,
        typer.Option("--reports", help="--log: write the reports to this file.", show_default=False),
    ] = None,
    digest: Annotated[bool, typer.Option("--digest", help="--log: print the digest alone.")] = False,
) -> None:
    """Apply EventMessages in one process and print the reports as NDJSON; or, with --log, a shard's log up to any seq."""
    if log:
        asked = timetravel.Asked(to_seq, from_start, event, depth, reports, digest)
        raise typer.Exit(timetravel.replay_log(config, folder, shard, snapshots, asked))
    if not source:
        raise fail(ValueError("replay needs an NDJSON file, - for standard input, or --log"), Exit.CONFIG)
    replay_messages(source)


def replay_messages(source: str) -> None:
    """`ringpit replay FILE`."""
    from ringpit.shards.replay import replay_lines
    from ringpit.shards.sinks import SinkFailed

    try:
        if source == "-":
            failures = replay_lines(sys.stdin.buffer, sys.stdout.buffer, say)
        else:
            with Path(source).open("rb") as lines:
                failures = replay_lines(lines, sys.stdout.buffer, say)
    except SinkFailed as error:
        if isinstance(error.__cause__, BrokenPipeError):  # `ringpit replay FILE | head`: it has what it wanted
            raise typer.Exit(Exit.STOPPED) from None
        raise fail(OSError(error.strerror), Exit.UNAVAILABLE) from None
    except OSError as error:
        text = f"{source} cannot be read ({error.strerror}): name an NDJSON file, or - for standard input"
        raise fail(OSError(text), Exit.CONFIG) from None
    raise typer.Exit(Exit.REFUSED if failures else Exit.STOPPED)


@app.command()
def reshard(
    shards: Annotated[
        int, typer.Option("--shards", min=1, max=64, help="How many there shall be.", show_default=False)
    ],
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Deal an exchange's events out to another number of shards; it must be stopped, and its last stop clean."""
    from ringpit.shards.config import load
    from ringpit.shards.faults import VARIABLE, arm_from
    from ringpit.shards.resharding import remains_of, reshard

    arm_from(os.environ.get(VARIABLE, ""), "reshard")

    def confirm(question: str) -> bool:
        """Whether the operator wants it."""
        return yes or typer.confirm(question, err=True)

    with logtool.told():
        loaded = load(config)
        books = reshard(loaded, shards, say, confirm)
        if not books:
            say("nothing was changed")
            raise typer.Exit(Exit.STOPPED)
        asking.print_table([reshard_fields(each) for each in books])
        say(remains_of(loaded, books[0].generation))
        if loaded.exchange.shards != shards:
            say(f"write exchange.shards = {shards} into {config or 'a configuration'} before the next start")


def reshard_fields(books: Any) -> asking.Fields:
    """A shard's books, for people; what is printed was found equal."""
    return {
        "Generation": books.generation,
        "Shard": books.shard,
        "Events": len(books.facts),
        "Open": len(books.digests),
        "Orders": books.orders,
        "Digests": "equal",
    }


@app.command()
def schema() -> None:
    """Print the JSON Schema of EventMessage and the layout of the packed form."""
    from ringpit.shards.schema import print_schema

    print_schema()


app.add_typer(asking.app)
app.add_typer(logtool.app)
app.add_typer(latency.app)
app.command()(doctor)
for command in sorted(entry_points(group="ringpit.commands"), key=lambda found: found.name):
    app.command(command.name)(command.load())  # what lies above this layer, such as `ringpit load`


def main() -> None:
    """Entry point of the console command."""
    app()


if __name__ == "__main__":
    main()
