"""``hub bench``: the commands. Each states what its figures mean."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from hub.bench import failover, hot_path, machine, memory, report
from hub.bench.clients import Target
from hub.bench.dispatch_command import dispatch_command
from hub.bench.load import Run
from hub.bench.plan import Load
from hub.bench.processes import StartError
from hub.bench.source import TokenSource

T = TypeVar("T")
_AT_LEAST_1 = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)
_json_file = click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures."
)


@click.group()
def bench() -> None:
    """Measure a server: latencies, throughput, CPU time per token, memory.

    \b
    TTFT  time to the first text that is not empty, from when the request was written or, with
          --rate, was due (AIPerf's and vLLM's benchmark's definition; role chunks do not count)
    ITL   gaps between two frames with text (vLLM's benchmark; AIPerf calls them ICL)
    TPOT  (E2E - TTFT) / (tokens - 1) (vLLM's benchmark; AIPerf calls this ITL)
    E2E   to the end of the response
    """


@bench.command()
@click.option("--url", default="http://127.0.0.1:8765", show_default=True, help="The server.")
@click.option("--key", envvar="HUB_BENCH_KEY", help="Its API key, if it asks for one.")
@click.option(
    "--mode",
    default="lanes",
    show_default=True,
    type=click.Choice(["lanes", "sse", "chat"]),
    help="Responses on WebSocket lanes, Responses over SSE, or Chat Completions over SSE.",
)
@click.option(
    "--connections",
    default=16,
    show_default=True,
    type=_AT_LEAST_1,
    help="WebSockets, or streams over HTTP.",
)
@click.option(
    "--lanes",
    default=16,
    show_default=True,
    type=_AT_LEAST_1,
    help="Lanes of each WebSocket; 1: only the default lane.",
)
@click.option("--requests", type=_AT_LEAST_1, help="Measure so many responses ...")
@click.option("--seconds", type=_SECONDS, help="... or for so long. Default: 10 s.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Open loop: so many requests per second arrive, by a Poisson process, whatever the "
    "server does. Default: closed loop, every stream asks again when its response has ended.",
)
@click.option(
    "--max-tokens", default=256, show_default=True, type=_AT_LEAST_1, help="Of each response."
)
@click.option("--prompt-tokens", default=16, show_default=True, type=_AT_LEAST_1, help="About.")
@click.option("--model", default="bench", show_default=True, help="The model's name in requests.")
@click.option("--store/--no-store", default=False, help="Let the server keep the responses.")
@click.option(
    "--warmup", default=1.0, show_default=True, type=_SECONDS, help="Seconds before measuring."
)
@click.option(
    "--drain",
    default=30.0,
    show_default=True,
    type=_SECONDS,
    help="Seconds that what runs at the end may take; then it is cut off.",
)
@click.option("--seed", default=0, show_default=True, help="Of arrivals, lengths and texts.")
@click.option(
    "--pid",
    type=int,
    help="The server's process. Default: the one that listens there, on this machine.",
)
@_json_file
def load(url: str, key: str | None, pid: int | None, file: Path | None, **options: Any) -> None:
    """Ask a server in front of a token source, and check every character of its answers.

    The model server behind it must be 'hub bench source': its texts are known beforehand.
    """
    if options["requests"] is not None and options["seconds"] is not None:
        raise click.UsageError("Give --requests or --seconds.")
    if options["requests"] is None and options["seconds"] is None:
        options["seconds"] = 10.0
    try:
        target = Target.parse(url, key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from None
    if pid is None and machine.is_local(target.host):
        pid = machine.listening_pid(target.port)
    try:
        processes = None if pid is None else machine.ProcessTree(pid)
    except ProcessLookupError:
        raise click.BadParameter(f"There is no process {pid}.", param_hint="'--pid'") from None
    result = _run(Run(target, Load(**options), processes=processes).run())
    click.echo(report.summary(result))
    _write(file, {"machine": machine.description(), "url": url, "result": result.json()})
    sys.exit(0 if result.flawless else 1)


@bench.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--rate",
    default=0.0,
    show_default=True,
    type=_SECONDS,
    help="Tokens per second of each stream; 0: as fast as they are read.",
)
@click.option(
    "--per-chunk",
    default=1,
    show_default=True,
    type=_AT_LEAST_1,
    help="Tokens, an event each, that leave in one chunk and one write.",
)
@click.option(
    "--tick",
    default=0.0,
    show_default=True,
    type=_SECONDS,
    help="Let tokens that are due in the same so many ms leave together, as a batching server's "
    "do; 0: each at its own time.",
)
@click.option(
    "--first",
    default=0.0,
    show_default=True,
    type=_SECONDS,
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
    _run(_serve(served, host, port))


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
@click.option("--repeat", default=3, show_default=True, type=_AT_LEAST_1, help="Take medians of.")
@click.option(
    "--seconds", default=3.0, show_default=True, type=_SECONDS, help="Of each measurement ..."
)
@click.option(
    "--paced-seconds",
    default=6.0,
    show_default=True,
    type=_SECONDS,
    help="... and of each with 20 tokens/s, whose responses last 13 s.",
)
@click.option(
    "--tick", default=0.0, show_default=True, type=_SECONDS, help="As of 'hub bench source'."
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
@_json_file
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
        rows = _run(hot_path.measure(cases, setup))
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(hot_path.table(rows, setup))
    found = [
        {"case": row.case.title, "server": row.server, "results": [r.json() for r in row.results]}
        for row in rows
    ]
    _write(file, {"machine": machine.description(), "rows": found})
    sys.exit(0 if all(one.flawless for row in rows for one in row.results) else 1)


@bench.command("failover")
@click.option("--rate", default=60.0, show_default=True, type=_SECONDS, help="Requests per second.")
@click.option("--seconds", default=6.0, show_default=True, type=_SECONDS, help="Of each run.")
@click.option("--max-tokens", default=100, show_default=True, type=_AT_LEAST_1)
@click.option("--repeat", default=3, show_default=True, type=_AT_LEAST_1)
def failover_command(rate: float, seconds: float, max_tokens: int, repeat: int) -> None:
    """Kill one of three model servers under load, and see what is lost."""
    progress = lambda line: click.echo(line, err=True)  # noqa: E731

    async def runs() -> list[failover.Failover]:
        return [
            await failover.measure(rate=rate, seconds=seconds, tokens=max_tokens, progress=progress)
            for _ in range(repeat)
        ]

    try:
        found = _run(runs())
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(failover.table(found))
    sys.exit(1 if any(one.result.silent or one.result.wrong for one in found) else 0)


@bench.command("memory")
@click.option("--connections", default=5000, show_default=True, type=_AT_LEAST_1)
@click.option("--responses", default=100_000, show_default=True, type=_AT_LEAST_1)
@click.option("--steps", default=5, show_default=True, type=_AT_LEAST_1)
def memory_command(connections: int, responses: int, steps: int) -> None:
    """Look at what hub holds: idle, with idle WebSockets, after very many short responses."""
    try:
        found = _run(
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


bench.add_command(dispatch_command)


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


def _write(file: Path | None, found: dict[str, Any]) -> None:
    if file is not None:
        # nan, which means that there were no samples, becomes null.
        file.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed, with few pauses for the collector: they would look
    like the server's."""
    gc.set_threshold(50_000, 50, 50)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop
    except ImportError:
        pass
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
