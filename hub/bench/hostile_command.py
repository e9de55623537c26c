"""``hub bench hostile``: honest clients beside hostile ones."""

import sys
from pathlib import Path

import click

from hub.bench import hostile, machine
from hub.bench.hostile_attacks import ATTACKS
from hub.bench.options import ABOVE_0, json_file
from hub.bench.processes import StartError
from hub.bench.running import run, write_json

_NAMES = "\n".join(f"{name:<16}{attack.title}" for name, attack in ATTACKS.items())


@click.command(
    "hostile",
    help=f"""Attack hub beside honest clients, and see what these feel of it.

200 honest streams, half SSE and half lanes, every character compared: first alone, then beside each
attack, then beside all at once. Each case has a hub of its own, which has a core for itself if
there are two. The attackers are one process that gives way to all others (nice 19), with limited
rates, on the core of the honest clients: these never wait for the attackers, but for hub. Every
attack comes from an address of its own (127.0.1.x), with the key of another tenant, who has limits,
or without one.

\b
{_NAMES}
""",
)
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice([*ATTACKS]),
    metavar="NAME",
    help="Only this attack. Repeatable.",
)
@click.option("--mix/--no-mix", default=True, show_default=True, help="Attack in all ways at once.")
@click.option(
    "--alone/--no-alone", default=True, show_default=True, help="Attack in each way alone."
)
@click.option(
    "--streams", default=200, show_default=True, type=click.IntRange(min=2), help="Honest."
)
@click.option("--seconds", default=10.0, show_default=True, type=ABOVE_0, help="Of each case.")
@click.option(
    "--strength",
    default=1.0,
    show_default=True,
    type=ABOVE_0,
    help="So many times the attacks' own rates.",
)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Give hub a core of its own.")
@click.option(
    "--within",
    default=1.5,
    show_default=True,
    type=ABOVE_0,
    help="Fail if, beside all attacks at once, the honest p99 of TTFT or ITL is more than so many "
    "times the quiet one.",
)
@click.option("--serve", default="", help="Further options of 'hub serve', in one argument.")
@json_file
def hostile_command(
    names: tuple[str, ...],
    mix: bool,
    alone: bool,
    streams: int,
    seconds: float,
    strength: float,
    pin: bool,
    within: float,
    serve: str,
    file: Path | None,
) -> None:
    """See ``help``."""
    setup = hostile.Setup(
        streams=streams,
        seconds=seconds,
        strength=strength,
        serve=serve.split(),
        pin=pin,
        progress=lambda line: click.echo(line, err=True),
    )
    try:
        cases = run(hostile.measure(names or [*ATTACKS], setup, alone=alone, mix=mix))
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(hostile.table(cases))
    write_json(file, {"machine": machine.description(), "cases": [one.json() for one in cases]})
    lost = any(one.failures for one in cases)
    slow = mix and max(hostile.ratios(cases[-1], cases[0])) > within
    sys.exit(1 if lost or slow else 0)
