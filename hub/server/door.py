"""The door: everything between the listening sockets and aiohttp.

Sockets are accepted here rather than by the loop's own server, since that would know of an address
only when a TLS handshake is over, and would leave nobody out. Who is too many is told so and closed
at once, before anything is made for it. Who is let in has so long for its TLS handshake and the
head of its request, and so long for a body; a connection that waits between two requests only has
to be complete once it has begun.

``hub.server.protocol`` says what a connection is doing; ``Admitted`` keeps the time.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from aiohttp import StreamReader

from hub.errors import HubError
from hub.server.crowd import ADDRESS, TOTAL, Crowd
from hub.server.proxies import Proxies

logger = logging.getLogger("hub.door")

BACKLOG = 1024
AT_ONCE = 64
"""Sockets that are accepted in one turn of the loop."""
REST = 1.0
"""Seconds for which nothing is accepted after the system had no file left for it."""
CHECK = 1.0
"""At most so many seconds between two looks at the time that connections have taken."""
BODY_RATE = 16 * 1024
"""A body that comes may take a second longer for so many bytes."""
CLOSING = 5.0
"""Seconds that the other side has to end TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 is no limit."""

    sockets: int = 0
    """Open ones in all."""
    per_address: int = 0
    """Open ones of one address; trusted proxies' are those of the addresses behind them."""
    head_time: float = 10.0
    """Seconds for a TLS handshake, and for the head of a request."""
    body_time: float = 30.0
    """Seconds for the body of a request, and for an answer that is no stream to be read; a second
    more for each ``BODY_RATE`` bytes."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Who is inside, and who was left out."""

    sockets: int
    limit: int
    addresses: int
    half_open: int
    """Sockets that have not sent the complete head of a request, but have to."""
    refused: Mapping[str, int]
    timed_out: Mapping[str, int]


class Door:
    """See the top of this file. ``open`` it once, then ``close`` it."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        proxies: Proxies | None = None,
        tls: ssl.SSLContext | None = None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        """``listeners``: sockets that listen already, to accept from instead of making any."""
        self.limits = limits or Limits()
        self.proxies = proxies or Proxies()
        self.tls = tls
        """For connections that come from now on; it may be replaced, but not by nothing."""
        self._crowd = Crowd(self.limits.sockets, self.limits.per_address)
        self._listeners = [*listeners]
        self._entering: set[asyncio.Task[None]] = set()
        self._heads: dict[Admitted, float] = {}
        self._bodies: dict[Admitted, tuple[float, StreamReader]] = {}
        self._check: asyncio.TimerHandle | None = None
        self._refused: Counter[str] = Counter({ADDRESS: 0, TOTAL: 0})
        self._timed_out: Counter[str] = Counter({"handshake": 0, "head": 0, "body": 0, "answer": 0})

    def statistics(self) -> Statistics:
        return Statistics(
            sockets=self._crowd.inside,
            limit=self.limits.sockets,
            addresses=self._crowd.addresses,
            half_open=len(self._heads),
            refused=dict(self._refused),
            timed_out=dict(self._timed_out),
        )

    # Coming in.

    async def open(
        self, host: str, port: int, make: Callable[["Admitted"], asyncio.Protocol]
    ) -> int:
        """Listen, and ``make`` a protocol for everybody who is let in: it has to call ``left``.
        Returns the port. Raises ``OSError``."""
        self._loop, self._make = asyncio.get_running_loop(), make
        if not self._listeners:
            self._listeners = await listen(host, port)
        for listener in self._listeners:
            self._listen(listener)
        chosen: int = self._listeners[0].getsockname()[1]
        return chosen

    def close(self) -> None:
        """Let nobody in any more. Who is inside stays."""
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener)
                listener.close()
        for task in self._entering:
            task.cancel()

    def _listen(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # It would be tried again in every turn of the loop.
                logger.error("no connection can be accepted for a moment: %s", error.strerror)
                self._loop.remove_reader(listener)
                self._loop.call_later(REST, self._listen, listener)
                return
            sock.setblocking(False)
            self._enter(sock, peer[0])

    def _enter(self, sock: socket.socket, peer: str) -> None:
        # What is behind a proxy is told apart later, request by request.
        address = None if self.proxies.trusts(peer) else peer
        reason = self._crowd.enter(address)
        if reason is not None:
            self._refused[reason] += 1
            if self.tls is None:
                # If it cannot take even that at once, it gets nothing.
                _try_to_send(sock, _REFUSALS[reason])
            sock.close()
            return
        task = self._loop.create_task(self._welcome(sock, Admitted(self, address)))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)

    async def _welcome(self, sock: socket.socket, admitted: "Admitted") -> None:
        """Make a transport of a socket, after its TLS handshake."""
        secure = self.tls is not None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(admitted),
                sock,
                ssl=self.tls,
                ssl_handshake_timeout=(self.limits.head_time or None) if secure else None,
                ssl_shutdown_timeout=CLOSING if secure else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            # It went away, it speaks no TLS, or not fast enough. Most who try that are no clients,
            # so nothing is logged.
            if isinstance(error, ConnectionAbortedError):
                self._timed_out["handshake"] += 1
            admitted.left()
            if isinstance(error, asyncio.CancelledError):
                raise

    # Whose it is that came through a proxy.

    def claim(self, address: str) -> None:
        """Count something as an address's that a trusted proxy has sent for it, and ``release`` it.
        Raises ``HubError`` ``rate_limit_exceeded``."""
        if (reason := self._crowd.claim(address)) is not None:
            self._refused[reason] += 1
            raise refusal(reason)

    def release(self, address: str) -> None:
        """Undo a ``claim``."""
        self._crowd.release(address)

    # Taking its time.

    def _look_again(self) -> None:
        if self._check is None and (self._heads or self._bodies):
            limits = (self.limits.head_time, self.limits.body_time)
            wait = min(CHECK, *(limit / 2 for limit in limits if limit))
            self._check = self._loop.call_later(wait, self._look)

    def _look(self) -> None:
        """Close who has taken too long."""
        self._check = None
        now = self._loop.time()
        for admitted, since in [*self._heads.items()]:
            if now - since < self.limits.head_time:
                # Those behind it have begun later.
                break
            self._timed_out["head"] += 1
            admitted.too_slow()
        for admitted, (since, body) in [*self._bodies.items()]:
            if not admitted.reading:
                # hub itself does not read on, so that its time does not count.
                self._bodies[admitted] = now, body
            elif now - since >= self.limits.body_time + body.total_bytes / BODY_RATE:
                self._timed_out["body"] += 1
                del self._bodies[admitted]
                body.set_exception(request_timeout())
        self._look_again()


class Admitted:
    """One socket that was let in, and what it is doing, as its protocol says."""

    __slots__ = ("_address", "_begun", "_door", "_left", "_transport")

    def __init__(self, door: Door, address: str | None) -> None:
        self._door = door
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._begun = False
        self._left = False

    def made(self, transport: asyncio.Transport) -> None:
        """It has a transport: from now on it has to send a request."""
        self._transport = transport
        self._wait_for_head()

    def sends_head(self) -> None:
        """It has sent something of a request's head, and not all of it."""
        self._begun = True
        self._wait_for_head()

    def sent_head(self, body: StreamReader) -> None:
        """It has sent the head, or several; this is the last one's body."""
        self._door._heads.pop(self, None)
        self._begun = False
        if self._door.limits.body_time and not body.is_eof():
            self._door._bodies[self] = self._door._loop.time(), body
            self._door._look_again()
            body.on_eof(self._sent_body)

    def time_for_answer(self, size: int) -> float | None:
        """Seconds that it has to read so many bytes."""
        limit = self._door.limits.body_time
        return limit + size / BODY_RATE if limit else None

    def reads_too_slowly(self) -> None:
        """It has not read an answer in that time: it gets no more."""
        self._door._timed_out["answer"] += 1
        if self._transport is not None:
            self._transport.abort()

    def left(self) -> None:
        """Its socket is closed. No effect if it was before."""
        self.handed_over()
        if not self._left:
            self._left = True
            self._door._crowd.leave(self._address)

    def handed_over(self) -> None:
        """It speaks HTTP no more, and has all the time of the world. ``left`` is still to come."""
        self._door._heads.pop(self, None)
        self._sent_body()
        self._transport = None

    # For the door.

    @property
    def reading(self) -> bool:
        """Whether hub reads what it sends."""
        return self._transport is None or self._transport.is_reading()

    def too_slow(self) -> None:
        """Close it, and say why if it has begun to say something."""
        transport = self._transport
        self.handed_over()
        if transport is not None:
            if self._begun:
                transport.write(_TOO_SLOW)
            transport.close()

    def _wait_for_head(self) -> None:
        if self._door.limits.head_time:
            self._door._heads.setdefault(self, self._door._loop.time())
            self._door._look_again()

    def _sent_body(self) -> None:
        self._door._bodies.pop(self, None)


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """What TLS is spoken with. Reads both files. Raises ``ValueError`` that says what is wrong."""
    for path in (cert, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A password would be asked for on the terminal.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        why = (
            "they do not belong together"
            if error.reason == "KEY_VALUES_MISMATCH"
            else ("PEM is needed, the certificate with its chain, the key without a password")
        )
        raise ValueError(f"{cert} and {key} cannot be used: {why}") from None
    return context


def refusal(reason: str) -> HubError:
    """The error for one too many."""
    if reason == ADDRESS:
        return HubError(
            "rate_limit_exceeded", "Too many connections from this address.", retry_after=1.0
        )
    return HubError("too_many_connections", "Too many connections are open.", retry_after=1.0)


def request_timeout() -> HubError:
    """The error for a request that does not come to its end."""
    return HubError("request_timeout", "The request did not arrive in time.")


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host; port 0 is a free one. Raises ``OSError``."""
    places = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, place in dict.fromkeys(places):
            listeners.append(bind(family, place))
            listeners[-1].listen(BACKLOG)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def bind(family: int, place: object, *, beside: bool = False) -> socket.socket:
    """A socket at a ``place``, which does not listen yet. ``beside``: others that were made so may
    be there, too. Raises ``OSError``."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if beside:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setblocking(False)
        bound.bind(place)  # type: ignore[arg-type]  # what getaddrinfo gives
    except OSError:
        bound.close()
        raise
    return bound


def _try_to_send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError:
        return


def _raw(error: HubError, words: str) -> bytes:
    """An HTTP answer to who has not even asked."""
    body = orjson.dumps({"error": error.body()})
    head = f"HTTP/1.1 {error.status} {words}\r\nContent-Type: application/json; charset=utf-8\r\n"
    if error.retry_after is not None:
        head += f"Retry-After: {error.retry_after:.0f}\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


_REFUSALS = {
    ADDRESS: _raw(refusal(ADDRESS), "Too Many Requests"),
    TOTAL: _raw(refusal(TOTAL), "Service Unavailable"),
}
_TOO_SLOW = _raw(request_timeout(), "Request Timeout")
