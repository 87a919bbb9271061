"""
`ringpit query`: ask a running exchange, and print what it says as a table or, with --json, as lines.

    ringpit query order 7 1        one open order of event 7         ringpit query best 7
    ringpit query orders 10        an account's, on all shards       ringpit query stats
    ringpit query depth 7          bids and asks                     ringpit query digest
    ringpit query position 7 1     what stands before it

-c and --json may stand before the question or behind it. Each line of --json is one object whose fields are named as in messages and reports. An order's side, price and trigger
are in the terms of its own outcome; depth and best prices are those of YES.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ringpit.shards.exits import Exit
from ringpit.shards.saying import say

app = typer.Typer(
    name="query",
    help="Ask a running exchange: an order, open orders, depth, queue position, best prices, statistics, digest.",
    no_args_is_help=True,
    add_completion=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file that the exchange was started with.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]
Event = Annotated[int, typer.Argument(help="The event's id.", show_default=False)]
OrderId = Annotated[int, typer.Argument(help="The order's id.", show_default=False)]
PATIENCE: Final = 5.0  # seconds
PIPE_COLUMNS: Final = 1_000

Fields = dict[str, Any]


# What is printed --------------------------------------------------------------------------------------------


def price_fields(name: str, ticks: int, spec: Any) -> Fields:
    """A price as a decimal string and in ticks; `spec` is an EVENT row."""
    decimals = int(spec["decimals"])
    whole, part = divmod(abs(ticks) * int(spec["tick_units"]), 10**decimals)
    text = ("-" if ticks < 0 else "") + (f"{whole}.{part:0{decimals}d}" if decimals else str(whole))
    return {name: text, f"{name}Ticks": ticks}


def title(name: str) -> str:
    """BUY_STOPS as BuyStops."""
    return name.title().replace("_", "")


def type_of(traits: int) -> str:
    """The order type of an open order, by its traits."""
    from ringpit.engine.codes import OrderType, Trait

    if not traits & Trait.STOP:
        return title(OrderType.LIMIT.name)
    if traits & Trait.TRAILING:
        return title(OrderType.TRAILING_STOP.name)
    return title((OrderType.STOP if traits & Trait.MARKET else OrderType.STOP_LIMIT).name)


def order_fields(row: Any, spec: Any) -> Fields:
    """An open order (a RESTING row) in its own terms; what says nothing is left out."""
    from ringpit.engine.codes import Outcome, Queue, SelfTrade, Side, Trait

    traits, queue = int(row["traits"]), Queue(int(row["queue"]))
    no = bool(traits & Trait.NO)
    sells = queue in (Queue.ASKS, Queue.SELL_STOPS, Queue.SELL_ALL_OR_NONE)

    def own(ticks: int) -> int:
        """Ticks in the order's own terms."""
        return int(spec["payout"]) - ticks if no else ticks

    fields: Fields = {
        "Event": int(row["event"]),
        "OrderID": int(row["order"]),
        "Account": int(row["account"]),
        "Outcome": title(Outcome(int(no)).name),
        "Side": title(Side(int(sells != no)).name),
        "Type": type_of(traits),
    }
    if not traits & Trait.NO_PRICE:
        fields |= price_fields("Price", own(int(row["price"])), spec)
    fields |= {"Open": int(row["open"]), "Filled": int(row["filled"]), "Shown": int(row["shown"])}
    if traits & Trait.STOP:
        fields |= price_fields("Trigger", own(int(row["trigger"])), spec)
    if traits & Trait.TRAILING:
        fields |= price_fields("Trail", int(row["trail"]), spec)
    for name, field in (("Display", "display"), ("Group", "group"), ("ExpiresNs", "expires_ns")):
        if row[field]:
            fields[name] = int(row[field])
    for trait in (Trait.POST_ONLY, Trait.HIDDEN, Trait.ALL_OR_NONE):
        if traits & trait:
            fields[title(trait.name)] = True
    if traits & Trait.SELF_TRADE:
        fields["SelfTrade"] = title(SelfTrade(traits & Trait.SELF_TRADE).name)
    return fields | {"List": title(queue.name)}


def depth_fields(event: int, depth: Any, spec: Any) -> Fields:
    """Both sides of a book, best first: pairs of decimal price and lots."""
    sides = {"Bids": depth.bids, "Asks": depth.asks}
    return {"Event": event} | {
        name: [[price_fields("Price", int(ticks), spec)["Price"], int(lots)] for ticks, lots in rows]
        for name, rows in sides.items()
    }


def best_fields(event: int, best: tuple[int | None, int | None], spec: Any) -> Fields:
    """Best bid and ask; left out where there is none."""
    fields: Fields = {"Event": event}
    for name, ticks in zip(("Bid", "Ask"), best, strict=True):
        if ticks is not None:
            fields |= price_fields(name, ticks, spec)
    return fields


def position_fields(event: int, order: int, position: tuple[int, int]) -> Fields:
    """What stands before an order at its price."""
    return {"Event": event, "OrderID": order, "OrdersAhead": position[0], "LotsAhead": position[1]}


def print_json(rows: Iterable[Fields]) -> None:
    """One object a line."""
    for row in rows:
        print(json.dumps(row, separators=(",", ":")))


def print_table(rows: Iterable[Fields]) -> None:
    """A table with a column for each field that any row has; one row stands upright."""
    from rich.table import Table

    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*(("field", "value") if len(rows) == 1 else names))
    if len(rows) == 1:
        for name, value in rows[0].items():
            table.add_row(name, str(value))
    else:
        for row in rows:
            table.add_row(*(str(row.get(name, "")) for name in names))
    console_of_any_width().print(table if rows else "nothing")


def console_of_any_width() -> Any:
    """Standard output; where it is no terminal, no line is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def print_depth(fields: Fields) -> None:
    """Asks above bids, best prices in the middle, as a book is looked at."""
    from rich.table import Table

    table = Table("side", "price", "lots", title=f"event {fields['Event']}")
    for side, levels in (("ask", reversed(fields["Asks"])), ("bid", fields["Bids"])):
        for price, lots in levels:
            table.add_row(side, price, str(lots))
    console_of_any_width().print(table)


# How it is asked --------------------------------------------------------------------------------------------


class How:
    """What stands between `query` and the question."""

    def __init__(self, config: Path | None, as_json: bool, patience: float) -> None:
        """As given on the command line."""
        self.config = config
        self.as_json = as_json
        self.patience = patience


@app.callback()
def query(
    context: typer.Context,
    config: ConfigFile = None,
    as_json: AsJson = False,
    patience: Annotated[
        float, typer.Option("--patience", min=0.01, help="Seconds to wait for each answer.")
    ] = PATIENCE,
) -> None:
    """Ask a running exchange: an order, open orders, depth, queue position, best prices, statistics, digest."""
    context.obj = How(config, as_json, patience)


def asked(config: Path | None, patience: float, question: Callable[[Any], list[Fields]]) -> list[Fields]:
    """Ask one question of the exchange that a file describes; a sentence and an exit code if that fails."""
    from ringpit.ipc.segment import SegmentError
    from ringpit.shards.config import ConfigError, load
    from ringpit.shards.queries import Client, QueryFailed, Unknown
    from ringpit.shards.topology import resolved

    try:
        with Client(resolved(load(config)), patience_seconds=patience) as client:
            return question(client)
    except Unknown as error:
        code, failure = Exit.REFUSED, str(error)
    except QueryFailed as error:
        code, failure = Exit.UNAVAILABLE, str(error)
    except SegmentError as error:
        code, failure = (
            Exit.REFUSED,
            f"{error}; or ask with the configuration that the exchange was started with",
        )
    except (ConfigError, ValueError) as error:
        code, failure = Exit.CONFIG, str(error)
    except PermissionError as error:
        code, failure = (
            Exit.UNAVAILABLE,
            f"{error.filename} may be opened by the exchange's own user only: ask as that",
        )
    say(failure)
    raise typer.Exit(code)


def show(
    context: typer.Context,
    config: Path | None,
    as_json: bool,
    question: Callable[[Any], list[Fields]],
    table: Callable[[list[Fields]], None] = print_table,
) -> None:
    """Ask and print."""
    how: How = context.obj
    rows = asked(config or how.config, how.patience, question)
    (print_json if as_json or how.as_json else table)(rows)


@app.command("order")
def order_command(
    context: typer.Context, event: Event, order: OrderId, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """One open order."""
    show(
        context,
        config,
        as_json,
        lambda client: [order_fields(client.order_status(event, order), client.event(event))],
    )


@app.command("orders")
def orders_command(
    context: typer.Context,
    account: Annotated[int, typer.Argument(help="The owner.", show_default=False)],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """An account's open orders on all shards."""

    def question(client: Any) -> list[Fields]:
        rows = client.open_orders(account)
        specs = {event: client.event(event) for event in {int(row["event"]) for row in rows}}
        return [order_fields(row, specs[int(row["event"])]) for row in rows]

    show(context, config, as_json, question)


@app.command("depth")
def depth_command(
    context: typer.Context,
    event: Event,
    levels: Annotated[int, typer.Option("--levels", help="Levels of each side, 1 to 1000.")] = 10,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """The best levels of both sides."""
    show(
        context,
        config,
        as_json,
        lambda client: [depth_fields(event, client.depth(event, levels), client.event(event))],
        lambda rows: print_depth(rows[0]),
    )


@app.command("position")
def position_command(
    context: typer.Context, event: Event, order: OrderId, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """What stands before an open order at its price."""
    show(
        context,
        config,
        as_json,
        lambda client: [position_fields(event, order, client.queue_position(event, order))],
    )


@app.command("best")
def best_command(
    context: typer.Context, event: Event, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Best bid and best ask."""
    show(
        context,
        config,
        as_json,
        lambda client: [best_fields(event, client.best(event), client.event(event))],
    )


@app.command("stats")
def stats_command(
    context: typer.Context,
    shard: Annotated[
        int | None, typer.Option("--shard", min=0, help="One shard; without it all.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """How full the pools are, and where worker and log stand."""
    show(
        context,
        config,
        as_json,
        lambda client: [
            {title(name): value for name, value in client.statistics(number).items()}
            for number in wanted_shards(client, shard)
        ],
    )


@app.command("digest")
def digest_command(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The digest of each shard's open orders, with the log position at which it was taken."""

    def question(client: Any) -> list[Fields]:
        return [
            {"Shard": shard, "Digest": client.digest(shard), "Seq": client.moment.seq}
            for shard in client.shards
        ]

    show(context, config, as_json, question)


def wanted_shards(client: Any, shard: int | None) -> Iterator[int]:
    """All shards, or the one that was named."""
    if shard is None:
        yield from client.shards
    elif shard in client.shards:
        yield shard
    else:
        raise ValueError(f"--shard must be from 0 to {len(client.shards) - 1}, was {shard}")
