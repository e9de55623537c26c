"""Two nodes that meet in a real Redis: a window is divided, and limits hold for both together."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hub.api.responses import parse_create
from hub.dispatch.shares import Shares
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.keys import RANDOM_BYTES, Key, Keyring, Limits, new_key
from hub.nodes import Nodes
from hub.server.auth import Gate, Principal
from hub.server.shared_limits import SharedLimits
from hub.store.redis import RedisStore
from tests.dispatch.bench import HANG, Bench, Site
from tests.redis_server import RedisServer, needs_redis, redis_process, redis_server

__all__ = ["redis_process", "redis_server"]

pytestmark = needs_redis

KEY: Key = new_key(bytes(RANDOM_BYTES), tenant="ada", now=0, limits=Limits(requests_per_minute=20))[
    1
]


class Node:
    """A dispatcher and a gate, without a server."""

    def __init__(self, url: str) -> None:
        self.store = RedisStore(url)
        self.bench = Bench(Site(window=8, server="s"))
        self.nodes = Nodes(self.store, Shares(self.bench.dispatcher))
        self.gate = Gate(
            Keyring([KEY]), now=time.time, clock=time.monotonic, stop=lambda live: None
        )
        self.limits = SharedLimits(self.gate, self.store, self.nodes)
        self.news = asyncio.Event()
        """Something has come from the others."""

    @property
    def running(self) -> int:
        return self.bench.engines[0].running

    async def start(self) -> None:
        await self.store.start(time.time())
        await self.nodes.start()
        await self.limits.start()
        self.nodes.on_beat.append(self.news.set)
        self.store.hear(lambda kind, body: self.news.set())

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for what the others bring about."""
        async with asyncio.timeout(20):
            while not done():
                self.news.clear()
                await self.news.wait()
                await asyncio.sleep(0)  # All others that have heard it go by it, too.

    async def close(self) -> None:
        await self.bench.dispatcher.close()
        self.limits.close()
        await self.nodes.close()
        await self.store.close()

    def admits(self) -> bool:
        terms = self.gate.terms(Principal(KEY.tenant, KEY), {}, Class.CHAT)
        try:
            self.gate.admit(terms, parse_create({"input": "hi"}))
        except HubError:
            return False
        return True


@asynccontextmanager
async def two(server: RedisServer) -> AsyncIterator[tuple[Node, Node]]:
    nodes = Node(server.url), Node(server.url)
    for one in nodes:
        await one.start()
    await nodes[0].until(lambda: nodes[0].nodes.count == 2)
    yield nodes
    for one in nodes:
        await one.close()


async def test_a_window_goes_where_it_is_needed_and_back(redis_server: RedisServer) -> None:
    async with two(redis_server) as (one, other):
        works = one.bench.submit_all(20, HANG)
        await one.until(lambda: one.running == 7)
        assert other.running == 0
        for work in works:
            one.bench.dispatcher.cancel(work)
        other.bench.submit_all(20, HANG)
        await other.until(lambda: other.running == 7)
        assert one.bench.upstreams[0].window.size == 1


async def test_a_limit_holds_for_both(redis_server: RedisServer) -> None:
    """And for one that starts anew."""
    async with two(redis_server) as (one, other):
        assert all(one.admits() for _ in range(20))
        missing = one.gate.missing()[KEY.id][0]
        await other.until(lambda: KEY.id in other.gate.missing())
        assert missing > 15
        assert not other.admits()
        fresh = Node(redis_server.url)
        await fresh.start()
        assert not fresh.admits()
        await fresh.close()
