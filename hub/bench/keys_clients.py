"""Editors' clients: a request on a socket of its own, and a WebSocket with lanes.

llama.vim starts a ``curl`` for each request, llama.vscode and others keep no connection for long
either: so a ``Shot`` is a fresh connection, one request, one answer. What it costs to connect is in
all its times. The ``Socket`` is what a plugin for hub would have: one for all its lanes.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from hub.api.sse import SseParser
from hub.bench import wire
from hub.bench.wire import FrameReader, HttpReader, WireError
from hub.errors import HubError

LINES_BEFORE, LINES_BEHIND = 256, 64
"""How much of a file is sent: what llama.vim sends by default."""
UNREADABLE = (WireError, HubError, ValueError, KeyError, TypeError, AttributeError, IndexError)


def infill(before: str, behind: str, *, most: int = 128, budget: int | None = 250) -> bytes:
    """The body of a request as llama.vim makes it: not streamed.

    ``budget``: the ms after which a line's end ends the answer; ``None``: none.
    """
    above, line = before.rpartition("\n")[::2]
    fields = ["content", "timings/predicted_n", "timings/predicted_ms", "truncated"]
    return orjson.dumps(
        {
            "id_slot": 0,
            "input_prefix": f"{above}\n" if above else "",
            "prompt": line,
            "input_suffix": behind,
            "input_extra": [],
            "n_predict": most,
            "stop": [],
            "top_k": 40,
            "top_p": 0.9,
            "samplers": ["top_k", "top_p", "infill"],
            "stream": False,
            "cache_prompt": True,
            "t_max_prompt_ms": 500,
            "model": "",
            "response_fields": fields,
            **({} if budget is None else {"t_max_predict_ms": budget}),
        }
    )


def completion(before: str, behind: str, *, stream: bool, most: int = 128) -> bytes:
    """The body of a request to ``/v1/completions`` that fills in the middle."""
    return orjson.dumps(
        {"model": "", "prompt": before, "suffix": behind, "max_tokens": most, "stream": stream}
    )


def chat(text: str, most: int) -> bytes:
    """The body of a streamed chat completion."""
    return orjson.dumps(
        {
            "model": "",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": most,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def window(before: str, behind: str) -> tuple[str, str]:
    """What of a file a request holds."""
    above = before.rsplit("\n", LINES_BEFORE + 1)
    below = behind.split("\n", LINES_BEHIND)
    return "\n".join(above[-LINES_BEFORE - 1 :]), "\n".join(below[:LINES_BEHIND])


class Shot(asyncio.Protocol):
    """One request on a connection of its own. ``fire`` it, then await ``ended``, or ``close`` it.

    ``on_text`` is called with each piece of text, when it comes. ``ended`` results in an error, or
    in "" if the answer is whole; after ``close``, too.
    """

    def __init__(
        self, url: str, path: str, body: bytes, on_text: Callable[[str], None] | None = None
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._request = wire.post(f"{self._host}:{self._port}", path, body)
        self._on_text = on_text
        self.text = ""
        self.begun: float | None = None
        """When it was asked for: before the connection was made."""
        self.first: float | None = None
        """When the first text came."""
        self.done: float | None = None
        """When the answer was whole."""
        self.tokens = 0
        """Of the answer, if it tells."""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._http = HttpReader()
        self._sse: SseParser | None = None
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._dialing: asyncio.Task[None] | None = None

    def fire(self) -> "Shot":
        """Connect and send."""
        self.begun = time.monotonic()
        self._dialing = asyncio.create_task(self._dial())
        return self

    def close(self) -> None:
        """Go away, as an editor that does not want the answer any more."""
        if self._dialing is not None:
            self._dialing.cancel()
        if self._transport is not None:
            self._transport.close()
        self._end("")

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, self._host, self._port)
        except OSError as error:
            self._end(f"connection_failed: {error}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        try:
            self._read(self._http.feed(data))
        except UNREADABLE as error:
            self._end(f"unreadable: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("connection_lost")

    def _read(self, body: bytes) -> None:
        if self._sse is None and self._http.headers.get(b"content-type", b"").startswith(
            b"text/event-stream"
        ):
            self._sse = SseParser()
        if self._sse is None:
            self._body.append(body)
        else:
            for payload in self._sse.feed(body):
                if payload != b"[DONE]":
                    self._says(orjson.loads(payload))
        if self._http.done:
            if self._sse is None:
                told = orjson.loads(b"".join(self._body))
                if self._http.status != 200:
                    self._end(f"{self._http.status}: {told}")
                    return
                self._says(told)
            self._end("")

    def _says(self, told: dict[str, Any]) -> None:
        if "error" in told:
            raise ValueError(str(told["error"]))
        if told.get("usage"):
            self.tokens = told["usage"]["completion_tokens"]
        text = told.get("content")
        for choice in told.get("choices", ()):
            text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        if text:
            self.first = self.first or time.monotonic()
            self.text += text
            if self._on_text is not None:
                self._on_text(text)

    def _end(self, error: str) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
            self.done = time.monotonic()
            if self._transport is not None:
                self._transport.close()


class Socket(asyncio.Protocol):
    """A WebSocket of hub's for completions. ``open`` it, then ``send``; ``close`` it.

    What it does not understand ends it, and so does an error of ``on_event``: the next ``send``
    raises it.
    """

    def __init__(self, url: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        """``on_event`` is called with each message of hub's."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._on_event = on_event
        self._handshake: HttpReader | None = HttpReader()
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure = ""

    async def open(self) -> "Socket":
        """Raises ``OSError`` or ``WireError``."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self._host, self._port)
        await self._opened
        return self

    def send(self, message: dict[str, Any]) -> None:
        """Send a message of JSON. Raises ``WireError``: the connection has ended."""
        assert self._transport is not None, "open it first"
        if self._failure:
            raise WireError(self._failure)
        self._transport.write(wire.client_frame(wire.TEXT, orjson.dumps(message)))

    def close(self) -> None:
        """Go away without a word, as an editor that is killed."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(wire.upgrade(f"{self._host}:{self._port}", "/v1/responses"))

    def data_received(self, data: bytes) -> None:
        try:
            if self._handshake is not None:
                self._handshake.feed(data)
                if not self._handshake.done:
                    return
                wire.check_upgrade(self._handshake)
                data, self._handshake = self._handshake.rest, None
                self._opened.set_result(None)
            for opcode, payload in self._frames.feed(data):
                if opcode == wire.TEXT:
                    self._on_event(orjson.loads(payload))
                elif opcode == wire.PING and self._transport is not None:
                    self._transport.write(wire.client_frame(wire.PONG, payload))
        except UNREADABLE as error:
            self._fail(f"{type(error).__name__}: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was closed")

    def _fail(self, failure: str) -> None:
        self._failure = self._failure or failure
        if not self._opened.done():
            self._opened.set_exception(WireError(failure))
