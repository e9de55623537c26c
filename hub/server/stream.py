"""One SSE response: the events of a log, or of several, over HTTP, written the way a WebSocket's
are.

aiohttp writes the head and, at the end, takes the connection back for its next request. In between
its transport belongs to an outbox: ``StreamProtocol`` stands before aiohttp's own protocol, passes
everything on, and learns from ``pause_writing`` and ``resume_writing`` when the reader is slow.
Writing through aiohttp would cost an await, and often a wait, per event.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from aiohttp import web
from aiohttp.http import HttpVersion11

from hub import logs
from hub.api.sse import PING
from hub.hub import Hub
from hub.live import Live
from hub.log import Event
from hub.server.outbox import Outbox, bound_buffers

HUB = web.AppKey("hub", Hub)
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    # nginx holds a stream's events back in its buffer unless it is told not to.
    "X-Accel-Buffering": "no",
}


class StreamProtocol(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol while an outbox writes."""

    def __init__(self, inner: asyncio.Protocol, outbox: Outbox) -> None:
        self._inner = inner
        self._outbox = outbox

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._outbox.pause()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._outbox.resume()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._outbox.close()
        # aiohttp cancels the handler, and with it the wait in ``send``.
        self._inner.connection_lost(exc)


async def send(
    request: web.Request,
    live: Live,
    render: Callable[[Event], bytes],
    *,
    heartbeat: float,
    cursor: int = -1,
) -> web.StreamResponse:
    """``send_all`` for one log, from after ``cursor``."""
    return await send_all(request, [(live, render)], heartbeat=heartbeat, cursor=cursor)


async def send_all(
    request: web.Request,
    lives: Sequence[tuple[Live, Callable[[Event], bytes]]],
    *,
    heartbeat: float,
    cursor: int = -1,
) -> web.StreamResponse:
    """Stream the logs of responses as SSE, merged as they grow, until the terminal event of the
    last, then give the connection back to aiohttp.

    Beside each stands what gives the block of one of its events. ``cursor`` is one of each. A
    comment is sent after every ``heartbeat`` seconds without news. Cancelled when the client goes
    away, or is so slow that it is sent away.
    """
    hub = request.app[HUB]
    response = web.StreamResponse(headers=HEADERS)
    chunked = request.version >= HttpVersion11
    if chunked:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    await response.prepare(request)
    transport, inner = request.transport, request.protocol
    if transport is None:
        raise ConnectionResetError("the client went away")

    def write(data: bytes) -> None:
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)

    def too_slow() -> None:
        hub.bounds.reader_closed()
        transport.abort()

    bound_buffers(transport)
    loop = asyncio.get_running_loop()
    patience = hub.policy.reader_patience
    outbox = Outbox(write, loop, patience=patience, max_lag=hub.policy.reader_lag, on_slow=too_slow)
    ended: asyncio.Future[None] = loop.create_future()

    def one_ended(live: Live) -> None:
        logs.written(live)
        # Its subscription is over by now.
        if len(outbox) == 0:
            ended.set_result(None)

    transport.set_protocol(StreamProtocol(inner, outbox))
    for live, render in lives:
        outbox.subscribe(
            live.log,
            render,
            cursor=cursor,
            on_end=partial(one_ended, live),
            on_text=partial(live.ledger.wrote, "first_written"),
        )
    try:
        seen = [live.log.last for live, _ in lives]
        while not ended.done():
            await asyncio.wait((ended,), timeout=heartbeat)
            last = [live.log.last for live, _ in lives]
            if last == seen and not ended.done() and not outbox.paused:
                write(PING)
            seen = last
    finally:
        outbox.close()
        if not transport.is_closing():
            transport.set_protocol(inner)
    try:
        # It waits until the socket has drained.
        async with asyncio.timeout(patience):
            await response.write_eof()
    except TimeoutError:
        too_slow()
    except ConnectionError:
        # A client may go as soon as it has the last event.
        pass
    return response
