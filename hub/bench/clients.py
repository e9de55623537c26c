"""The load generator's clients: what those over HTTP and those over a WebSocket share.

A client is an ``asyncio.Protocol`` that reads its own bytes: a token costs it one read of the
socket at most, and no task.

A *stream* runs one response at a time. ``start`` asks for it, ``on_end`` is called when it has
ended, and the stream is free again then. Whatever goes wrong ends the response with an error code.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

from hub.bench.answer import Answer
from hub.bench.tally import Traffic
from hub.bench.wire import WireError
from hub.errors import HubError

UNREADABLE = (WireError, HubError, ValueError, KeyError, TypeError, AttributeError)
"""What reading something that does not follow the protocol may raise."""

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"

OnEnd = Callable[["Stream", Answer], None]


class Stream(Protocol):
    """What runs one response at a time."""

    @property
    def answer(self) -> Answer | None:
        """The response that runs."""
        ...

    def start(self, answer: Answer, request: bytes) -> None:
        """Ask for a response. The stream must be free."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """The server to aim at."""

    host: str
    port: int
    path: str = ""
    """What stands before ``/v1``."""
    key: str | None = None

    @classmethod
    def parse(cls, url: str, key: str | None = None) -> "Target":
        """Raises ``ValueError`` if it is no http address. ``/v1`` at its end may be there."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "ws") or not parts.hostname:
            raise ValueError(f"'{url}' is not an http:// address")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or 80, path, key)

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"


class _Connection(asyncio.Protocol):
    """One connection of a client. What comes once the client has dropped it is nobody's."""

    def __init__(self, client: "Client", traffic: Traffic) -> None:
        self._client = client
        self._traffic = traffic

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self.transport = cast(asyncio.Transport, transport)
        self._traffic.open += 1
        self._traffic.peak = max(self._traffic.peak, self._traffic.open)
        self._client.connected(self)

    def data_received(self, data: bytes) -> None:
        self._traffic.received += len(data)
        if self._client.connection is self:
            self._client.received(data)

    def eof_received(self) -> None:
        if self._client.connection is self:
            self._client.eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._traffic.open -= 1
        if self._client.connection is self:
            self._client.connection = None
            self._client.lost("connection_lost")


class Client:
    """One connection at a time, made when it is needed."""

    def __init__(self, target: Target, traffic: Traffic) -> None:
        """What goes over the wire is added to ``traffic``."""
        self.connection: _Connection | None = None
        self._target = target
        self._traffic = traffic
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def connected(self, connection: _Connection) -> None:
        if self._closed:
            connection.transport.abort()
        else:
            self.connection = connection
            self.opened()

    def opened(self) -> None:
        """The connection is there."""
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError

    def eof(self) -> None:
        """Nothing more will come."""

    def lost(self, code: str) -> None:
        """There is no connection any more, or there never was one; ``code`` says why."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection. What runs does not end; ``on_end`` is not called."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.transport.abort()

    def _write(self, data: bytes) -> None:
        """Over the connection, which must be there."""
        assert self.connection is not None
        self._traffic.sent += len(data)
        self.connection.transport.write(data)

    def _connect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: _Connection(self, self._traffic), self._target.host, self._target.port
            )
        except OSError:
            self._connecting = None
            self.lost("connection_failed")

    def _drop(self) -> None:
        """Close the connection, unless it is closed."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.transport.close()
