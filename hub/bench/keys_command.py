"""``hub bench keys``: typists, and the figures of a backend for code completion."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hub.bench import keys_chat, keys_figures, machine
from hub.bench.keys import POLICIES, Typing, measure
from hub.bench.keys_score import HEAD, row
from hub.bench.keystrokes import PACES
from hub.bench.options import ABOVE_0, AT_LEAST_1, json_file
from hub.bench.processes import StartError
from hub.bench.running import run, write_json
from hub.bench.wire import WireError

PARTS = "close", "through", "added", "chat", "typing"
_SHARE = click.FloatRange(0, 1)


@click.command("keys")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="This part. Repeatable.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice([*POLICIES]),
    help="typing: this way to ask only. Repeatable.",
)
@click.option("--users", default=8, show_default=True, type=AT_LEAST_1, help="Typists.")
@click.option(
    "--seconds", default=30.0, show_default=True, type=ABOVE_0, help="Of each policy, each load."
)
@click.option(
    "--pace",
    default="normal",
    show_default=True,
    type=click.Choice([*PACES]),
    help="A key in 250, 170 or 110 ms, in the middle of a word.",
)
@click.option(
    "--caching",
    default=0.0,
    show_default=True,
    type=_SHARE,
    help="The share of users whose editor keeps answers and sees itself what was typed since.",
)
@click.option("--slots", type=AT_LEAST_1, help="Of the oracle. Default: one for each user.")
@click.option(
    "--survives",
    default=0.8,
    show_default=True,
    type=_SHARE,
    help="The probability that the oracle's next token is still right.",
)
@click.option(
    "--prefill", default=60.0, show_default=True, type=ABOVE_0, help="ms, to the first token."
)
@click.option(
    "--per-token", default=12.0, show_default=True, type=ABOVE_0, help="ms, of each further one."
)
@click.option(
    "--llama/--no-llama",
    default=True,
    show_default=True,
    help="typing: the oracle says that it is a llama.cpp, which fills in the middle by itself.",
)
@click.option("--samples", default=200, show_default=True, type=AT_LEAST_1, help="Of a figure.")
@click.option("--chats", default=32, show_default=True, type=AT_LEAST_1, help="chat: at a time.")
@click.option("--profile", default="h100-8b", show_default=True, help="chat: as of --sim.")
@click.option("--rate", default=2.0, show_default=True, type=ABOVE_0, help="chat: completions/s.")
@click.option("--serve", default="", help="Further options of 'hub serve', in one argument.")
@click.option("--seed", default=0, show_default=True, help="Of everything.")
@json_file
def keys_command(
    only: Sequence[str],
    policies: Sequence[str],
    samples: int,
    chats: int,
    profile: str,
    rate: float,
    serve: str,
    file: Path | None,
    **options: Any,
) -> None:
    """Let people type, and see what completions are worth to them.

    Real time, real sockets. The model server behind hub is an oracle: each token of the true text
    survives with a fixed probability, its times are fixed, and, like llama.cpp, it goes on with
    requests that asked for no stream when nobody waits any more.

    \b
    close    from a newer request, or an editor's going away, until the model server stopped
    through  an answer that was predicted before, to its first text
    added    what hub adds to one that was not
    chat     completions' TTFT behind chats, on the simulated engine, and what the chats pay
    typing   the same typists with and without hub: a row for each way to ask

    \b
    useful   after a key, before the next, a text stands there whose first 3 characters are right
    fresh    from the key to a useful text, if the oracle was asked for just that state of the text
    reused   the same, if it was not: hub answered from what it had
    wasted   tokens of requests of which nothing useful was shown, as a share of all
    lag      from the request that disagrees with what the oracle says until the oracle stopped
    stale    text for an older state although a newer request had been answered, or was 50 ms old
    """
    parts = only or PARTS
    options["prefill"] /= 1e3
    options["per_token"] /= 1e3
    options["slots"] = options["slots"] or options["users"]
    typing = Typing(**options)
    loaded = keys_chat.Loaded(
        seconds=typing.seconds, rate=rate, chats=chats, profile=profile, serve=serve.split()
    )
    try:
        figures, rows = run(_measured(parts, policies, typing, loaded, samples))
    except (StartError, WireError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if figures:
        click.echo(keys_figures.table(figures))
    told = {
        "machine": machine.description(),
        "typing": asdict(typing),
        "chat": asdict(loaded),
        "figures": [asdict(one) for one in figures],
        "policies": {name: asdict(score) for name, score in rows.items()},
    }
    write_json(file, told)
    bad = [name for name, score in rows.items() if POLICIES[name].hub and not score.flawless]
    if bad:
        raise click.ClickException(f"Stale, wrong or failed answers: {', '.join(bad)}.")


async def _measured(
    parts: Sequence[str],
    policies: Sequence[str],
    typing: Typing,
    loaded: keys_chat.Loaded,
    samples: int,
) -> Any:
    figures, rows = [], {}
    for part in parts:
        match part:
            case "close":
                figures += await keys_figures.close(samples, typing.seed, loaded.serve)
            case "through":
                figures += await keys_figures.through(samples, typing.seed, loaded.serve)
            case "added":
                figures += await keys_figures.added(samples, typing.seed, loaded.serve)
            case "chat":
                figures += await keys_chat.measure(loaded, typing.seed)
            case "typing":
                click.echo(HEAD)
                for name in policies or POLICIES:
                    rows[name] = await measure(POLICIES[name], typing, loaded.serve)
                    click.echo(row(POLICIES[name].title, rows[name]))
    return figures, rows
