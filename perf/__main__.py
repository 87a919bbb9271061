"""
The command line of the benchmarks.

    python -m ringpit.perf                           what there is
    python -m ringpit.perf NAME --help               options of one benchmark
    python -m ringpit.perf NAME [options] [--repeat N] [--json] [--results FILE | --save FOLDER]
    python -m ringpit.perf report FOLDER             the performance page from what was saved there

Every module of this package is imported, and those that use `harness.benchmark` appear.
"""

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import ringpit.perf
from ringpit.perf import harness, report

NO_BENCHMARKS = ("__main__", "harness")


def discover() -> None:
    """Import every module of the package, so that its benchmarks are registered."""
    for module in pkgutil.iter_modules(ringpit.perf.__path__):
        if module.name not in NO_BENCHMARKS:
            importlib.import_module(f"ringpit.perf.{module.name}")


def parser_of_all() -> argparse.ArgumentParser:
    """One subcommand for each benchmark; an unknown one is answered with those that exist."""
    parser = argparse.ArgumentParser(
        "python -m ringpit.perf", description="Measure Ringpit, beside yardsticks."
    )
    commands = parser.add_subparsers(dest="benchmark", metavar="NAME")
    for name, one in sorted(harness.BENCHMARKS.items()):
        command = commands.add_parser(name, help=one.workload, description=one.workload)
        harness.add_common_options(command)
        if one.options is not None:
            one.options(command)
    report.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """List or run. Exit 0 done, 1 facts differ between repeats, 2 unknown benchmark or option, 3 not on this machine."""
    discover()
    arguments = parser_of_all().parse_args(argv)
    if arguments.benchmark is None:
        for name, one in sorted(harness.BENCHMARKS.items()):
            print(f"{name:<12} {one.workload}")
        return 0
    if arguments.benchmark == "report":
        return report.main(arguments)
    chosen = harness.BENCHMARKS[arguments.benchmark]
    try:
        for case in [arguments] if chosen.cases is None else chosen.cases(arguments):
            tell(chosen, harness.run(chosen, case, arguments.repeat), arguments)
    except harness.FactsDifferError as error:
        print(f"{chosen.name}: {error}", file=sys.stderr)
        return 1
    except harness.CannotMeasureError as error:
        if arguments.save:
            harness.append_to(results_of(chosen, arguments), harness.refusal_of(chosen, error))
        print(f"{chosen.name}: {error}", file=sys.stderr)
        return 3
    return 0


def results_of(chosen: harness.Benchmark, arguments: argparse.Namespace) -> Path:
    """The file that records of a benchmark go to."""
    return arguments.results or (arguments.save or harness.RESULTS_FOLDER) / f"{chosen.name}.jsonl"


def tell(chosen: harness.Benchmark, record: dict, arguments: argparse.Namespace) -> None:
    """Write a record to the results file and print what was asked for."""
    results = results_of(chosen, arguments)
    harness.append_to(results, record)
    if arguments.json and chosen.line is not None:
        print(json.dumps(chosen.line(record)), flush=True)
        return
    print(harness.text_of(record))
    print(f"written    {results}", flush=True)
    if arguments.json:
        print(json.dumps(record, default=str), flush=True)


if __name__ == "__main__":
    sys.exit(main())
