"""aiohttp's side of a connection, with hub's answers to what is no HTTP.

What aiohttp cannot read never comes to a handler: it answers by itself, in plain text, and logs the
bytes at fault with a traceback. hub answers as everywhere and quotes nothing, neither there nor in
the log: whoever can connect could fill that, and a header at fault may hold a key.

It also tells the door what the connection is doing, which keeps the time.
"""

import asyncio
import logging
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from hub.errors import HubError
from hub.server.door import Admitted
from hub.server.http import error_response, not_http

logger = logging.getLogger("hub.http")


LINGER = 2.0
"""Seconds for which the rest of a body is read and thrown away whose answer needed none of it: so
long a client that does not read yet has to see why it was refused, and a flood to cost anything."""

_EXPECTED = (HttpProcessingError, web.RequestPayloadError, HubError)
"""What a request can fail with, for which nobody has to look into the log."""


class Protocol(web.RequestHandler):
    """See the top of this file."""

    __slots__ = ("_admitted", "_answered", "_body")

    def __init__(
        self, manager: web.Server, admitted: Admitted, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        # What is compressed is refused, so nothing may be made of it before.
        super().__init__(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # what it takes for none
            auto_decompress=False,
            lingering_time=LINGER,
        )
        self._admitted = admitted
        self._answered = 0
        self._body: StreamReader | None = None
        """The last request's."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._admitted.made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        idle = before == self._answered and (self._body is None or self._body.is_eof())
        super().data_received(data)
        if self._request_count != before:
            self._body = self._messages[-1][1]
            self._admitted.sent_head(self._body)
        elif data and idle:
            self._admitted.sends_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._admitted.left()

    def hand_over(self, other: asyncio.Protocol) -> Admitted:
        """Let another protocol have the transport, and tell aiohttp that the connection is lost, so
        that it lets go of all that it keeps for one; it does not close the transport then.

        Call ``left`` of what is returned when the transport is lost.
        """
        assert self.transport is not None
        self.transport.set_protocol(other)
        self.transport = None
        super().connection_lost(None)
        self._admitted.handed_over()
        return self._admitted

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what went wrong outside of the handlers. It ends the connection."""
        error = not_http()
        if not isinstance(exc, HttpProcessingError):
            logger.error("a request failed outside of its handler", exc_info=exc)
            error = HubError("server_error", "The request failed inside hub.")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        refused = error_response(error)
        refused.force_close()
        return refused

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPExpectationFailed):
            # It is raised before the middlewares have their turn.
            error = HubError("invalid_value", "This Expect header is not understood.")
            resp = error_response(error, status=resp.status)
        self._answered += 1
        try:
            # A stream has been written by now, and has had its own patience with its reader.
            async with asyncio.timeout(self._admitted.time_for_answer(resp.content_length or 0)):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self._admitted.reads_too_slowly()
            raise ConnectionResetError("the client does not read") from None

    def log_exception(self, *args: Any, **kw: Any) -> None:
        if not isinstance(kw.get("exc_info"), _EXPECTED):
            super().log_exception(*args, **kw)
