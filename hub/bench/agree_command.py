"""``hub bench agree``: the clocks of the engine, of hub and of the reader, compared."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from hub.bench import agree, machine
from hub.bench.options import ABOVE_0, AT_LEAST_1, json_file
from hub.bench.plan import Mode
from hub.bench.processes import StartError
from hub.bench.running import run, write_json

MODES: tuple[Mode, ...] = ("lanes", "sse")
"""In which there is a first text to be written."""


@click.command("agree")
@click.option("--requests", default=200, show_default=True, type=AT_LEAST_1, help="Of each run.")
@click.option("--streams", default=4, show_default=True, type=AT_LEAST_1, help="At a time.")
@click.option("--max-tokens", default=32, show_default=True, type=AT_LEAST_1)
@click.option(
    "--within",
    default=2.0,
    show_default=True,
    type=ABOVE_0,
    help="Fail if the engine's TTFT, in hub's process, and the reader's are more than so many ms "
    "apart (median).",
)
@json_file
def agree_command(
    requests: int, streams: int, max_tokens: int, within: float, file: Path | None
) -> None:
    """Compare the time to first token by three clocks: the engine's, hub's and the reader's.

    The simulated engine tells its own, hub's ledger what hub saw, and 'hub bench' what a reader
    did. Differences are those of each response, not of the medians. With the engine in hub's
    process they are hub's own and the reader's socket's; behind a socket the engine's server and
    another socket are in them, too.
    """

    async def runs() -> list[agree.Agreement]:
        return [
            await agree.measure(
                place, mode, requests=requests, streams=streams, max_tokens=max_tokens
            )
            for place in agree.PLACES
            for mode in MODES
        ]

    try:
        found = run(runs())
    except (StartError, agree.Silent) as error:
        raise click.ClickException(str(error)) from None
    click.echo("\n\n".join(map(agree.table, found)))
    write_json(file, {"machine": machine.description(), "runs": [asdict(one) for one in found]})
    near = [one for one in found if not agree.PLACES[one.place]]
    sys.exit(0 if all(abs(one.whole.p50) <= within for one in near) else 1)
