"""``hub bench sweep`` and ``hub bench modes``: the same load, under different conditions."""

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hub.bench import comparison, machine, modes, options, report, sweep
from hub.bench.clients import Target
from hub.bench.outputs import finish, words
from hub.bench.plan import Load
from hub.bench.processes import StartError
from hub.bench.running import live_line, run
from hub.engines.sim_model import DEFAULT_PROFILE, PROFILES

RATE = 4.0
"""Requests per second, unless something else is asked for."""
QUIET = ("--log-level", "warning")

_load = options.together(
    click.option(
        "--seconds",
        default=20.0,
        show_default=True,
        type=options.ABOVE_0,
        help="To measure, in each run.",
    ),
    click.option(
        "--warmup",
        default=2.0,
        show_default=True,
        type=options.AT_LEAST_0,
        help="Seconds before that.",
    ),
    options.requests(max_tokens=64, prompt_tokens=256),
)
_sim = click.option(
    "--sim",
    default=DEFAULT_PROFILE.name,
    show_default=True,
    type=click.Choice(sorted(PROFILES)),
    help="The simulated engine's profile.",
)
_serve = click.option(
    "--serve", default="", help="Further options of 'hub serve', in one argument."
)


@click.command("sweep")
@click.option(
    "--concurrency",
    metavar="N,...",
    callback=options.numbers(options.AT_LEAST_1),
    help="Closed loop: so many requests at a time.",
)
@click.option(
    "--rate",
    metavar="N,...",
    callback=options.numbers(options.ABOVE_0),
    help="Open loop: so many requests per second arrive, by a Poisson process. Default: "
    f"{RATE:g}, without --concurrency.",
)
@click.option(
    "--batch-size",
    metavar="N,...",
    callback=options.numbers(options.AT_LEAST_1),
    help="hub's --batch-size.",
)
@click.option(
    "--flush-interval",
    metavar="MS,...",
    callback=options.numbers(options.AT_LEAST_0),
    help="hub's --flush-interval.",
)
@options.mode
@_load
@_sim
@_serve
@click.option(
    "--url",
    help="Aim at this server instead. Its batch size and flush interval can be swept if it is a "
    "hub that was started with --lab.",
)
@click.option("--key", envvar="HUB_BENCH_KEY", help="Its API key, if it asks for one.")
@click.option("--model", default="", help="The model's name in requests.")
@options.json_file
@options.html_file
def sweep_command(
    concurrency: Sequence[float],
    rate: Sequence[float],
    batch_size: Sequence[float],
    flush_interval: Sequence[float],
    sim: str,
    serve: str,
    url: str | None,
    key: str | None,
    file: Path | None,
    html_file: Path | None,
    poll: float,
    **values: Any,
) -> None:
    """Run the same load with other settings, or other loads, and compare.

    \b
    What does a flush interval of 300 ms do to TTFT at this load?
        hub bench sweep --rate 4 --flush-interval 0,300

    Options with several values make every combination of them. hub and the simulated engine are
    started anew for every run, without a store on disk; texts, lengths and arrivals are the same
    in all. What is streamed is compared with the whole text that the server tells at the end.
    """
    if concurrency and rate:
        raise click.UsageError("Give --concurrency or --rate.")
    if not concurrency and not rate:
        rate = (RATE,)
    points = sweep.points(
        concurrency=concurrency, rate=rate, batch_size=batch_size, flush_interval=flush_interval
    )
    load = Load(**values, any_text=True, poll=poll / 1e3)
    try:
        target = None if url is None else Target.parse(url, key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from None
    own = ["--sim", sim, "--store", "memory", *QUIET, *shlex.split(serve)]
    try:
        processes = None if target is None else machine.processes_at(target.host, target.port)
        outcomes = run(
            sweep.measure(points, load, own, live_line, target=target, processes=processes)
        )
    except (StartError, sweep.SettingsError) as error:
        raise click.ClickException(str(error)) from None
    said = words(load, url or f"simulated {sim}", comparison.common(outcomes))
    click.echo(f"{said}. Times in ms.\n\n{comparison.text(outcomes)}")
    names = " and ".join(f"the {name}" for name in comparison.swept(outcomes))
    title = f"What {names} changed" if len(outcomes) > 1 else "One load"
    finish(outcomes, title, said, json_file=file, html_file=html_file)


@click.command("modes")
@click.option(
    "--rate",
    default=RATE,
    show_default=True,
    type=options.ABOVE_0,
    help="Requests per second that arrive, by a Poisson process.",
)
@click.option(
    "--connections",
    default=2,
    show_default=True,
    type=options.AT_LEAST_1,
    help="WebSockets that the lanes are on, 16 each.",
)
@_load
@_sim
@_serve
@options.json_file
@options.html_file
def modes_command(
    connections: int,
    sim: str,
    serve: str,
    file: Path | None,
    html_file: Path | None,
    poll: float,
    **values: Any,
) -> None:
    """Compare the ways to get an answer: latency, throughput and cost, on the same load.

    Synchronous, in the background and polled, over SSE, on WebSocket lanes: the same requests at
    the same times, on a hub of its own in front of the simulated engine, which is a process of its
    own; every response is kept on disk.
    """
    load = Load(mode="lanes", **values, model="", any_text=True, poll=poll / 1e3)
    try:
        outcomes = run(
            modes.measure(load, sim, [*QUIET, *shlex.split(serve)], live_line, sockets=connections)
        )
    except StartError as error:
        raise click.ClickException(str(error)) from None
    table, notes = modes.matrix(outcomes), modes.notes(load.poll)
    said = words(load, f"simulated {sim}")
    wrapped = "\n\n".join(textwrap.fill(note, 100) for note in notes)
    click.echo(f"{said}. Times in ms.\n\n{report.text_table(*table)}\n\n{wrapped}")
    finish(
        outcomes,
        "Four ways to get an answer",
        said,
        json_file=file,
        html_file=html_file,
        table=table,
        notes=notes,
    )
