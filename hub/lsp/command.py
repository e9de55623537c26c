"""``hub lsp``."""

import contextlib
import logging
import sys

import click

from hub import __version__
from hub.dial import websocket_url


@click.command()
@click.option(
    "--url",
    default="ws://127.0.0.1:8765/v1/responses",
    show_default=True,
    help="Where hub is: ws://… or http://….",
)
@click.option("--key", envvar="HUB_KEY", show_envvar=True, help="The key to name to hub.")
def lsp(url: str, key: str | None) -> None:
    """Complete code inline in an editor, as a language server on standard input and output.

    An editor starts it. Its initializationOptions may hold url, model, maxTokens, budgetMs and
    debounceMs.
    """
    try:
        websocket_url(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from None
    try:
        from hub.lsp.server import create
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("pygls", "lsprotocol"):
            raise
        raise click.ClickException(
            "The language server needs pygls: pip install 'hub-stream[lsp]'"
        ) from None
    logging.basicConfig(level=logging.WARNING)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    server = create(url, headers, __version__)
    output = sys.stdout.buffer
    # What anybody prints must not come between the protocol's messages.
    with contextlib.redirect_stdout(sys.stderr):
        server.start_io(stdout=output)
