"""aiohttp's side of a connection, with hub's answers to what is no HTTP.

What aiohttp cannot read never comes to a handler: it answers by itself, in plain text, and logs the
bytes at fault with a traceback. hub answers as everywhere and quotes nothing, neither there nor in
the log: whoever can connect could fill that, and a header at fault may hold a key.
"""

import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from hub.errors import HubError
from hub.server.http import error_response, not_http

logger = logging.getLogger("hub.http")


class Protocol(web.RequestHandler):
    """See the top of this file."""

    __slots__ = ()

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
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        if not isinstance(kw.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            super().log_exception(*args, **kw)
