"""``hub bench``: the commands. Each states what its figures mean."""

import asyncio
import signal
import sys
from pathlib import Path

import click

from hub.bench import definitions, failover, hot_path, machine, memory
from hub.bench.agree_command import agree_command
from hub.bench.chaos_command import chaos_command
from hub.bench.compare_commands import modes_command, sweep_command
from hub.bench.dispatch_command import dispatch_command
from hub.bench.hostile_command import hostile_command
from hub.bench.keys_command import keys_command
from hub.bench.load_command import load_command
from hub.bench.options import AT_LEAST_0, AT_LEAST_1, json_file
from hub.bench.processes import StartError
from hub.bench.running import run, write_json
from hub.bench.source import TokenSource
from hub.bench.store_command import store_command


@click.group(
    help=f"""Measure a server: latencies, throughput, goodput, CPU time, memory.

\b
hub bench sweep --rate 4 --flush-interval 0,300   what a setting does to TTFT, simulated
hub bench modes                                   synchronous, polled, SSE, lanes: one load
hub bench load --any-text --url URL               one run against a server of yours

{definitions.for_help()}
"""
)
def bench() -> None:
    """See ``definitions``."""


@bench.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--rate",
    default=0.0,
    show_default=True,
    type=AT_LEAST_0,
    help="Tokens per second of each stream; 0: as fast as they are read.",
)
@click.option(
    "--per-chunk",
    default=1,
    show_default=True,
    type=AT_LEAST_1,
    help="Tokens, an event each, that leave in one chunk and one write.",
)
@click.option(
    "--tick",
    default=0.0,
    show_default=True,
    type=AT_LEAST_0,
    help="Let tokens that are due in the same so many ms leave together, as a batching server's "
    "do; 0: each at its own time.",
)
@click.option(
    "--first",
    default=0.0,
    show_default=True,
    type=AT_LEAST_0,
    help="Milliseconds that the first token of a response takes.",
)
@click.option("--model", default="bench", show_default=True, help="The model's name.")
def source(
    host: str, port: int, rate: float, per_chunk: int, tick: float, first: float, model: str
) -> None:
    """Serve tokens: a model server that costs next to nothing, to put behind what is measured.

    Chat Completions, streamed. A prompt must hold 'seed=<number>', which decides the text.
    """
    served = TokenSource(
        rate=rate, per_chunk=per_chunk, tick=tick / 1e3, first=first / 1e3, model=model
    )
    run(_serve(served, host, port))


@bench.command("hot-path")
@click.option(
    "--case",
    "names",
    multiple=True,
    type=click.Choice([*hot_path.CASES]),
    metavar="NAME",
    help=f"One of {', '.join(hot_path.CASES)}. Repeatable. "
    f"Default: {', '.join(hot_path.DEFAULT_CASES)}.",
)
@click.option("--repeat", default=3, show_default=True, type=AT_LEAST_1, help="Take medians of.")
@click.option(
    "--seconds", default=3.0, show_default=True, type=AT_LEAST_0, help="Of each measurement ..."
)
@click.option(
    "--paced-seconds",
    default=6.0,
    show_default=True,
    type=AT_LEAST_0,
    help="... and of each with 20 tokens/s, whose responses last 13 s.",
)
@click.option(
    "--tick", default=0.0, show_default=True, type=AT_LEAST_0, help="As of 'hub bench source'."
)
@click.option(
    "--pin/--no-pin",
    default=True,
    show_default=True,
    help="Give the server a core of its own, where there are two.",
)
@click.option("--serve", default="", help="Further options of 'hub serve', in one argument.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME=URL",
    help="Measure this server, too, in the same table. It must ask the source at --source-port. "
    "Repeatable.",
)
@click.option(
    "--source-port",
    default=0,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Where the source is to listen; 0: a free port.",
)
@json_file
def hot_path_command(
    names: tuple[str, ...],
    repeat: int,
    seconds: float,
    paced_seconds: float,
    tick: float,
    pin: bool,
    serve: str,
    targets: tuple[str, ...],
    source_port: int,
    file: Path | None,
) -> None:
    """Make the table of what a token costs: hub in front of a token source, case by case.

    CPU time is user and system time of hub's processes per streamed token, what creating the
    responses costs included. Reads and writes are system calls per token.
    """
    pairs = [target.partition("=") for target in targets]
    if any(not name or not url for name, _, url in pairs):
        raise click.BadParameter("It must be NAME=URL.", param_hint="'--target'")
    setup = hot_path.Setup(
        times=hot_path.Times(unpaced=seconds, paced=paced_seconds),
        repeat=repeat,
        pin=pin,
        serve=serve.split(),
        targets={name: url for name, _, url in pairs},
        source_port=source_port,
        tick=tick,
        progress=lambda line: click.echo(line, err=True),
    )
    cases = [hot_path.CASES[name] for name in names or hot_path.DEFAULT_CASES]
    try:
        rows = run(hot_path.measure(cases, setup))
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(hot_path.table(rows, setup))
    found = [
        {"case": row.case.title, "server": row.server, "results": [r.json() for r in row.results]}
        for row in rows
    ]
    write_json(file, {"machine": machine.description(), "rows": found})
    sys.exit(0 if all(one.flawless for row in rows for one in row.results) else 1)


@bench.command("failover")
@click.option(
    "--rate", default=60.0, show_default=True, type=AT_LEAST_0, help="Requests per second."
)
@click.option("--seconds", default=6.0, show_default=True, type=AT_LEAST_0, help="Of each run.")
@click.option("--max-tokens", default=100, show_default=True, type=AT_LEAST_1)
@click.option("--repeat", default=3, show_default=True, type=AT_LEAST_1)
def failover_command(rate: float, seconds: float, max_tokens: int, repeat: int) -> None:
    """Kill one of three model servers under load, and see what is lost."""
    progress = lambda line: click.echo(line, err=True)  # noqa: E731

    async def runs() -> list[failover.Failover]:
        return [
            await failover.measure(rate=rate, seconds=seconds, tokens=max_tokens, progress=progress)
            for _ in range(repeat)
        ]

    try:
        found = run(runs())
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(failover.table(found))
    sys.exit(1 if any(one.result.silent or one.result.wrong for one in found) else 0)


@bench.command("memory")
@click.option("--connections", default=5000, show_default=True, type=AT_LEAST_1)
@click.option("--responses", default=100_000, show_default=True, type=AT_LEAST_1)
@click.option("--steps", default=5, show_default=True, type=AT_LEAST_1)
def memory_command(connections: int, responses: int, steps: int) -> None:
    """Look at what hub holds: idle, with idle WebSockets, after very many short responses."""
    try:
        found = run(
            memory.measure(
                connections=connections,
                responses=responses,
                steps=steps,
                progress=lambda line: click.echo(line, err=True),
            )
        )
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(memory.table(found))


for command in (sweep_command, modes_command, load_command):
    bench.add_command(command)
bench.add_command(dispatch_command)
bench.add_command(keys_command)
bench.add_command(agree_command)
bench.add_command(hostile_command)
bench.add_command(chaos_command)
bench.add_command(store_command)


async def _serve(source: TokenSource, host: str, port: int) -> None:
    try:
        chosen = await source.start(host, port)
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port} (--host, --port): {error.strerror}."
        ) from None
    click.echo(f"A token source serves http://{host}:{chosen}/v1.")
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await source.stop()
