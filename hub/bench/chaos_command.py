"""``hub bench chaos``: what is lost when nodes, Redis and the network between them fail."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from hub.bench import chaos, chaos_report, machine
from hub.bench.chaos_cluster import find_redis
from hub.bench.chaos_faults import KINDS
from hub.bench.options import ABOVE_0, AT_LEAST_1, json_file
from hub.bench.processes import StartError
from hub.bench.running import run, write_json

T = TypeVar("T")

NO_REDIS = "There is no redis-server or valkey-server here (--redis-server)."

redis_server = click.option(
    "--redis-server",
    "redis",
    metavar="PATH",
    help="Redis' or Valkey's executable. Default: where the system looks.",
)


async def stoppable(main: Coroutine[Any, Any, T]) -> T:
    """Cancel it on a signal: what it has started would go on otherwise."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await main


@click.command("chaos")
@click.option("--minutes", default=15.0, show_default=True, type=ABOVE_0, help="Of faults.")
@redis_server
@click.option("--seed", type=int, help="Of the faults and of the clients' choices. Default: any.")
@click.option("--readers", default=300, show_default=True, type=AT_LEAST_1, help="At a time.")
@click.option("--nodes", default=3, show_default=True, type=AT_LEAST_1)
@click.option(
    "--only",
    "kinds",
    multiple=True,
    type=click.Choice([*KINDS]),
    metavar="KIND",
    help=f"Only this kind of fault: one of {', '.join(KINDS)}. Repeatable.",
)
@click.option("--serve", default="", help="Further options of 'hub serve', in one argument.")
@click.option(
    "--history",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Leave the history and the processes' logs here. Default: only when something was wrong, "
    "in a new directory.",
)
@json_file
def chaos_command(
    minutes: float,
    redis: str | None,
    seed: int | None,
    readers: int,
    nodes: int,
    kinds: tuple[str, ...],
    serve: str,
    history: Path | None,
    file: Path | None,
) -> None:
    """Break nodes of hub, their Redis and the network between them, and see what is lost.

    Nodes on one Redis, in front of a model server whose every character is known. Clients ask for
    responses in all ways, and readers hop between the nodes and compare each character. Meanwhile
    nodes are killed, stopped, cut off and restarted, and so is Redis. In the end everything is
    healed, and every response must reach its end, the same on all nodes.
    """
    executable = find_redis(redis)
    if executable is None:
        raise click.ClickException(NO_REDIS)
    seed = chaos.a_seed() if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    setup = chaos.Setup(
        redis=executable,
        seed=seed,
        seconds=60 * minutes,
        readers=readers,
        nodes=nodes,
        kinds=kinds or tuple(KINDS),
        serve=serve.split(),
        keep=history,
        progress=lambda line: click.echo(line, err=True),
    )
    try:
        book = run(stoppable(chaos.run(setup)))
    except StartError as error:
        raise click.ClickException(str(error)) from None
    except asyncio.CancelledError:
        raise click.Abort from None
    click.echo(chaos_report.table(book))
    write_json(file, {"machine": machine.description(), **chaos_report.json(book)})
    sys.exit(0 if book.flawless else 1)
