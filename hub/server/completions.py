"""``/v1/completions``, ``/v1/fim/completions`` and ``/infill``: raw texts, for scripts and editors.

One body may ask for several completions, each a response of its own. They are submitted together or
not at all, run side by side, and are cancelled with their client. What fills a gap, and whatever
names its lane, belongs to somebody who types: the latest wins there (see ``completer.py``), and who
was superseded gets an empty success, never an error.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web

from hub.api.chat import failure
from hub.api.completions import CompletionStream, parse_completions, text_completion
from hub.api.fim_chat import FimStream, fim_completion, parse_fim
from hub.api.infill import (
    InfillAsked,
    InfillStream,
    Kind,
    Took,
    infill_answer,
    infill_error,
    parse_infill,
)
from hub.api.requests import Request
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.live import Live
from hub.log import Event
from hub.prediction import Caller
from hub.server import guard, http, stream
from hub.server.terms import lane_of


async def create_completion(request: web.Request) -> web.StreamResponse:
    """``POST /v1/completions``: answer with JSON, or with SSE for ``stream: true``."""
    asked = await http.read(request, parse_completions)
    with _reading(request, asked) as callers:
        recorders = [caller.live.recorder for caller in callers]
        if not asked[0].stream:
            superseded = await _until_whole(callers)
            return _timed(
                http.json_response(text_completion(recorders, superseded=superseded)), callers
            )
        await _until_any_news(callers, http.HEARTBEAT)
        _raise_if_nothing_was_said(callers)
        choices = CompletionStream(recorders, lambda: _superseded(callers)).choices
        return await _send(request, callers, [choice.render for choice in choices])


async def create_fim_completion(request: web.Request) -> web.StreamResponse:
    """``POST /v1/fim/completions``: the same in Mistral's shape."""
    asked = await http.read(request, parse_fim)
    with _reading(request, [asked]) as callers:
        recorder = callers[0].live.recorder
        if not asked.stream:
            superseded = await _until_whole(callers)
            return _timed(
                http.json_response(fim_completion(recorder, superseded=superseded)), callers
            )
        await _until_any_news(callers, http.HEARTBEAT)
        _raise_if_nothing_was_said(callers)
        render = FimStream(recorder, lambda: _superseded(callers)).render
        return await _send(request, callers, [render])


async def create_infill(request: web.Request) -> web.StreamResponse:
    """``POST /infill``: the same in llama.cpp's shape, errors included."""
    try:
        asked = await http.read(request, parse_infill)
        try:
            return await _infill(request, asked)
        except HubError as error:
            if asked.kind == "foreground" or not error.row.retryable:
                raise
            # Nobody waits for it: not having had the time is no error.
            return http.json_response([{}] * len(asked.requests) if asked.array else {})
    except HubError as error:
        refused = http.error_response(error)
        refused.body = http.json_response(infill_error(error)).body
        return refused


async def _infill(request: web.Request, asked: InfillAsked) -> web.StreamResponse:
    with _reading(request, asked.requests, asked.kind) as callers:
        if not asked.stream:
            superseded = await _until_whole(callers)
            answers = [
                infill_answer(
                    caller.live.recorder,
                    asked,
                    index=index,
                    took=_took(caller.live),
                    superseded=superseded,
                )
                for index, caller in enumerate(callers)
            ]
            return _timed(http.json_response(answers if asked.array else answers[0]), callers)
        await _until_any_news(callers, http.HEARTBEAT)
        _raise_if_nothing_was_said(callers)
        renders = [_infill_render(caller, asked, index) for index, caller in enumerate(callers)]
        return await _send(request, callers, renders)


def _infill_render(caller: Caller, asked: InfillAsked, index: int) -> Callable[[Event], bytes]:
    return InfillStream(
        caller.live.recorder,
        asked,
        index=index,
        took=lambda: _took(caller.live),
        superseded=lambda: caller.superseded,
    ).render


def _took(live: Live) -> Took:
    between = live.ledger.between
    return Took(between("dispatched", "first_token"), between("first_token", "last_token"))


@contextmanager
def _reading(
    request: web.Request, asked: Sequence[Request], kind: Kind = "foreground"
) -> Iterator[list[Caller]]:
    """Ask, and be the reader of the responses until the handler is done or its client is gone.

    Raises the ``HubError`` of the one that is refused.
    """
    completer, who = request.app[http.COMPLETER], http.sender(request)
    terms = http.admitted(request, who, Class.COMPLETION, asked[0], len(asked))
    client = f"{request[guard.CLIENT].address} {request.headers.get('User-Agent', '')}"
    lane: Hashable = lane_of(terms, asked[0], client)
    callers = completer.submit(asked, tenant=who.tenant, terms=terms, lane=lane, kind=kind)
    try:
        yield callers
    finally:
        for caller in callers:
            completer.leave(caller, lane)


async def _until_whole(callers: Sequence[Caller]) -> bool:
    """Wait until all have ended, and say whether that is because they were superseded.

    Raises the ``HubError`` of the first that is not whole; what is left is not waited for.
    """

    async def whole(caller: Caller) -> None:
        await caller.live.until_ended()
        error = failure(caller.live.recorder)
        if error is not None and not caller.superseded:
            raise error

    await asyncio.gather(*map(whole, callers))
    return _superseded(callers)


def _superseded(callers: Sequence[Caller]) -> bool:
    return any(caller.superseded for caller in callers)


async def _until_any_news(callers: Sequence[Caller], patience: float) -> None:
    """Wait until a model has said something or all responses have ended, but not longer than
    ``patience`` seconds."""
    waits = [asyncio.create_task(caller.live.until_news(patience)) for caller in callers]
    try:
        for first in asyncio.as_completed(waits):
            await first
            if any(caller.live.recorder.output for caller in callers):
                return
    finally:
        for wait in waits:
            wait.cancel()


def _raise_if_nothing_was_said(callers: Sequence[Caller]) -> None:
    """A failure before the first news is an HTTP error, which clients know how to retry; of one
    completion among several it is an event, since the others may yet succeed."""
    recorders = [caller.live.recorder for caller in callers]
    errors = [recorder.error for recorder in recorders if not recorder.output]
    failed = [error for error in errors if error is not None]
    if len(failed) == len(callers):
        raise failed[0]


async def _send(
    request: web.Request, callers: Sequence[Caller], renders: Sequence[Callable[[Event], bytes]]
) -> web.StreamResponse:
    lives = [caller.live for caller in callers]
    return await stream.send_all(
        request, [*zip(lives, renders, strict=True)], heartbeat=http.HEARTBEAT
    )


def _timed(answer: web.Response, callers: Sequence[Caller]) -> web.Response:
    """With the times of the completion that was waited for last."""
    lives = [caller.live for caller in callers]
    return http.timed(
        answer, max(lives, key=lambda live: live.ledger.between("received", "ended") or 0.0)
    )
