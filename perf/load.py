"""
`ringpit load`: an open-loop load generator for a running exchange, or for one of its own.

    ringpit load --own --rates 1000,10000,50000          starts an exchange, one table, then it is gone
    ringpit load -c FILE --rate 20000 --seconds 10       against the exchange that runs with FILE
    ringpit load --own --find-knee --mix referee         doubles the rate until it is not kept up with

It is a client, no part of an exchange. It lives with the benchmarks, whose flows it sends; `ringpit` finds it by its entry
point (group `ringpit.commands`). With --own the generator is a process of its own, too, beside the exchange that this one watches.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ringpit.shards.exits import Exit
from ringpit.shards.saying import say_as

WATCH_SECONDS: Final = 0.05
say = say_as("load")


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="TOML file of the exchange; without one the defaults.", show_default=False
    ),
]


class LoadFailed(Exception):
    """The exchange or its generator ended; the sentence says which and why."""


class Arrivals(StrEnum):
    """How orders arrive."""

    even = "even"
    poisson = "poisson"
    burst = "burst"


class Encoding(StrEnum):
    """Forms of a delivery."""

    packed = "packed"
    msgpack = "msgpack"
    json = "json"


def rates_of(text: str) -> tuple[float, ...]:
    """Rates separated by commas. Raises ValueError."""
    try:
        return tuple(float(part.replace("_", "")) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--rates must be numbers separated by commas, as in 1000,10000, was {text!r}"
        ) from None


def load(
    config: ConfigFile = None,
    own: Annotated[
        bool, typer.Option("--own", help="Start an exchange for this, and remove it afterwards.")
    ] = False,
    brokers: Annotated[
        bool, typer.Option("--brokers", help="--own: over the RabbitMQ and Kafka that are configured.")
    ] = False,
    rate: Annotated[float, typer.Option(help="Orders a second.")] = 10_000,
    rates: Annotated[
        str, typer.Option(help="Several of them, as in 1000,10000,50000.", show_default=False)
    ] = "",
    find_knee: Annotated[
        bool,
        typer.Option(
            "--find-knee", help="Double from 1000 (or the lowest of --rates) to what is not kept up with."
        ),
    ] = False,
    seconds: Annotated[float, typer.Option(help="Length of each rate.")] = 5.0,
    arrivals: Annotated[Arrivals, typer.Option(help="How orders arrive.")] = Arrivals.even,
    burst: Annotated[
        int, typer.Option(help="Orders that are due at once; means --arrivals burst.", show_default=False)
    ] = 0,
    mix: Annotated[
        str,
        typer.Option(
            help="demo, referee, exchange-core, uniform, or a file of lines of JSON or packed bodies."
        ),
    ] = "demo",
    events: Annotated[int, typer.Option(min=1, help="Events that orders are spread over.")] = 20,
    zipf: Annotated[float, typer.Option(help="Exponent of the events' popularity; 0: all alike.")] = 0.0,
    encoding: Annotated[Encoding, typer.Option(help="Form of a delivery.")] = Encoding.packed,
    frame: Annotated[int, typer.Option(help="Orders in one delivery.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Same seed, same orders.")] = 7,
    save: Annotated[Path, typer.Option(help="Folder for the JSON file and the plot.")] = Path("data/load"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON instead of the table.")] = False,
) -> None:
    """Send orders at fixed times whatever comes of them, and tell how long each took: rate x percentile."""
    from ringpit.perf.load_run import KNEE_RATE, Workload
    from ringpit.shards.config import load as load_config

    with sentences():
        asked = rates_of(rates) if rates else (float(KNEE_RATE if find_knee else rate),)
        workload = Workload(
            mix=mix,
            rates=asked,
            find_knee=find_knee,
            seconds=seconds,
            arrivals=Arrivals.burst if burst else arrivals,
            burst=burst or Workload.burst,
            events=events,
            zipf=zipf,
            encoding=encoding,
            frame=frame,
            seed=seed,
        )
        if brokers and not own:
            raise ValueError("--brokers is for --own: a running exchange has what its configuration says")
        run(load_config(config), workload, save, own=own, brokers=brokers, as_json=as_json)


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what may go wrong into a sentence and an exit code."""
    from ringpit.ipc.segment import SegmentMissing
    from ringpit.perf.load_rabbit import BrokerAway
    from ringpit.shards.amqp import BrokerRefused
    from ringpit.shards.logtool import told

    try:
        with told():
            try:
                yield
            except SegmentMissing:
                raise ValueError(
                    "no exchange of this name runs on this machine: start it with `ringpit run`, name its configuration with -c, "
                    "or let --own start one"
                ) from None
    except (BrokerAway, BrokerRefused, LoadFailed) as error:
        say(str(error))
        raise typer.Exit(Exit.UNAVAILABLE) from None


def run(config: Any, workload: Any, folder: Path, *, own: bool, brokers: bool, as_json: bool) -> None:
    """Run, save and print."""
    import json

    from ringpit.perf.load_report import print_record, record_of, save
    from ringpit.perf.load_run import drawn, run_all
    from ringpit.shards.topology import resolved

    drawn(config, workload, min(workload.rates))  # what is wrong with the workload shows before anything starts
    if own:
        with own_config(config, workload, folder, brokers=brokers) as made:
            results = run_own(made, workload)
            record = record_of(made, workload, results)
    else:
        config = resolved(config)
        results = run_all(config, workload, say)
        record = record_of(config, workload, results)
    save(record, folder, say)
    if as_json:
        print(json.dumps(record, default=str))
    else:
        print_record(record)


@contextmanager
def own_config(config: Any, workload: Any, folder: Path, *, brokers: bool) -> Iterator[Any]:
    """The configuration of an exchange for this run alone: as given, with its own name, folder, queue and topic, room for all orders."""
    from msgspec.structs import replace

    from ringpit.perf.load_flow import orders_in
    from ringpit.perf.pipeline import remove_from_brokers
    from ringpit.shards.demo import demo_config

    folder.mkdir(parents=True, exist_ok=True)
    orders = max(config.limits.orders, 1 << orders_in(workload.seconds, max(workload.rates)).bit_length())
    with tempfile.TemporaryDirectory(prefix="exchange-", dir=folder) as data:
        made = demo_config(config, Path(data), brokers=brokers) if brokers else config
        made = replace(
            made,
            exchange=replace(made.exchange, name=f"load-{os.getpid()}", data=data),
            limits=replace(made.limits, orders=min(orders, 1 << 21)),
        )
        try:
            yield made
        finally:
            if brokers:
                remove_from_brokers(made)


def run_own(config: Any, workload: Any) -> Any:
    """Start the exchange, let a process of its own generate the load, and watch both. Raises LoadFailed if either ends."""
    from ringpit.shards.supervisor import Supervisor

    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    said: list[str] = []
    with Supervisor(config, said.append) as exchange:
        if not exchange.wait_ready():
            raise LoadFailed("the exchange did not start: " + "; ".join(said[-5:]))
        say(f"an exchange of its own accepts orders after {exchange.ready_seconds:.1f} s")
        generator = spawn.Process(target=generate, args=(exchange.config, workload, theirs), daemon=True)
        generator.start()
        theirs.close()
        while not ours.poll():
            if not exchange.watch(WATCH_SECONDS):
                generator.terminate()
                raise LoadFailed(f"the exchange ended with {exchange.code.name}: " + "; ".join(said[-5:]))
        try:
            answer = ours.recv()
        except EOFError:
            generator.join()
            raise LoadFailed(f"the generator ended with code {generator.exitcode}") from None
        generator.join()
        exchange.stop()
    if isinstance(answer, str):
        raise LoadFailed(answer)
    return answer


def generate(config: Any, workload: Any, pipe: Any) -> None:
    """Process entry: sends the results, or a sentence."""
    from ringpit.perf.load_rabbit import BrokerAway
    from ringpit.perf.load_run import run_all
    from ringpit.shards.amqp import BrokerRefused
    from ringpit.shards.feeders import become_child

    become_child()
    try:
        pipe.send(run_all(config, workload, say))
    except (OSError, ValueError, BrokerAway, BrokerRefused) as error:
        pipe.send(str(error))
