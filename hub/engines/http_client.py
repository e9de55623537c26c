"""How hub asks model servers small questions: one kind of session, bounded reads, typed failures.

The streams have a client of their own (``exchange.py``), with the same rules:

- **A fresh connection per request**, no keep-alive. llama.cpp closes the connection after every
  stream although it promises to keep it open, so a pooled client races with the FIN and loses
  requests that must not be repeated. The price is a handshake per prompt, none per token.
- **Nothing from the environment**: no proxy variables, no netrc, no cookies; callers follow no
  redirects. A prompt goes where the configuration says and nowhere else.
- **No bound on connections**: the dispatcher's window is that bound.

aiohttp sets TCP_NODELAY by itself. Its exceptions, and those of the operating system, are
``FAILURES``; ``failure`` says what each one means.
"""

from collections.abc import Mapping

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
)

from hub import __version__
from hub.errors import HubError

FAILURES = (ClientError, OSError)
"""Everything that a transport may raise; ``TimeoutError`` is an ``OSError``."""


def open_session(
    *, connect_timeout: float, idle_timeout: float, headers: Mapping[str, str] | None = None
) -> ClientSession:
    """A session in the running loop, to be closed by the caller. Timeouts are in seconds.

    ``idle_timeout`` is the longest silence, also before the first byte. Nor may a whole answer take
    longer than that once it is connected: these are small, and after a body whose chunks are broken
    aiohttp waits for the rest even if the connection is closed (seen in 3.14).
    """
    return ClientSession(
        connector=TCPConnector(limit=0, force_close=True),
        cookie_jar=DummyCookieJar(),
        # A stream of tiny chunks gains nothing from compression, and a compressor holds them back.
        headers={
            "Accept-Encoding": "identity",
            "User-Agent": f"hub/{__version__}",
            **(headers or {}),
        },
        timeout=ClientTimeout(
            total=connect_timeout + idle_timeout, connect=connect_timeout, sock_read=idle_timeout
        ),
        trust_env=False,
    )


async def read_body(response: ClientResponse, limit: int) -> bytes:
    """The body, or as much of it as tells that it has more than ``limit`` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def failure(error: ClientError | OSError) -> HubError:
    """What it means that a question got no answer."""
    match error:
        case ClientConnectorError() | ConnectionTimeoutError() | InvalidURL():
            return unreachable()
        case TimeoutError():
            return silent()
        case ClientResponseError():
            return not_http()
    return unanswered()


def unreachable() -> HubError:
    """Nobody took the connection."""
    return HubError("upstream_unavailable", "The model server cannot be reached.")


def unanswered() -> HubError:
    """The connection ended before the answer began."""
    return HubError(
        "upstream_unavailable", "The model server closed the connection without an answer."
    )


def silent() -> HubError:
    """Nothing came for too long."""
    return HubError("upstream_timeout", "The model server has been silent for too long.")


def not_http() -> HubError:
    """What came was something else."""
    return HubError("upstream_protocol_error", "The model server does not speak HTTP.")
