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
from hub.errors import HubError
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


COME_BACK = b"retry: 250\n\n"
"""Before a stream is cut off: how long (ms) to wait before asking for the rest."""


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


class _Reading:
    """The logs that one SSE response reads."""

    def __init__(self, hub: Hub, outbox: Outbox, *, along: bool) -> None:
        self._hub = hub
        self._outbox = outbox
        self._along = along
        self._open: dict[Live, Callable[[], None]] = {}
        """Those that have not ended, each with what is called when it moves."""
        self._moved: list[tuple[Live, Callable[[Event], bytes], int]] = []
        self._joined: list[Live] = []
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cut = False
        """It ends before its time: there is more to come, elsewhere."""

    @property
    def over(self) -> bool:
        return self.cut or not (self._open or self._moved)

    @property
    def last(self) -> list[int]:
        """The last event of each log."""
        return [live.log.last for live in self._open]

    def add(self, live: Live, render: Callable[[Event], bytes], cursor: int) -> None:
        def moved() -> None:
            self._outbox.unsubscribe(subscription)
            del self._open[live]
            self._moved.append((live, render, subscription.cursor))
            self._tell()

        subscription = self._outbox.subscribe(
            live.log,
            render,
            cursor=cursor,
            on_end=partial(self._ended, live),
            on_text=partial(live.ledger.wrote, "first_written"),
        )
        self._open[live] = moved
        live.when_moved(moved)

    def _ended(self, live: Live) -> None:
        logs.written(live)
        live.stay(self._open.pop(live))
        if not self._open:
            self._tell()

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    async def until_news(self, patience: float) -> None:
        """Wait until all have ended, or for so long; go along with those that have moved."""
        await asyncio.wait((self._news,), timeout=patience)
        if not self._moved:
            return
        self._news = asyncio.get_running_loop().create_future()
        moved, self._moved = self._moved, []
        if self._hub.closing or not self._along:
            self.cut = True
            return
        for live, render, cursor in moved:
            try:
                there = await self._hub.open(live.kept_as, tenant=live.tenant)
            except HubError:
                self.cut = True
                return
            self._hub.join(there)
            self._joined.append(there)
            self.add(there, render, cursor)

    def close(self) -> None:
        for live, moved in self._open.items():
            live.stay(moved)
        for live in self._joined:
            self._hub.leave(live)


async def send(
    request: web.Request,
    live: Live,
    render: Callable[[Event], bytes],
    *,
    heartbeat: float,
    cursor: int = -1,
    along: bool = False,
) -> web.StreamResponse:
    """``send_all`` for one log, from after ``cursor``."""
    return await send_all(
        request, [(live, render)], heartbeat=heartbeat, cursor=cursor, along=along
    )


async def send_all(
    request: web.Request,
    lives: Sequence[tuple[Live, Callable[[Event], bytes]]],
    *,
    heartbeat: float,
    cursor: int = -1,
    along: bool = False,
) -> web.StreamResponse:
    """Stream the logs of responses as SSE, merged as they grow, until the terminal event of the
    last, then give the connection back to aiohttp.

    Beside each stands what gives the block of one of its events. ``cursor`` is one of each. A
    comment is sent after every ``heartbeat`` seconds without news. Cancelled when the client goes
    away, or is so slow that it is sent away.

    If another node goes on with a response, the stream goes ``along``, where ``render`` depends on
    the event alone. Otherwise, and if this node is about to stop, it is cut off, so that its client
    sees that there is more to come, and comes back for it.
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
    reading = _Reading(hub, outbox, along=along)
    transport.set_protocol(StreamProtocol(inner, outbox))
    for live, render in lives:
        reading.add(live, render, cursor)
    try:
        seen = reading.last
        while not reading.over:
            await reading.until_news(heartbeat)
            if reading.last == seen and not reading.over and not outbox.paused:
                write(PING)
            seen = reading.last
    finally:
        reading.close()
        outbox.close()
        if not transport.is_closing():
            transport.set_protocol(inner)
    if reading.cut:
        write(COME_BACK)
        transport.close()
        return response
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
