"""One SSE response: a log's events over HTTP, written the way a WebSocket's are.

aiohttp writes the head and, at the end, takes the connection back for its next request. In between
its transport belongs to an outbox: ``StreamProtocol`` stands before aiohttp's own protocol, passes
everything on, and learns from ``pause_writing`` and ``resume_writing`` when the reader is slow.
Writing through aiohttp would cost an await, and often a wait, per event.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.http import HttpVersion11

from hub.api.sse import PING
from hub.live import Live
from hub.log import Event
from hub.server.outbox import Outbox

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
    """Stream a log as SSE until its terminal event, then give the connection back to aiohttp.

    ``render`` gives the block of an event. A comment is sent after every ``heartbeat`` seconds
    without news. Cancelled when the client goes away.
    """
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

    loop = asyncio.get_running_loop()
    outbox = Outbox(write, loop)
    ended: asyncio.Future[None] = loop.create_future()
    transport.set_protocol(StreamProtocol(inner, outbox))
    outbox.subscribe(live.log, render, cursor=cursor, on_end=lambda: ended.set_result(None))
    try:
        seen = live.log.last
        while not ended.done():
            await asyncio.wait((ended,), timeout=heartbeat)
            if live.log.last == seen and not ended.done() and not outbox.paused:
                write(PING)
            seen = live.log.last
    finally:
        outbox.close()
        if not transport.is_closing():
            transport.set_protocol(inner)
    with suppress(ConnectionError):
        # A client may go as soon as it has the last event.
        await response.write_eof()
    return response
