"""``hub bench store``: what a shared store costs, and what it buys."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hub.bench import chaos_report, machine, store_cases, store_roll
from hub.bench.chaos_cluster import find_redis
from hub.bench.chaos_command import NO_REDIS, redis_server, stoppable
from hub.bench.options import ABOVE_0, AT_LEAST_1, json_file, numbers
from hub.bench.processes import StartError
from hub.bench.running import run, write_json

PARTS = ("cost", "workers", "roll")


@click.command("store")
@redis_server
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this. Repeatable."
)
@click.option(
    "--rate",
    default="20,60",
    show_default=True,
    metavar="N,...",
    callback=numbers(ABOVE_0),
    help="Tokens per second of a stream.",
)
@click.option("--seconds", default=10.0, show_default=True, type=ABOVE_0, help="Of each run.")
@click.option("--repeat", default=3, show_default=True, type=AT_LEAST_1, help="Take medians of.")
@click.option("--readers", default=100, show_default=True, type=AT_LEAST_1, help="Of the roll.")
@click.option("--rolls", default=2, show_default=True, type=AT_LEAST_1)
@click.option(
    "--pin/--no-pin", default=True, show_default=True, help="Give hub a core of its own, in 'cost'."
)
@json_file
def store_command(
    redis: str | None,
    parts: tuple[str, ...],
    rate: tuple[float, ...],
    seconds: float,
    repeat: int,
    readers: int,
    rolls: int,
    pin: bool,
    file: Path | None,
) -> None:
    """Measure hub on Redis against hub on a store of its own.

    \b
    cost     64 stored streams over SSE: latencies, and the CPU time of hub and of Redis per token
    workers  one process against two, as fast as it goes
    roll     all workers are replaced under load, and nothing may break

    Redis listens on a Unix socket here. A token's latency is from when the source says it to when
    it is read. Where it is read on another node than the one that generates, its TTFT has two
    requests in it: the one that creates the response, and the one that reads it.
    """
    executable = find_redis(redis)
    if executable is None:
        raise click.ClickException(NO_REDIS)
    setup = store_cases.Setup(
        redis=executable,
        seconds=seconds,
        repeat=repeat,
        pin=pin,
        progress=lambda line: click.echo(line, err=True),
    )
    chosen = parts or PARTS
    found: dict[str, Any] = {"machine": machine.description()}
    flawless = True

    async def measure() -> None:
        nonlocal flawless
        # Before this process is pinned to one core.
        if "workers" in chosen:
            results = await store_cases.workers((1, 2), setup)
            click.echo(f"{store_cases.workers_table(results)}\n")
            found["workers"] = {str(n): [one.json() for one in each] for n, each in results.items()}
            flawless &= all(one.flawless for each in results.values() for one in each)
        if "roll" in chosen:
            book = await store_roll.roll(
                executable, workers=2, readers=readers, rolls=rolls, progress=setup.progress
            )
            click.echo(f"{chaos_report.table(book)}\n")
            found["roll"] = chaos_report.json(book)
            flawless &= book.flawless
        if "cost" in chosen:
            costs = await store_cases.costs(rate, setup)
            click.echo(f"{store_cases.costs_table(costs)}\n")
            found["cost"] = [asdict(one) for one in costs]
            flawless &= not any(one.failed for one in costs)

    try:
        run(stoppable(measure()))
    except StartError as error:
        raise click.ClickException(str(error)) from None
    except asyncio.CancelledError:
        raise click.Abort from None
    click.echo(store_cases.heading())
    write_json(file, found)
    sys.exit(0 if flawless else 1)
