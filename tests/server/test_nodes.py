"""Two servers that share a store: what their clients see when a response moves between them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.running import Running, Start
from tests.shared_store import Common, SharedMemoryStore

Body = dict[str, Any]
LEASE = 0.3
TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def nodes(start: Start) -> list[Running]:
    """Two, each of which knows of the other."""
    common = Common()
    options = {"lease": LEASE, "grace": 30.0}
    found = [
        await start(store=SharedMemoryStore(common), speed=3.0, hub_options=options)
        for _ in range(2)
    ]
    for node in found:
        node.hub._others = lambda: len(common.members) > 1
    return found


def expected() -> str:
    messages = [{"role": "user", "content": "Hello"}]
    return full_text(Generation(model="", messages=messages))


def store_of(node: Running) -> SharedMemoryStore:
    assert isinstance(node.hub.store, SharedMemoryStore)
    return node.hub.store


async def until(holds: Callable[[], object]) -> None:
    """Wait for something that the nodes are to do."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Stream:
    """Events as they come, and how their stream ended."""

    def __init__(self) -> None:
        self.events: list[Body] = []
        self.cut: BaseException | None = None
        self.raw = b""

    @property
    def id(self) -> str:
        return str(self.events[0]["response"]["id"])

    @property
    def text(self) -> str:
        return "".join(
            event["delta"] for event in self.events if event["type"] == "response.output_text.delta"
        )

    @property
    def last(self) -> int:
        return int(self.events[-1]["sequence_number"])

    @property
    def over(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] in TERMINAL

    async def sse(self, answer: aiohttp.ClientResponse) -> None:
        assert answer.status == 200, await answer.text()
        try:
            async for line in answer.content:
                self.raw += line
                if line.startswith(b"data: {"):
                    self.events.append(json.loads(line[6:]))
        except aiohttp.ClientPayloadError as error:
            self.cut = error

    async def post(self, client: aiohttp.ClientSession, node: Running) -> None:
        body = {"input": "Hello", "stream": True}
        async with client.post(f"{node.url}/v1/responses", json=body) as answer:
            await self.sse(answer)

    async def resume(self, client: aiohttp.ClientSession, node: Running, id: str) -> None:
        url = f"{node.url}/v1/responses/{id}?stream=true"
        if self.events:
            url += f"&starting_after={self.last}"
        async with client.get(url) as answer:
            await self.sse(answer)

    async def ws(self, node: Running) -> None:
        async with connect(node.ws) as ws:
            await ws.send(json.dumps({"type": "response.create", "input": "Hello"}))
            try:
                while not self.over:
                    self.events.append(json.loads(await ws.recv()))
            except ConnectionClosed as error:
                self.cut = error

    def check_whole(self) -> None:
        """Every event once, in order, and the text to its end."""
        assert [event["sequence_number"] for event in self.events] == [*range(self.last + 1)]
        assert self.events[-1]["type"] == "response.completed"
        assert self.text == expected()


@pytest.mark.parametrize("way", ["sse", "ws"])
async def test_a_reader_goes_along_when_another_node_has_taken_over(
    client: aiohttp.ClientSession, nodes: list[Running], way: str
) -> None:
    """A node stands still for longer than its lease: when it wakes up, who reads there gets what
    the other node writes, on the same connection and without a gap."""
    a, b = nodes
    stream = Stream()
    reading = asyncio.create_task(stream.post(client, a) if way == "sse" else stream.ws(a))
    await until(lambda: len(stream.text) > 20)
    store_of(a).frozen = True
    said = len(stream.text)
    other = Stream()
    watching = asyncio.create_task(other.resume(client, b, stream.id))
    await until(lambda: len(other.text) > said + 20)
    store_of(a).heal()
    await asyncio.gather(reading, watching)
    for one in (stream, other):
        assert one.cut is None
        one.check_whole()
    assert stream.events == other.events


async def test_who_waits_for_one_answer_gets_the_other_nodes(
    client: aiohttp.ClientSession, nodes: list[Running]
) -> None:
    """A request without a stream is answered with what the node has made of it that took over."""
    a, b = nodes
    posting = asyncio.create_task(
        client.post(f"{a.url}/v1/responses", json={"input": "Hello"}).__aenter__()
    )
    await until(lambda: any(live.log.last > 5 for live in a.hub._archive.live))
    store_of(a).frozen = True
    await until(lambda: any(live.log.last > 8 for live in b.hub._archive.live))
    store_of(a).heal()
    answer = await posting
    body = await answer.json()
    assert (answer.status, body["status"]) == (200, "completed")
    assert body["output"][0]["content"][0]["text"] == expected()


async def test_a_drain_cuts_a_stream_that_goes_on_elsewhere(
    client: aiohttp.ClientSession, nodes: list[Running]
) -> None:
    """SSE is told when to come back, and then broken off, so that no client takes it for whole; a
    WebSocket is closed with 1012 and the same hint. Both go on at the other node."""
    a, b = nodes
    sse, ws = Stream(), Stream()
    reading = asyncio.gather(sse.post(client, a), ws.ws(a))
    await until(lambda: len(sse.text) > 20 and len(ws.text) > 20)
    stopping = asyncio.create_task(a.server.stop(drain=30))
    await reading
    await stopping
    assert isinstance(sse.cut, aiohttp.ClientPayloadError)
    assert sse.raw.endswith(b"retry: 250\n\n")
    assert isinstance(ws.cut, ConnectionClosed)
    assert ws.cut.rcvd is not None
    assert ws.cut.rcvd.code == 1012
    assert "retry in " in ws.cut.rcvd.reason
    assert ws.cut.rcvd.reason.endswith(" ms")
    for one in (sse, ws):
        assert not one.over
        await one.resume(client, b, one.id)
        one.check_whole()


async def test_a_drain_cuts_who_reads_what_the_other_node_writes(
    client: aiohttp.ClientSession, nodes: list[Running]
) -> None:
    """Also a stream that this node only passes on is broken off, at once."""
    a, b = nodes
    stream, passed = Stream(), Stream()
    reading = asyncio.create_task(stream.post(client, a))
    await until(lambda: len(stream.text) > 20)
    passing = asyncio.create_task(passed.resume(client, b, stream.id))
    await until(lambda: len(passed.text) > 20)
    await b.server.stop(drain=30)
    await passing
    assert passed.cut is not None
    await reading
    stream.check_whole()


async def test_a_drain_waits_for_who_cannot_come_back(
    client: aiohttp.ClientSession, nodes: list[Running]
) -> None:
    """A request without a stream is answered by the node that it was sent to, though that stops."""
    a, _ = nodes
    posting = asyncio.create_task(
        client.post(f"{a.url}/v1/responses", json={"input": "Hello"}).__aenter__()
    )
    await until(lambda: any(live.log.last > 5 for live in a.hub._archive.live))
    stopping = asyncio.create_task(a.server.stop(drain=30))
    answer = await posting
    body = await answer.json()
    assert (answer.status, body["status"]) == (200, "completed")
    assert body["output"][0]["content"][0]["text"] == expected()
    await stopping


async def test_readiness_tells_of_the_store_and_life_does_not(
    client: aiohttp.ClientSession, nodes: list[Running]
) -> None:
    """While the store is away a node lives and is not ready, and background work is refused with a
    hint when to come back; what is not stored runs."""
    a, _ = nodes

    async def status(path: str) -> int:
        async with client.get(f"{a.url}{path}") as answer:
            return answer.status

    assert await status("/health/ready") == 200
    store = store_of(a)
    store.cut()
    assert store.cut_since is not None
    store.cut_since -= 5.0
    assert (await status("/health/ready"), await status("/health")) == (503, 200)
    body = {"input": "Hello", "background": True}
    async with client.post(f"{a.url}/v1/responses", json=body) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.json())["error"]["code"] == "store_unavailable"
    body = {"input": "Hello", "store": False, "max_output_tokens": 5}
    async with client.post(f"{a.url}/v1/responses", json=body) as answer:
        assert answer.status == 200
    store.heal()
    assert await status("/health/ready") == 200


async def test_a_draining_node_is_alive_and_not_ready(
    client: aiohttp.ClientSession, nodes: list[Running]
) -> None:
    """A load balancer that asks on a connection that it has sees that it should send nothing
    more."""
    a, _ = nodes
    posting = asyncio.create_task(
        client.post(f"{a.url}/v1/responses", json={"input": "Hello"}).__aenter__()
    )
    await until(lambda: a.hub._archive.live)
    async with aiohttp.ClientSession() as balancer:
        async with balancer.get(f"{a.url}/health/ready") as answer:
            assert answer.status == 200
        stopping = asyncio.create_task(a.server.stop(drain=30))
        await until(lambda: a.hub.closing)
        async with balancer.get(f"{a.url}/health/ready") as answer:
            assert answer.status == 503
        async with balancer.get(f"{a.url}/health") as answer:
            assert answer.status == 200
    assert (await posting).status == 200
    await stopping
