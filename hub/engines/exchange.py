"""One HTTP/1.1 request on a connection of its own, whose answer is read as it arrives.

What a client library does for a stream of tokens costs more than the tokens: aiohttp wakes a task
for every chunk. Here the bytes of a chunk go from the socket to their reader in plain calls, in the
same turn of the event loop, and whoever waits for the exchange is woken once, at its end. httptools
(the parser of Node.js) takes the protocol apart; ours is only when a connection begins and ends.

A fresh connection per request, for the reasons in ``http_client.py``. Closing it is how a model
server is told to stop, so whoever leaves an exchange closes it, in whatever state it is.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from hub import __version__
from hub.engines.base import PAUSE, UNNOTED, Notes
from hub.engines.http_client import not_http, silent, unanswered
from hub.errors import HubError

MAX_HEAD = 16 << 10
"""Bytes of status line and header fields."""
REMEMBER_ADDRESSES = 10.0
"""Seconds for which the addresses of a host's name are not asked for again."""


class Answer(Protocol):
    """What reads an answer. What it raises ends the exchange with that error."""

    done: bool
    """Nothing more of the answer is of interest."""

    def head(self, status: int, headers: dict[str, str]) -> float | None:
        """The status and the header fields, their names in lower case. Gives the seconds within
        which the body has to be complete, if that is bounded."""
        ...

    def feed(self, data: bytes) -> float | None:
        """Some of the body. Gives the seconds within which the rest has to come, if that is
        bounded from now on; when they are over, the answer is taken as complete."""
        ...


class Target:
    """An address that requests go to: where to connect, and what to say there."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.path = parts.path
        self._host = parts.hostname
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        fields = {
            "Host": parts.netloc,
            "User-Agent": f"hub/{__version__}",
            "Accept": "text/event-stream",
            # A stream of tiny chunks gains nothing from compression, and a compressor holds them
            # back.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Connection": "close",
            **headers,
        }
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._addresses: list[str] = []
        self._asked = float("-inf")

    def request(self, path: str, body: bytes) -> bytes:
        """A POST, ready to be sent."""
        head = f"POST {self.path}/{path} HTTP/1.1\r\n{self._fields}Content-Length: {len(body)}\r\n"
        return head.encode("latin-1") + b"\r\n" + body

    async def connect(self, exchange: "Exchange") -> None:
        """Connect an exchange. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for address in await self._resolve(loop):
            try:
                await loop.create_connection(
                    lambda: exchange,
                    address,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=self._host if self._ssl else None,
                )
            except OSError as error:
                failure = error
            else:
                return
        self._asked = float("-inf")  # it may have moved
        raise failure or OSError(f"{self._host} has no address")

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        if loop.time() - self._asked > REMEMBER_ADDRESSES:
            found = await loop.getaddrinfo(self._host, self._port, proto=6)
            self._addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
            self._asked = loop.time()
        return self._addresses


class Exchange(asyncio.Protocol):
    """See the top of this file. Connect it, await ``done``, and ``close`` it in any case."""

    def __init__(
        self,
        request: bytes,
        answer: Answer,
        *,
        idle_timeout: float,
        notes: Notes = UNNOTED,
    ) -> None:
        """``idle_timeout`` is the longest silence (seconds), also before the first byte."""
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        """Resolves when the answer is complete, or fails with a ``HubError``."""
        self._request = request
        self._answer = answer
        self._idle_timeout = idle_timeout
        self._notes = notes
        self._transport: asyncio.Transport | None = None
        self._heard = self._loop.time()
        self._idle: asyncio.TimerHandle | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._headers: dict[str, str] = {}
        self._begun = False
        self._informational = False
        self._framed = False
        self._complete = False
        self._head_size = 0
        self._pieces: list[bytes] = []
        # Called for every chunk: nothing but a list's own method, since Python would cost more.
        self.on_body: Callable[[bytes], None] = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def close(self) -> None:
        """Let go of the connection."""
        for timer in (self._idle, self._limit):
            if timer is not None:
                timer.cancel()
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if transport.get_write_buffer_size():
                transport.abort()  # nobody reads what is left to send
            else:
                transport.close()
        if not self.done.done():
            self.done.cancel()
        # It refers back to this: a circle that would keep the whole answer until it is collected.
        self._parser = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self._transport = cast(asyncio.Transport, transport)
        if self.done.done():
            self._transport.abort()
            return
        self._notes.mark("connected")
        self._transport.write(self._request)
        self._request = b""
        self._heard = self._loop.time()
        self._check_idle()

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self.done.done():
            return
        now = self._loop.time()
        if now - self._heard >= PAUSE:
            self._notes.pause(now - self._heard)
        self._heard = now
        if not self._begun:
            if not self._head_size:
                self._notes.mark("first_byte")
            self._head_size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._fail(error.__context__ or error)
            return
        except httptools.HttpParserError:
            # What follows a complete answer is nobody's business.
            if not self._complete:
                # In the middle of a body it is the framing that broke.
                self._fail(_broken_off() if self._begun else not_http())
                return
        if not self._begun and self._head_size > MAX_HEAD:
            self._fail(HubError("upstream_protocol_error", "The model server's head is too long."))
            return
        if self._pieces:
            pieces = self._pieces
            self._feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()
        if self._complete or self._answer.done:
            self._finish()

    def eof_received(self) -> None:
        self._lost()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        self._informational = 100 <= status < 200
        if self._informational:
            self._headers.clear()
            return
        self._begun = True
        headers = self._headers
        self._framed = "content-length" in headers or "transfer-encoding" in headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HubError("upstream_protocol_error", "The model server compresses its answer.")
        self._bound(self._answer.head(status, headers))

    def on_message_complete(self) -> None:
        self._complete = not self._informational

    # The end.

    def _feed(self, data: bytes) -> None:
        try:
            limit = self._answer.feed(data)
        except Exception as error:
            # The boundary of one answer: whatever its reader makes of it ends its own exchange,
            # and is raised where that is awaited.
            self._fail(error)
        else:
            if limit is not None:
                self._bound(limit)

    def _bound(self, seconds: float | None) -> None:
        if seconds is not None and self._limit is None:
            self._limit = self._loop.call_later(seconds, self._finish)

    def _check_idle(self) -> None:
        left = self._heard + self._idle_timeout - self._loop.time()
        if left <= 0:
            self._fail(silent())
        else:
            self._idle = self._loop.call_later(left, self._check_idle)

    def _lost(self) -> None:
        if self._begun and (self._complete or not self._framed):
            self._finish()
        elif self._begun:
            self._fail(_broken_off())
        else:
            self._fail(unanswered())

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            # Looked at, or asyncio complains if its owner was cancelled in the same turn.
            self.done.exception()


def _broken_off() -> HubError:
    return HubError("upstream_incomplete_stream", "The connection to the model server broke off.")
