"""Making hub's connections from Python, for its clients: where to, whether, and why not."""

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.protocol import OPEN

from hub.errors import HubError
from hub.run import ClientError, Error, typed

MAX_EVENT = 64 << 20
"""Bytes of the largest event: the terminal one repeats the whole answer."""
CLOSE_TIMEOUT = 2.0
"""Seconds that the server has to answer a close frame."""
STABLE = 5.0
"""Seconds that a connection must have lived for its loss to count as a first one."""
COME_BACK = {1001, 1005, 1006, 1011, 1012, 1013}
"""Close codes after which to connect again; 1005 and 1006 stand for none."""
RETIRED = "websocket_connection_limit_reached"
"""The code of the error that ends a connection which is too old: what it refuses has not run."""
DRAINING = "shutting_down"
"""The same of a server that is about to stop: others may serve at the same address."""

_HINT = re.compile(r"retry in (\d{1,9}) ms")
"""When a server that closes a connection wants its client back, in the reason that it gives."""


def websocket_url(url: str) -> str:
    """The address of hub's WebSocket. Raises ``ValueError`` if ``url`` is not one of a server."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    # Looking at the port raises, too, if it is none.
    if scheme not in ("ws", "wss") or not parts.hostname or parts.port == 0:
        raise ValueError(f"not a ws:// or http:// URL: {url!r}")
    path = parts.path.rstrip("/")
    path = "/v1/responses" if path in ("", "/v1") else path
    return parts._replace(scheme=scheme, path=path, fragment="").geturl()


async def dial(url: str, headers: Mapping[str, str]) -> ClientConnection:
    """A new connection; the caller closes it. Raises ``ClientError`` or ``HubError``."""
    try:
        return await connect(
            url,
            additional_headers=headers,
            compression=None,
            max_size=MAX_EVENT,
            close_timeout=CLOSE_TIMEOUT,
        )
    except InvalidStatus as refused:
        raise _refusal(refused) from None
    except (OSError, EOFError, WebSocketException) as error:
        text = f"Cannot connect to {url}: {error or type(error).__name__}."
        hope = not isinstance(error, InvalidURI)
        raise ClientError("connection_refused", text, retryable=hope) from error


async def write(
    socket: ClientConnection,
    todo: asyncio.Event,
    following: Callable[[], bytes | None],
    may_close: Callable[[], bool],
) -> None:
    """Send what ``following`` gives, whenever ``todo`` is set, until the connection is closed.

    Closes it itself when nothing is left to send and ``may_close`` says so.
    """
    try:
        while True:
            await todo.wait()
            todo.clear()
            while socket.state is OPEN and (frame := following()) is not None:
                await socket.send(frame, text=True)
            if may_close():
                await socket.close()
                return
    except ConnectionClosed:
        return


def delay(attempt: int, first: float, most: float, reason: str = "") -> float:
    """Seconds until the next attempt, by chance, so that many clients do not come at once.

    If a connection did not just fail again, the ``reason`` for which it was closed may say when to
    come back: that is kept to, up to ``most``.
    """
    # The exponent is bounded, too: a float overflows at 1024.
    wait = random.uniform(0, min(most, first * 2 ** min(attempt, 30)))
    if (hint := _HINT.search(reason)) is None:
        return wait
    asked = min(most, int(hint[1]) / 1000) * random.uniform(1, 1.5)
    return asked if attempt <= 1 else max(asked, wait)


def retryable(error: Error) -> bool:
    """Whether the same may succeed later."""
    return (error.row if isinstance(error, HubError) else error).retryable


def why(closed: ConnectionClosed) -> tuple[int, str]:
    """The code and the reason of a close."""
    # Who closed first has the reason; if nobody did, the connection was lost.
    frame = closed.rcvd if closed.rcvd_then_sent is not False else closed.sent
    frame = frame or closed.sent
    return (1006, "the connection was lost") if frame is None else (frame.code, frame.reason)


def _refusal(refused: InvalidStatus) -> Error:
    """Why the handshake was refused."""
    status = refused.response.status_code
    try:
        return typed(orjson.loads(refused.response.body or b"")["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        # Not an error of hub's: a proxy, or another server.
        hope = status >= 500 or status == 429
        text = f"The server refused the connection with HTTP status {status}."
        return ClientError("connection_refused", text, retryable=hope)
