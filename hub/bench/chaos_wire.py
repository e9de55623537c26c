"""How a chaos run's clients talk to a node: one request or one connection at a time.

What a node answers is one of three things: what was asked for, ``Away`` (this node cannot, now: ask
another one), or ``Missing`` (there is no such response). Everything else is ``Nonsense``.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import aiohttp
import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from hub.api.sse import SseParser
from hub.errors import TABLE

Json = dict[str, Any]

CONNECTING = 3.0
"""Seconds for a connection to be there: a stopped process takes none."""


class Away(Exception):
    """Ask another node. Says why."""


class Missing(Exception):
    """There is no such response."""


class Nonsense(Exception):
    """Nobody may answer this."""


class Wire:
    """The connections of all clients."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._open: dict[object, Callable[[], None]] = {}

    @property
    def open(self) -> int:
        """Streams that are read."""
        return len(self._open)

    def cut(self, dice: random.Random, share: float) -> int:
        """Cut so many of the open streams; how many."""
        chosen = dice.sample([*self._open.values()], int(len(self._open) * share))
        for abort in chosen:
            abort()
        return len(chosen)

    async def ask(self, method: str, url: str, patience: float, **more: Any) -> Json:
        """One JSON answer."""
        with _failures():
            async with self._request(method, url, patience, **more) as answer:
                _check(answer.status, await answer.read())
                return dict(await answer.json())

    async def sse(
        self, method: str, url: str, patience: float, **more: Any
    ) -> AsyncGenerator[Json, None]:
        """The events of a stream until it ends or breaks off; ``Away`` after ``patience`` seconds
        of silence."""
        with _failures():
            async with self._request(method, url, patience, **more) as answer:
                if answer.status != 200:
                    _check(answer.status, await answer.read())
                # There is none any more when all of the answer has come.
                transport = answer.connection and answer.connection.transport
                with self._cutting(transport.abort) if transport else nullcontext():
                    parser = SseParser()
                    async for chunk in answer.content.iter_any():
                        for data in parser.feed(chunk):
                            if data == b"[DONE]":
                                return
                            yield _event(data)
        raise Away("the stream ended before the response")

    async def lanes(
        self, url: str, patience: float, messages: Sequence[Mapping[str, Any]]
    ) -> AsyncGenerator[Json, None]:
        """The events on all lanes of a new WebSocket to which these messages were sent; it ends
        with the caller, or ``Away``."""
        with _failures():
            async with connect(
                f"ws{url.removeprefix('http')}/v1/responses",
                open_timeout=CONNECTING,
                close_timeout=0.5,
                ping_interval=None,
                compression=None,
                # The library does not see the other's close behind a full queue.
                max_queue=None,
                max_size=None,
            ) as socket:
                with self._cutting(socket.transport.abort):
                    for message in messages:
                        await socket.send(orjson.dumps(message).decode())
                    while True:
                        async with asyncio.timeout(patience):
                            data = await socket.recv(decode=False)
                        yield _event(data)

    def _request(
        self, method: str, url: str, patience: float, **more: Any
    ) -> "aiohttp.client._RequestContextManager":
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECTING, sock_read=patience)
        return self._session.request(method, url, timeout=timeout, **more)

    @contextmanager
    def _cutting(self, abort: Callable[[], None]) -> Iterator[None]:
        key = object()
        self._open[key] = abort
        try:
            yield
        finally:
            del self._open[key]


@contextmanager
def _failures() -> Iterator[None]:
    """What breaks a connection means that another node is to be asked."""
    try:
        yield
    except ConnectionClosed as error:
        code = error.rcvd.code if error.rcvd else "lost"
        raise Away(f"WebSocket closed: {code}") from error
    except TimeoutError as error:
        raise Away("silence") from error
    except ConnectionRefusedError as error:
        raise Away("refused") from error
    except aiohttp.ClientConnectorError as error:
        raise Away("refused") from error
    except (aiohttp.ClientError, WebSocketException, OSError, EOFError) as error:
        raise Away(type(error).__name__) from error


def _event(data: bytes) -> Json:
    event: Json = orjson.loads(data)
    if event["type"] == "error":
        error = event.get("error") or event
        _check(event.get("status") or 500, orjson.dumps({"error": error}))
    return event


def _check(status: int, body: bytes) -> None:
    if status == 200:
        return
    try:
        code = str(orjson.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        raise Nonsense(f"status {status}: {body[:300]!r}") from None
    if code == "response_not_found":
        raise Missing(body.decode())
    if code in TABLE and TABLE[code].retryable and code != "server_error":
        raise Away(f"{status} {code}")
    raise Nonsense(f"status {status}: {body[:300]!r}")
