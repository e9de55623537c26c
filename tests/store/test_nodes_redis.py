"""Hubs that share a real Redis: what ``test_nodes_stateful.py`` tries in virtual time, once for
real."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from blockbuster import BlockBuster

from hub.api.prompt import with_messages
from hub.api.requests import Json
from hub.api.responses import parse_create
from hub.bench.fault_proxy import FaultProxy
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_text import full_text
from hub.hub import Hub
from hub.live import Live
from hub.policy import Policy
from hub.store.redis import RedisStore
from tests.redis_server import RedisServer, needs_redis, running_redis

pytestmark = needs_redis

BODY: Json = {"input": "Tell me about number 7."}


@dataclass
class Node:
    """A hub, and the proxy through which it reaches Redis."""

    hub: Hub
    store: RedisStore
    engine: SimEngine
    proxy: FaultProxy

    def submit(self, **fields: Any) -> "Reader":
        live = self.hub.submit(parse_create({**BODY, **fields}))
        return Reader(self, live)

    async def read(self, id: str, before: "Reader | None" = None) -> "Reader":
        """Read from the beginning, or on from where another one has stopped."""
        return Reader(self, await self.hub.open(id), before)


class Reader:
    """One that goes along where a response moves, as a connection does."""

    def __init__(self, node: Node, live: Live, before: "Reader | None" = None) -> None:
        self.wires: list[bytes] = [] if before is None else [*before.wires]
        self.text: str = "" if before is None else before.text
        self.news = asyncio.Event()
        self._node = node
        self._attach(live)

    def _attach(self, live: Live) -> None:
        self.live = live
        self._node.hub.join(live)
        live.log.subscribe(self._read)
        live.when_moved(self._moved)
        self._read()

    def _read(self) -> None:
        for event in self.live.log.read(len(self.wires) - 1):
            assert event.seq == len(self.wires)
            self.wires.append(event.wire)
            if event.type == "response.output_text.delta":
                self.text += event.delta
        self.news.set()

    def _moved(self) -> None:
        self.leave()
        if not self._node.hub.closing:
            self._along = asyncio.create_task(self._go_along())

    async def _go_along(self) -> None:
        self._attach(await self._node.hub.open(self.live.kept_as))

    def leave(self) -> None:
        self.live.log.unsubscribe(self._read)
        self.live.stay(self._moved)
        self._node.hub.leave(self.live)

    async def until(self, holds: Callable[["Reader"], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(self):
                self.news.clear()
                await self.news.wait()

    async def until_said(self, characters: int) -> None:
        await self.until(lambda reader: len(reader.text) >= characters)

    async def until_ended(self) -> None:
        await self.until(lambda reader: reader.live.log.sealed)


Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(no_blocking: BlockBuster) -> AsyncIterator[Start]:
    """Start nodes on a Redis; at the end close them and see that nothing is left."""
    nodes: list[Node] = []

    async def start(server: RedisServer, *, speed: float = 1.0, **policy: Any) -> Node:
        proxy = FaultProxy(("127.0.0.1", server.port))
        store = RedisStore(f"redis://127.0.0.1:{await proxy.start()}/0")
        await store.start(time.time())
        engine = SimEngine(PROFILES["h100-8b"], speed=speed)
        dispatcher = Dispatcher([Upstream(engine, 8)], rules_with())
        known = {"default_model": "sim", "lease": 1.0, **policy}
        hub = Hub(dispatcher, store, Policy(**known), others=lambda: len(nodes) > 1)
        hub.start()
        nodes.append(Node(hub, store, engine, proxy))
        return nodes[-1]

    yield start
    for node in nodes:
        node.proxy.heal()
        await node.hub.close(0)
        await node.store.close()
        await node.engine.close()
        await node.proxy.close()
        assert len(node.hub._owned._mirrors) == 0


def expected() -> str:
    return full_text(with_messages(parse_create(BODY), ()).generation)


async def check_same(readers: list[Reader], nodes: list[Node]) -> None:
    """All have read the same text to its end, and every node gives the same result."""
    id = readers[0].live.id
    for reader in readers:
        await reader.until_ended()
    assert readers[0].text == expected()
    assert all(reader.wires == readers[0].wires for reader in readers)
    results = [orjson.loads(await node.hub.result(id)) for node in nodes]
    assert all(result == results[0] for result in results)
    assert results[0]["status"] == "completed"


async def test_any_node_streams_and_resumes_what_another_one_writes(
    start: Start, redis_server: RedisServer
) -> None:
    """What is written at one node is read at another from the beginning, and on from where a reader
    of the first has stopped: one text, with the same events."""
    a, b = await start(redis_server, speed=3.0), await start(redis_server)
    first = a.submit()
    await first.until_said(20)
    there = await b.read(first.live.id)
    hops = a.submit()
    await hops.until_said(20)
    hops.leave()
    hopped = await b.read(hops.live.id, hops)
    await check_same([first, there], [a, b])
    await check_same([hopped], [a, b])


async def test_a_cancel_reaches_its_owner_at_once(start: Start, redis_server: RedisServer) -> None:
    """It is cancelled at any node, long before its owner renews its lease."""
    a, b = await start(redis_server, lease=60.0), await start(redis_server, lease=60.0)
    first = a.submit()
    await first.until_said(20)
    there = await b.read(first.live.id)
    b.hub.cancel(there.live)
    await first.until_ended()
    await there.until_ended()
    assert first.live.recorder.status == "cancelled"
    assert first.wires == there.wires


async def test_a_node_that_is_cut_off_is_taken_over_from_and_fenced(
    start: Start, redis_server: RedisServer
) -> None:
    """When a node's link to Redis is dead, another one goes on when its lease is over. When the
    first one can reach Redis again it stops, and its readers go on with the other's text."""
    a, b = await start(redis_server), await start(redis_server)
    first = a.submit()
    await first.until_said(20)
    there = await b.read(first.live.id)
    a.proxy.black_hole()
    await there.until(lambda reader: not reader.live.elsewhere)
    assert there.live.attempt == 2
    await there.until_said(len(first.text) + 20)
    a.proxy.cut()
    a.proxy.heal()
    await check_same([first, there], [a, b])
    assert first.live is not there.live


async def test_a_drain_hands_over_without_a_gap(start: Start, redis_server: RedisServer) -> None:
    """A node that stops gives its running texts to another one at once; whoever comes back there
    reads on."""
    a, b = await start(redis_server, speed=3.0), await start(redis_server, speed=3.0)
    first = a.submit()
    background = await a.hub.accept(parse_create({**BODY, "background": True}))
    await first.until_said(20)
    moved = asyncio.Event()
    first.live.when_moved(moved.set)
    closing = asyncio.create_task(a.hub.close(30))
    await moved.wait()
    there = await b.read(first.live.id, first)
    await check_same([there], [b])
    await closing
    await check_same([await b.read(background.id)], [b])


@pytest.mark.parametrize("mode", ["pause", "memory"])
async def test_a_killed_redis_loses_nothing(start: Start, mode: str) -> None:
    """Redis is killed in the middle of a stream and started again: the stream goes on, here from
    memory meanwhile if that was said, and every reader at every node gets the same."""
    with running_redis() as server:
        a = await start(server, on_store_loss=mode, lease=30.0)
        b = await start(server, on_store_loss=mode, lease=30.0)
        first = a.submit()
        await first.until_said(20)
        there = await b.read(first.live.id)
        await there.until_said(20)
        await asyncio.to_thread(server.signal, signal.SIGKILL)
        if mode == "memory":
            await first.until_said(len(first.text) + 20)
            assert len(first.text) > len(there.text)
        await asyncio.to_thread(server.start)
        await check_same([first, there], [a, b])
        assert first.live.attempt == 1
        await a.hub.close(0)
        await b.hub.close(0)
