"""
What an order costs.     every process of an exchange x packed, MessagePack, JSON x 1 and 100 orders a delivery

Runs    the pipeline benchmark's exchange (pipeline.py) once for each form and size: embedded, or over a real RabbitMQ and a
        real Kafka with --brokers. Same order flow, same shards.
Tells   a table of processor nanoseconds per order of every process, from the first delivery to the last report confirmed; also of
        the brokers if RINGPIT_RABBITMQ_PID and RINGPIT_KAFKA_PID name them.
Checks  the number of reports is the same in every form and size: messages say what packed records say.
Needs   2 cores. A process that waits for a slower one polls, and that is part of what it costs: `perf router` and `perf worker` tell
        what the work alone does.
"""

import argparse
from pathlib import Path

from ringpit.perf.harness import benchmark, positive
from ringpit.perf.pipeline import Outcome, exchange_config, run_exchange
from ringpit.shards.feeders import FORMS

SIZES = (100, 1)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What runs, and how much."""
    parser.add_argument("--brokers", action="store_true", help="over RabbitMQ and Kafka")
    parser.add_argument(
        "--orders",
        type=positive,
        default=200_000,
        help="orders in deliveries of a hundred; a fourth of it singly",
    )
    parser.add_argument("--events", type=positive, default=20, help="events the orders are spread over")
    parser.add_argument("--shards", type=positive, default=2, help="worker processes")
    parser.add_argument(
        "--encoding",
        choices=("json", "packed"),
        default="packed",
        help="of reports; over brokers always packed",
    )
    parser.add_argument("--folder", type=Path, help="folder for log and output (a temporary one)")


def table_of(outcomes: dict[tuple[str, int], tuple[int, Outcome]]) -> str:
    """A row for each form and size, a column for each process."""
    processes = list(next(iter(outcomes.values()))[1].cpu_ns)
    lines = ["cpu ns per order".ljust(24) + "".join(f"{name:>11}" for name in processes) + f"{'orders/s':>12}"]
    for (form, size), (orders, outcome) in outcomes.items():
        spent = "".join(f"{outcome.cpu_ns[name] / orders:>11,.0f}" for name in processes)
        lines.append(f"{form}, {size} a delivery".ljust(24) + spent + f"{outcome.orders_per_s:>12,.0f}")
    return "\n".join(lines)


@benchmark(
    "costs",
    "what an order costs every process, in every form, 1 and 100 a delivery",
    options=add_options,
    warm_ups=0,
)
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """One run for each form and size, and the table of all."""
    outcomes: dict[tuple[str, int], tuple[int, Outcome]] = {}
    figures: dict[str, object] = {}
    for size in SIZES:
        orders = arguments.orders if size > 1 else max(1, arguments.orders // 4)
        arguments.frame = size
        for form in FORMS:
            with exchange_config(arguments) as config:
                outcome = run_exchange(config, arguments, orders, 0, form)
            outcomes[form, size] = orders, outcome
            for name, spent in outcome.cpu_ns.items():
                figures[f"{form}_{size}_{name}_cpu_ns_per_order"] = spent / orders
            figures.setdefault(f"reports_of_{size}", outcome.reports)
            if outcome.reports != figures[f"reports_of_{size}"]:
                raise RuntimeError(
                    f"{form} made {outcome.reports} reports, packed records {figures[f'reports_of_{size}']}"
                )
    del arguments.frame
    print(table_of(outcomes), flush=True)
    return figures
