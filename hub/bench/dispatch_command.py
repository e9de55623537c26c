"""``hub bench dispatch``: runs the dispatcher's experiments and prints what they found."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from hub.bench.dispatch_tables import markdown
from hub.bench.experiments import EXPERIMENTS


@click.command("dispatch")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*EXPERIMENTS]),
    help="Run this experiment only. May be given several times.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the figures to this file, too.",
)
def dispatch_command(only: Sequence[str], json_file: Path | None) -> None:
    """Try the dispatcher on the simulated engine, in virtual time.

    Prints Markdown tables: overload, near capacity, two tenants, light load, batch sizes and flush
    intervals, the published comparison, windows. Takes about two minutes. The same figures come out
    every time, but for the half of "light" that is in real time.
    """
    found: dict[str, Any] = {}
    for name in only or EXPERIMENTS:
        begun = time.monotonic()
        tables = EXPERIMENTS[name]()
        for table in tables:
            click.echo(markdown(table))
        click.echo(f"`{name}`: {time.monotonic() - begun:.0f} s", err=True)
        found[name] = [
            {"title": table.title, "notes": table.notes, "rows": table.rows} for table in tables
        ]
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
