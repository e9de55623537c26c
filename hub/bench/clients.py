"""The load generator's clients: a stream over HTTP, and the lanes of a WebSocket.

A client is an ``asyncio.Protocol`` that reads its own bytes: a token costs it one read of the
socket at most, and no task. JSON is read by orjson: to find the three fields by searching the bytes
takes as long (0.50 against 0.49 us for a frame of 195 bytes).

A *stream* runs one response at a time. ``start`` asks for it, ``on_end`` is called when it has
ended, and the stream is free again then. Whatever goes wrong ends the response with an error code.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

import orjson

from hub.api.sse import SseParser
from hub.bench import wire
from hub.bench.answer import Answer, chat_event, http_error, responses_event
from hub.bench.plan import PATHS, Mode
from hub.bench.wire import FrameReader, HttpReader, WireError
from hub.errors import HubError

UNREADABLE = (WireError, HubError, ValueError, KeyError, TypeError, AttributeError)
"""What reading something that does not follow the protocol may raise."""

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

    def __init__(self, client: "_Client") -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self.transport = cast(asyncio.Transport, transport)
        self._client.connected(self)

    def data_received(self, data: bytes) -> None:
        if self._client.connection is self:
            self._client.received(data)

    def eof_received(self) -> None:
        if self._client.connection is self:
            self._client.eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client.connection is self:
            self._client.connection = None
            self._client.lost("connection_lost")


class _Client:
    """What both clients share: one connection at a time, made when it is needed."""

    def __init__(self, target: Target) -> None:
        self.connection: _Connection | None = None
        self._target = target
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def connected(self, connection: _Connection) -> None:
        if self._closed:
            connection.transport.abort()
        else:
            self.connection = connection
            self.opened(connection.transport)

    def opened(self, transport: asyncio.Transport) -> None:
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

    def _connect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: _Connection(self), self._target.host, self._target.port
            )
        except OSError:
            self._connecting = None
            self.lost("connection_failed")

    def _drop(self) -> None:
        """Close the connection, unless it is closed."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.transport.close()


class SseStream(_Client):
    """One response at a time over HTTP, on a connection that is kept as long as it can be."""

    def __init__(self, target: Target, mode: Mode, on_end: OnEnd) -> None:
        super().__init__(target)
        self.answer: Answer | None = None
        self._path = target.path + PATHS[mode]
        self._chat = mode == "chat"
        self._on_end = on_end
        self._request = b""
        self._http = HttpReader()
        self._sse: SseParser | None = None
        """Set once the head has said that the answer is a stream; errors are none."""
        self._body: list[bytes] = []

    def start(self, answer: Answer, request: bytes) -> None:
        assert self.answer is None, "one response at a time"
        self.answer = answer
        self._request = wire.post(self._target.authority, self._path, request, self._target.key)
        if self.connection is None:
            self._connect()
        else:
            self.opened(self.connection.transport)

    def opened(self, transport: asyncio.Transport) -> None:
        if self.answer is not None:
            self._http.reset()
            self._sse = None
            self._body.clear()
            self.answer.begun = self.answer.begun or time.monotonic()
            transport.write(self._request)

    def received(self, data: bytes) -> None:
        now = time.monotonic()
        answer = self.answer
        if answer is None:
            return
        try:
            body = self._http.feed(data)
            if self._sse is None and self._http.start:
                kind = self._http.headers.get(b"content-type", b"")
                if self._http.status == 200 and kind.startswith(b"text/event-stream"):
                    self._sse = SseParser()
            if self._sse is None:
                self._body.append(body)
            else:
                for payload in self._sse.feed(body):
                    self._event(answer, payload, now)
        except UNREADABLE:
            self._drop()
            self.lost("protocol_error")
            return
        if self._http.done:
            self._done(now)

    def eof(self) -> None:
        # The connection closes by itself now.
        self.connection = None
        if self.answer is not None:
            try:
                self._http.feed_eof()
            except WireError:
                self.lost("connection_lost")
            else:
                self._done(time.monotonic())

    def lost(self, code: str) -> None:
        if self.answer is not None:
            self._end(self.answer, time.monotonic(), code)

    def _event(self, answer: Answer, payload: bytes, now: float) -> None:
        if payload == b"[DONE]":
            if answer.ended is None and self._chat:
                answer.end(now)
        elif answer.ended is not None:
            answer.error = answer.error or "event_after_end"
        elif self._chat:
            chat_event(answer, orjson.loads(payload), now)
        else:
            responses_event(answer, orjson.loads(payload), now)

    def _done(self, now: float) -> None:
        """The message is whole."""
        answer = self.answer
        assert answer is not None
        if not self._http.keeps_alive:
            self._drop()
        if answer.ended is not None:
            self._end(answer, now, None)
        elif self._sse is not None:
            self._end(answer, now, "incomplete_stream")
        else:
            try:
                failure = orjson.loads(b"".join(self._body))
            except ValueError:
                failure = None
            self._end(answer, now, http_error(self._http.status, failure))

    def _end(self, answer: Answer, now: float, code: str | None) -> None:
        if answer.ended is None:
            answer.end(now, code)
        else:
            answer.error = answer.error or code
        self.answer = None
        self._on_end(self, answer)


class Lane:
    """A lane of a ``LaneConnection``: a stream."""

    def __init__(self, connection: "LaneConnection", name: str | None) -> None:
        self.connection = connection
        self.name = name
        """``None``: the default lane."""
        self.answer: Answer | None = None

    def start(self, answer: Answer, request: bytes) -> None:
        assert self.answer is None, "one response at a time"
        self.answer = answer
        self.connection.send(answer, request)


class LaneConnection(_Client):
    """One WebSocket with lanes. Connects when it is first used, and again when it was lost."""

    def __init__(
        self, target: Target, lanes: int, on_end: OnEnd, on_stray: Callable[[str], None]
    ) -> None:
        """``on_stray`` is told the code of what belongs to no response that runs."""
        super().__init__(target)
        names = [None] if lanes == 1 else [f"lane{number}" for number in range(lanes)]
        self.lanes = {name: Lane(self, name) for name in names}
        self._on_end = on_end
        self._on_stray = on_stray
        self._handshake: HttpReader | None = None
        self._frames = FrameReader()
        self._waiting: list[tuple[Answer, bytes]] = []
        """What is sent when the connection is open."""

    def send(self, answer: Answer, message: bytes) -> None:
        """For a lane: ask for a response."""
        if self.connection is not None and self._handshake is None:
            answer.begun = answer.begun or time.monotonic()
            self.connection.transport.write(wire.client_frame(wire.TEXT, message))
            return
        self._waiting.append((answer, message))
        if self.connection is None:
            self._connect()

    def opened(self, transport: asyncio.Transport) -> None:
        self._handshake = HttpReader()
        self._frames = FrameReader()
        path = self._target.path + PATHS["lanes"]
        transport.write(wire.upgrade(self._target.authority, path, self._target.key))

    def received(self, data: bytes) -> None:
        now = time.monotonic()
        try:
            if self._handshake is not None:
                self._handshake.feed(data)
                if not self._handshake.done:
                    return
                data = self._upgraded(self._handshake)
            for opcode, payload in self._frames.feed(data):
                if opcode == wire.TEXT:
                    self._event(orjson.loads(payload), now)
                else:
                    self._control(opcode, payload)
        except UNREADABLE:
            self._drop()
            self.lost("protocol_error")

    def lost(self, code: str) -> None:
        self._waiting.clear()
        for lane in self.lanes.values():
            answer, lane.answer = lane.answer, None
            if answer is not None:
                answer.end(time.monotonic(), code)
                self._on_end(lane, answer)

    def close(self) -> None:
        for lane in self.lanes.values():
            lane.answer = None
        super().close()

    def _upgraded(self, handshake: HttpReader) -> bytes:
        wire.check_upgrade(handshake)
        self._handshake = None
        waiting, self._waiting = self._waiting, []
        for answer, message in waiting:
            self.send(answer, message)
        return handshake.rest

    def _event(self, event: dict[str, object], now: float) -> None:
        lane = self.lanes.get(cast("str | None", event.get("stream_id")))
        answer = None if lane is None else lane.answer
        if lane is None or answer is None:
            error = event.get("error")
            code = str(error.get("code")) if isinstance(error, dict) else "event_after_end"
            self._on_stray(code)
        elif responses_event(answer, event, now):
            lane.answer = None
            self._on_end(lane, answer)

    def _control(self, opcode: int, payload: bytes) -> None:
        if self.connection is None:
            return
        if opcode == wire.PING:
            self.connection.transport.write(wire.client_frame(wire.PONG, payload))
        elif opcode == wire.CLOSE:
            self.connection.transport.write(wire.client_frame(wire.CLOSE, payload[:2]))
            self._drop()
            self.lost(f"closed_{int.from_bytes(payload[:2]) or 1005}")
