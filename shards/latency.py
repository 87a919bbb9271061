"""
`ringpit latency`: where the time goes, stage by stage, of a running exchange.

    ringpit latency                          live: the last interval and since the start
    ringpit latency --once                   since the start, once
    ringpit latency --seconds 10 --json      exactly these ten seconds, one object a line
    ringpit latency --seconds 60 --export A  and keep them: A/latency.hlog, .json, .png and a .hgrm for each stage
    ringpit latency --diff A B               what has changed between two that were kept

Here is the command line alone. The stages and what their shares mean are in stages.py, how an exchange is read in
watching.py, what is printed in latency_view.py, what is kept in latency_files.py, and what
--diff compares in latency_diff.py.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ringpit.shards.asking import ConfigFile
from ringpit.shards.exits import Exit
from ringpit.shards.saying import say

app = typer.Typer(add_completion=False)


@app.command("latency")
def latency(
    config: ConfigFile = None,
    shard: Annotated[
        int | None,
        typer.Option("--shard", min=0, help="One shard; without it all together.", show_default=False),
    ] = None,
    per_shard: Annotated[bool, typer.Option("--per-shard", help="A table for each shard.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.05, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print once, since the start, and end.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0.05, help="Watch exactly so long, and end.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of tables.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", help="Folder for .hlog, .hgrm, PNG and JSON of what is watched.", show_default=False
        ),
    ] = None,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--diff", help="Two folders that --export has written.", show_default=False),
    ] = None,
) -> None:
    """Where the time goes, stage by stage: live, once, for some seconds, kept, or compared with what was kept."""
    from ringpit.ipc.segment import SegmentError
    from ringpit.shards.latency_view import Asked, watch_exchange
    from ringpit.shards.queries import NotRunning

    try:
        if diff is not None:
            from ringpit.shards.latency_diff import print_diff

            print_diff(*diff)
            return
        watch_exchange(config, Asked(shard, per_shard, interval, once, seconds, as_json, export))
    except NotRunning as error:
        code, failure = Exit.UNAVAILABLE, str(error)
    except SegmentError as error:
        code, failure = (
            Exit.REFUSED,
            f"{error}; or watch with the version and the configuration that it was started with",
        )
    except ValueError as error:  # ConfigError is one
        code, failure = Exit.CONFIG, str(error)
    except PermissionError as error:
        code, failure = (
            Exit.UNAVAILABLE,
            f"{error.filename} may be opened by its owner only: watch as the exchange's user",
        )
    except BrokenPipeError:  # `ringpit latency --json | head`: it has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.STOPPED) from None
    else:
        return
    say(failure)
    raise typer.Exit(code)
