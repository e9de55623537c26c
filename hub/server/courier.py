"""The courier: delivers the webhooks that are due.

One task reads the rows of the store. What it has read waits in a *lane* per endpoint, each with
workers of its own: an endpoint that hangs or fails holds up nobody else.

Endpoints come from the configuration, never from requests. Even so hub connects to public addresses
only (``hub.server.addresses``), unless told otherwise: each address is looked at when a name has
been resolved, all of them, and once more when the socket is made, which is the door that literal
addresses pass, too. No redirect is followed and no proxy asked, as both would lead around that.
"""

import asyncio
import errno
import logging
import random
import socket
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aiohttp import (
    AddrInfoType,
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    ThreadedResolver,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import Webhook
from yarl import URL

from hub import __version__
from hub.errors import HubError
from hub.server.addresses import is_public
from hub.server.webhooks import Endpoint, Outcome, next_try, outcome, signed
from hub.store.base import DELIVERY_HOLD, Delivery

logger = logging.getLogger("hub.webhooks")

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds that one try may take, from looking up the name to the end of the answer."""

AT_ONCE = 8
"""Tries that run at once, per endpoint."""
PAGE = 128
"""Rows that a read asks for beyond those that are held already."""
MOST_HELD = 16_384
"""Due rows that are held in memory, of all endpoints, about 1 KiB each. Beyond that an endpoint
with a longer backlog does hold up the others: those who have been due the longest go first."""
READ_RATE = 10_000.0
"""Rows per second that are read at most, so that a long backlog is not read at every wake-up."""
HORIZON = 900.0
"""Seconds that the courier sleeps at most: only a wall clock that was set makes it sleep too long,
and then by no more than this."""
SHARED_HORIZON = DELIVERY_HOLD / 2
"""The same where nodes share the store: what is read stays a node's, and what a dead one has left
is found."""
PAUSE = 5.0
"""Seconds until the store is asked again after it has failed."""
ANSWER = 64 * 1024
"""Bytes of an answer's body that are read, and thrown away, before the connection is closed."""

FAILURES = (ClientError, OSError)
"""Everything that a transport may raise; ``TimeoutError`` is an ``OSError``."""


# The transport.


Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]
"""POSTs a body with headers to a URL and gives the status; raises one of ``FAILURES``."""
Transport = Callable[[], AbstractAsyncContextManager[Post]]


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses: a name with any other one does not resolve at all."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            if not is_public(one["host"]):
                raise _private(f"{host} is at {one['host']}, which")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def public_socket(info: AddrInfoType) -> socket.socket:
    """A socket for an address that is about to be connected to, if it is public."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _private(str(address[0]))
    return socket.socket(family, kind, protocol)


def _private(what: str) -> PermissionError:
    return PermissionError(errno.EACCES, f"{what} is not a public address")


@asynccontextmanager
async def open_transport(
    *, allow_private: bool = False, patience: float = TIMEOUT
) -> AsyncIterator[Post]:
    """HTTP to endpoints, in the running loop. ``patience``: seconds for a whole try."""
    guards: dict[str, Any] = {}
    if not allow_private:
        guards = {
            "resolver": PublicResolver(ThreadedResolver()),
            "socket_factory": public_socket,
        }
    session = ClientSession(
        # The lanes bound the connections. aiohttp keeps what a name resolved to for 10 s, after the
        # check; so tries for one endpoint share a lookup, and a slow one takes one thread.
        connector=TCPConnector(limit=0, force_close=True, **guards),
        cookie_jar=DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": f"hub/{__version__}"},
        timeout=ClientTimeout(total=patience),
        trust_env=False,
        auto_decompress=False,
    )

    async def post(url: str, headers: Mapping[str, str], body: bytes) -> int:
        async with session.post(
            URL(url), data=body, headers=headers, allow_redirects=False
        ) as response:
            size = 0
            # It has answered; what the rest of the answer is like changes nothing.
            with suppress(*FAILURES):
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    if size > ANSWER:
                        break
            return response.status

    async with session:
        yield post


# The courier.


class Outstanding(Protocol):
    """What a courier needs of a store; the contract is that of ``hub.store.base``."""

    def deliveries(self, now: float, limit: int) -> Awaitable[Sequence[Delivery]]: ...

    def retry(self, id: str, next_at: float) -> Awaitable[None]: ...

    def delivered(self, id: str) -> Awaitable[None]: ...


UNKNOWN = "none"
"""The endpoint of what is for a URL that is not configured."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a courier holds, and what it has done since it was made: each by endpoint. Those are
    numbered from 0, as they are configured; their URLs may hold secrets."""

    held: dict[str, int] = field(default_factory=dict)
    """Due, and read from the store: waiting for a worker, or being tried."""
    tried: dict[str, int] = field(default_factory=dict)
    """Tries that are over."""
    delivered: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    """Tries, not webhooks."""
    given_up: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Lane:
    """One endpoint's share of what is due."""

    waiting: deque[Delivery] = field(default_factory=deque)
    workers: int = 0


class Courier:
    """Delivers what is due. ``start`` it in a running loop; call ``wake`` when rows were added.

    ``now`` is the wall clock (Unix, s) and ``chance`` gives numbers in [0, 1). What is for a URL
    that is not configured (any more) counts as a failure: it goes out if the URL comes back.
    """

    def __init__(
        self,
        store: Outstanding,
        endpoints: Iterable[Endpoint],
        *,
        allow_private: bool = False,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        transport: Transport | None = None,
        most_held: int = MOST_HELD,
        horizon: float = HORIZON,
    ) -> None:
        self._store = store
        self._keys: dict[str, list[Webhook]] = {}
        for endpoint in endpoints:
            self._keys.setdefault(endpoint.url, []).append(Webhook(endpoint.key))
        self._names = {url: str(number) for number, url in enumerate(self._keys)}
        self._now = now
        self._chance = chance
        self._transport = transport or (lambda: open_transport(allow_private=allow_private))
        self._most_held = most_held
        self._horizon = horizon
        self._task: asyncio.Task[None] | None = None
        self._lanes: dict[str, _Lane] = {}
        self._held: dict[str, str] = {}
        """The endpoints' names by the rows' ids."""
        self._settled: set[str] = set()
        """What may leave ``_held`` when the next read begins, not before: a read that is under way
        may have seen the row as it was."""
        self._stirred = asyncio.Event()
        self._wanted = True
        """Read, whatever the time is."""
        self._crowded = False
        """More is due than is held."""
        self._alarm = 0.0
        """When to read at the latest."""
        self._tried: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._given_up: Counter[str] = Counter()

    def start(self) -> None:
        """Begin, with what an earlier process left."""
        assert self._task is None, "the courier is started once"
        self._task = asyncio.create_task(self._run(), name="courier")
        self._task.add_done_callback(_report)

    async def stop(self) -> None:
        """End. A try that is under way is cut off, and repeated after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def wake(self) -> None:
        """Rows were added. On the event loop; cheap enough for every completion."""
        self._wanted = True
        self._stirred.set()

    def statistics(self) -> Statistics:
        """Plain, without asking the store."""
        held = Counter(name for id, name in self._held.items() if id not in self._settled)
        counts = (held, self._tried, self._delivered, self._failed, self._given_up)
        names = [*self._names.values()]
        if any(UNKNOWN in count for count in counts):
            names.append(UNKNOWN)
        return Statistics(*({name: count[name] for name in names} for count in counts))

    def _name(self, row: Delivery) -> str:
        return self._names.get(row.url, UNKNOWN)

    async def _run(self) -> None:
        async with self._transport() as post, asyncio.TaskGroup() as workers:
            while True:
                while not self._wanted and (delay := self._alarm - self._now()) > 0:
                    self._stirred.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(delay):
                            await self._stirred.wait()
                read = await self._read(
                    lambda url, lane: workers.create_task(self._work(post, url, lane))
                )
                await asyncio.sleep(read / READ_RATE)

    def _remind(self, at: float) -> None:
        if at < self._alarm:
            self._alarm = at
            self._stirred.set()

    async def _read(self, employ: Callable[[str, _Lane], object]) -> int:
        """Take what is due to the lanes, and note when the next one will be. Gives the number of
        rows that it read."""
        self._wanted = self._crowded = False
        for id in self._settled:
            del self._held[id]
        self._settled.clear()
        # All that is held is due, so the rest is at most that far down; twice that, so that a long
        # backlog takes few reads.
        limit = 2 * len(self._held) + PAGE
        now = self._now()
        self._alarm = now + self._horizon
        rows = await self._insist(lambda: self._store.deliveries(now + self._horizon, limit))
        for row in rows:
            if row.next_at > now:
                self._remind(row.next_at)
                return len(rows)
            if row.id in self._held:
                continue
            if len(self._held) >= self._most_held:
                self._crowded = True
                return len(rows)
            self._held[row.id] = self._name(row)
            lane = self._lanes.setdefault(row.url, _Lane())
            lane.waiting.append(row)
            if lane.workers < AT_ONCE:
                lane.workers += 1
                employ(row.url, lane)
        if len(rows) == limit:
            self._wanted = True
        return len(rows)

    async def _work(self, post: Post, url: str, lane: _Lane) -> None:
        """Deliver what waits in a lane until nothing does."""
        while lane.waiting:
            row = lane.waiting.popleft()
            await self._settle(row, await self._try(post, row))
            self._settled.add(row.id)
            # Not before half of them are: a read is long then.
            if self._crowded and len(self._settled) >= len(self._held) / 2:
                self.wake()
        lane.workers -= 1
        if not lane.workers:
            del self._lanes[url]

    async def _try(self, post: Post, row: Delivery) -> int | None:
        """Deliver one: the status of the answer, or None."""
        keys = self._keys.get(row.url)
        if keys is None:
            logger.info("webhook %s: its URL is not configured", row.id)
            return None
        try:
            status = await post(row.url, signed(keys, row.id, row.body, self._now()), row.body)
        except FAILURES as error:
            # Only these texts for certain do not hold the whole URL.
            why = (
                error.os_error if isinstance(error, ClientConnectorError) else type(error).__name__
            )
            logger.info("webhook %s to %s failed: %s", row.id, URL(row.url).host, why)
            return None
        except Exception:
            # The boundary of one try: it failed and will be repeated; all others go on.
            logger.exception("webhook %s to %s failed", row.id, URL(row.url).host)
            return None
        level = logging.DEBUG if outcome(status) is Outcome.DELIVERED else logging.INFO
        logger.log(level, "webhook %s to %s: status %d", row.id, URL(row.url).host, status)
        return status

    async def _settle(self, row: Delivery, status: int | None) -> None:
        """Tell the store what came of a try."""
        now, name = self._now(), self._name(row)
        self._tried[name] += 1
        result = outcome(status)
        again = next_try(row, now, self._chance()) if result is Outcome.FAILED else None
        if result is Outcome.FAILED:
            self._failed[name] += 1
        if again is not None:
            due = again
            await self._insist(lambda: self._store.retry(row.id, due))
            self._remind(due)
            return
        if result is Outcome.DELIVERED:
            self._delivered[name] += 1
        else:
            self._given_up[name] += 1
            host = URL(row.url).host
            logger.warning("webhook %s to %s is given up: try %d", row.id, host, row.tries + 1)
        await self._insist(lambda: self._store.delivered(row.id))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it does what it is asked. Meanwhile nothing is sent twice."""
        while True:
            try:
                return await call()
            except HubError as error:
                logger.warning("webhooks wait for the store: %s", error.message)
            except Exception:
                # The boundary of one call: a defect of the store ends no lane.
                logger.exception("webhooks wait for the store")
            await asyncio.sleep(PAUSE)


def _report(task: asyncio.Task[None]) -> None:
    """Nobody awaits the courier until hub stops: say at once that it has died."""
    if not task.cancelled() and (error := task.exception()):
        logger.critical("webhooks are no longer delivered", exc_info=error)
