"""``POST /v1/completions``: one body asks for several completions, each a response of its own.

They are submitted together or not at all, run side by side, and are cancelled with their client.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from aiohttp import web

from hub.api.chat import failure
from hub.api.completions import CompletionStream, parse_completions, text_completion
from hub.api.requests import Request
from hub.dispatch.terms import Class, Terms
from hub.hub import Hub
from hub.live import Live
from hub.server import http, stream
from hub.server.terms import terms_for, terms_of


async def create_completion(request: web.Request) -> web.StreamResponse:
    """Answer with JSON, or with SSE for ``stream: true``."""
    asked = await http.read(request, parse_completions)
    terms = terms_for(terms_of(request.headers, Class.COMPLETION), asked[0])
    with _reading_all(request.app[http.HUB], asked, terms) as lives:
        recorders = [live.recorder for live in lives]
        if not asked[0].stream:
            # The first failure is the answer: what is left is not waited for, but cancelled.
            await asyncio.gather(*map(_until_whole, lives))
            answer = http.json_response(text_completion(recorders))
            # Of several, the one that was waited for last.
            return http.timed(answer, max(lives, key=_took))
        await _until_any_news(lives, http.HEARTBEAT)
        _raise_if_nothing_was_said(lives)
        choices = CompletionStream(recorders).choices
        return await stream.send_all(
            request,
            [(live.log, choice.render) for live, choice in zip(lives, choices, strict=True)],
            heartbeat=http.HEARTBEAT,
        )


def _took(live: Live) -> float:
    return live.ledger.between("received", "ended") or 0.0


@contextmanager
def _reading_all(hub: Hub, asked: Sequence[Request], terms: Terms) -> Iterator[list[Live]]:
    """Submit the requests and be the reader of their responses.

    If one is refused, those before it are left, and so cancelled. Raises its ``HubError``.
    """
    with ExitStack() as readers:
        lives: list[Live] = []
        for one in asked:
            live = hub.submit(one, terms=terms)
            readers.enter_context(http.reading(hub, live))
            lives.append(live)
        yield lives


async def _until_whole(live: Live) -> None:
    """Wait until a response has ended. Raises the ``HubError`` of one that is not whole."""
    await live.until_ended()
    if (error := failure(live.recorder)) is not None:
        raise error


async def _until_any_news(lives: Sequence[Live], patience: float) -> None:
    """Wait until a model has said something or all responses have ended, but not longer than
    ``patience`` seconds."""
    waits = [asyncio.create_task(live.until_news(patience)) for live in lives]
    try:
        for first in asyncio.as_completed(waits):
            await first
            if any(live.recorder.output for live in lives):
                return
    finally:
        for wait in waits:
            wait.cancel()


def _raise_if_nothing_was_said(lives: Sequence[Live]) -> None:
    """A failure before the first news is an HTTP error, which clients know how to retry; of one
    completion among several it is an event, since the others may yet succeed."""
    errors = [live.recorder.error for live in lives if not live.recorder.output]
    failed = [error for error in errors if error is not None]
    if len(failed) == len(lives):
        raise failed[0]
