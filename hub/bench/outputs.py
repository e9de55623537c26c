"""What the commands that put a load on a server leave behind: files, and an exit status."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from hub.bench import html, machine
from hub.bench.comparison import Outcome
from hub.bench.html import About
from hub.bench.plan import Load
from hub.bench.running import write, write_json


def words(load: Load, server: str, settings: str = "") -> str:
    """What all runs of a load have in common, ``settings`` among it."""
    arrivals = f"{settings}, " if settings else ""
    if load.rate is not None:
        arrivals += f"{load.rate:g} requests/s, "
    length = f"{load.seconds:g} s each" if load.seconds else f"{load.requests} responses"
    said = (
        f"{arrivals}prompts of about {load.prompt_tokens} and answers of at most {load.max_tokens} "
        f"tokens, {length}, {server}"
    )
    return said[0].upper() + said[1:]


def finish(
    outcomes: Sequence[Outcome],
    title: str,
    load: str,
    *,
    json_file: Path | None,
    html_file: Path | None,
    table: html.Table | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the files that were asked for, and leave: 0 if everything was right, else 1.

    ``load``: what all had in common, in words; ``table``, ``notes``: see ``html``.
    """
    command = shlex.join(["hub", *sys.argv[1:]])
    write_json(
        json_file,
        {
            "machine": machine.description(),
            "command": command,
            "load": load,
            "runs": [outcome.json() for outcome in outcomes],
        },
    )
    if html_file is not None:
        about = About(
            title=title,
            load=load,
            command=command,
            machine=machine.description(),
            when=time.strftime("%Y-%m-%d %H:%M %Z"),
            notes=notes,
        )
        write(html_file, html.page(about, outcomes, table).encode())
        click.echo(f"\nThe report is in {html_file}.")
    sys.exit(0 if all(outcome.result.flawless for outcome in outcomes) else 1)
