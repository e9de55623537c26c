"""``hub bench load``: one run against a server."""

from pathlib import Path
from typing import Any

import click
import orjson

from hub.bench import machine, options, report
from hub.bench.clients import Target
from hub.bench.comparison import Outcome
from hub.bench.load import Run
from hub.bench.outputs import finish, words
from hub.bench.plan import Load
from hub.bench.running import live_line, run, write


@click.command("load")
@click.option("--url", default="http://127.0.0.1:8765", show_default=True, help="The server.")
@click.option("--key", envvar="HUB_BENCH_KEY", help="Its API key, if it asks for one.")
@options.mode
@click.option(
    "--connections",
    default=16,
    show_default=True,
    type=options.AT_LEAST_1,
    help="WebSockets, or streams over HTTP.",
)
@click.option(
    "--lanes",
    default=16,
    show_default=True,
    type=options.AT_LEAST_1,
    help="Lanes of each WebSocket; 1: only the default lane.",
)
@click.option("--requests", type=options.AT_LEAST_1, help="Measure so many responses ...")
@click.option("--seconds", type=options.AT_LEAST_0, help="... or for so long. Default: 10 s.")
@click.option(
    "--rate",
    type=options.ABOVE_0,
    help="Open loop: so many requests per second arrive, by a Poisson process, whatever the "
    "server does. Default: closed loop, every stream asks again when its response has ended.",
)
@options.requests(max_tokens=256, prompt_tokens=16)
@click.option(
    "--any-text",
    is_flag=True,
    help="The server is not in front of 'hub bench source', and may say what it likes: compare "
    "what it streams with the text that it tells at the end. Tokens are those that it counts.",
)
@click.option("--model", help="The model's name in requests. Default: bench; none with --any-text.")
@click.option("--store/--no-store", default=False, help="Let the server keep the responses.")
@click.option(
    "--warmup",
    default=1.0,
    show_default=True,
    type=options.AT_LEAST_0,
    help="Seconds before measuring.",
)
@click.option(
    "--drain",
    default=30.0,
    show_default=True,
    type=options.AT_LEAST_0,
    help="Seconds that what runs at the end may take; then it is cut off.",
)
@click.option(
    "--pid",
    type=int,
    help="The server's process. Default: the one that listens there, on this machine.",
)
@options.json_file
@options.html_file
@click.option(
    "--records",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every measured response, one JSON object per line, with hub's own times.",
)
def load_command(
    url: str,
    key: str | None,
    pid: int | None,
    file: Path | None,
    html_file: Path | None,
    records: Path | None,
    poll: float,
    **values: Any,
) -> None:
    """Ask a server, and check every character of its answers.

    The model server behind it is 'hub bench source', whose texts are known beforehand; with
    --any-text it is whatever there is.
    """
    if values["requests"] is not None and values["seconds"] is not None:
        raise click.UsageError("Give --requests or --seconds.")
    if values["requests"] is None and values["seconds"] is None:
        values["seconds"] = 10.0
    if values["model"] is None:
        values["model"] = "" if values["any_text"] else "bench"
    try:
        target = Target.parse(url, key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from None
    try:
        processes = (
            machine.processes_at(target.host, target.port)
            if pid is None
            else machine.ProcessTree(pid)
        )
    except ProcessLookupError:
        raise click.BadParameter(f"There is no process {pid}.", param_hint="'--pid'") from None
    load = Load(**values, poll=poll / 1e3)
    with live_line() as progress:
        one = Run(target, load, processes=processes, progress=progress)
        result = run(one.run())
    click.echo(report.summary(result))
    if records is not None:
        write(records, b"".join(orjson.dumps(record.json()) + b"\n" for record in one.records))
    finish(
        [Outcome({"mode": load.mode}, result, one.records)],
        "One load",
        words(load, url),
        json_file=file,
        html_file=html_file,
        notes=report.said(result),
    )
