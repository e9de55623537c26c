"""Readers that are too slow: their connections are closed, they may come back, nobody notices."""

import asyncio
import json
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hub.api.requests import Generation
from hub.api.responses import parse_create
from hub.engines.base import Sink
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_text import full_text
from tests.running import Running, Start

PIECES = [f"{number:08d}" * 1024 for number in range(1024)]
"""More than the kernel's buffers hold."""
FLOOD = "".join(PIECES)


class Fountain(SimEngine):
    """Asked for a flood, it says that at once, and waits for ``done`` before it ends."""

    def __init__(self) -> None:
        super().__init__(PROFILES["h100-8b"], speed=100.0)
        self.done = asyncio.Event()
        self.let_go = asyncio.Event()
        """A flood was cancelled."""

    async def generate(self, generation: Generation, sink: Sink) -> None:
        if generation.messages[-1]["content"] != "flood":
            await super().generate(generation, sink)
            return
        try:
            for piece in PIECES:
                sink.text(piece)
                await asyncio.sleep(0)
            await self.done.wait()
            sink.finish("stop")
        except asyncio.CancelledError:
            self.let_go.set()
            raise


def narrow(hub: Running) -> socket.socket:
    """A connection whose kernel does not buffer much for its reader."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.connect(("127.0.0.1", hub.port))
    sock.setblocking(False)
    return sock


def reading_slowly(hub: Running) -> Any:
    return connect(hub.ws, sock=narrow(hub), max_queue=1, max_size=None)


async def until_closed(hub: Running, readers: int = 1) -> None:
    """Ask for the hub's health until it says that so many readers were closed."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{hub.url}/health") as answer:
                if (await answer.json())["bounds"]["slow_readers"] == readers:
                    return


async def create(ws: ClientConnection, **fields: Any) -> None:
    await ws.send(json.dumps({"type": "response.create", **fields}))


async def heard(ws: ClientConnection) -> list[dict[str, Any]]:
    """The events up to the next terminal one, or to the end of the connection."""
    events: list[dict[str, Any]] = []
    with suppress(ConnectionClosed):
        while not events or events[-1]["type"] not in ("response.completed", "error"):
            events.append(json.loads(await ws.recv()))
    return events


def text(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


async def says_hello(hub: Running) -> None:
    """Another connection notices nothing."""
    async with connect(hub.ws) as ws:
        await create(ws, input="Hello")
        hello = [{"role": "user", "content": "Hello"}]
        assert text(await heard(ws)) == full_text(Generation(model="", messages=hello))


async def test_who_does_not_read_is_closed_and_comes_back_for_the_rest(start: Start) -> None:
    hub = await start(Fountain(), hub_options={"reader_patience": 0.2})
    async with reading_slowly(hub) as ws:
        await create(ws, input="flood")
        await says_hello(hub)
        await until_closed(hub)
        # Before the close frame comes what was on its way.
        events = await heard(ws)
        assert ws.close_code == 1013
        assert "resume" in ws.close_reason
    begun = text(events)
    assert 0 < len(begun) < len(FLOOD)
    hub.engine.done.set()
    # Who reads is not to be mistaken for slow because this machine is.
    hub.hub.policy = replace(hub.hub.policy, reader_patience=60.0)
    async with connect(hub.ws, max_size=None) as ws:
        resume = {
            "type": "response.resume",
            "response_id": events[0]["response"]["id"],
            "starting_after": events[-1]["sequence_number"],
        }
        await ws.send(json.dumps(resume))
        rest = await heard(ws)
    assert begun + text(rest) == FLOOD
    assert hub.hub.statistics().by_status == {"completed": 2}


async def test_who_never_reads_again_is_aborted_and_its_unstored_response_cancelled(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.websocket.CLOSE_TIMEOUT", 0.1)
    hub = await start(Fountain(), hub_options={"reader_patience": 0.2})
    async with reading_slowly(hub) as ws:
        await create(ws, input="flood", store=False)
        await hub.engine.let_go.wait()
        assert hub.hub.bounds.statistics().slow_readers == 1
        # It waits until every connection is gone.
        await hub.server.stop(0)
        assert text(await heard(ws)) in FLOOD
        # The close frame itself may have been too much for its buffers.
        assert ws.close_code in (1006, 1013)
    assert hub.hub.statistics().by_status == {"cancelled": 1}


async def test_who_is_too_far_behind_is_closed_before_its_patience_is_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.outbox.CHECK", 0.05)
    hub = await start(Fountain(), hub_options={"reader_lag": 100_000})
    async with reading_slowly(hub) as ws:
        await create(ws, input="flood", store=False)
        await hub.engine.let_go.wait()
        await says_hello(hub)
        await heard(ws)
        assert ws.close_code == 1013
    assert hub.hub.bounds.statistics().slow_readers == 1


async def test_other_lanes_of_a_closed_connection_are_left_as_well(start: Start) -> None:
    hub = await start(Fountain(), hub_options={"reader_patience": 0.2, "grace": 0.0})
    async with reading_slowly(hub) as ws:
        for lane in "abc":
            await create(ws, input="flood", stream_id=lane)
        await until_closed(hub)
        await hub.hub.until_idle()
        await heard(ws)
        assert ws.close_code == 1013
    assert hub.hub.statistics().by_status == {"cancelled": 3}


# Server-sent events.


class SseReader:
    """A client of HTTP that reads only when it is told to."""

    def __init__(self, hub: Running) -> None:
        self._hub = hub

    async def ask(self, line: str, **body: Any) -> None:
        # A small limit: beyond twice of it the kernel's buffer fills.
        self._reader, self._writer = await asyncio.open_connection(
            sock=narrow(self._hub), limit=1024
        )
        data = json.dumps(body)
        head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{self._hub.port}\r\n"
        self._writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n{data}".encode())

    async def rest(self) -> bytes:
        """All up to the end of the connection."""
        data = bytearray()
        with suppress(ConnectionResetError):
            while piece := await self._reader.read(1 << 20):
                data += piece
        self._writer.close()
        return bytes(data)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("responses", {"input": "flood", "store": False}),
        ("chat/completions", {"messages": [{"role": "user", "content": "flood"}]}),
    ],
)
async def test_a_stream_that_is_not_read_is_aborted(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    hub = await start(Fountain(), hub_options={"reader_patience": 0.2})
    slow = SseReader(hub)
    await slow.ask(f"POST /v1/{path}", stream=True, **body)
    await hub.engine.let_go.wait()
    assert hub.hub.bounds.statistics().slow_readers == 1
    await says_hello(hub)
    data = await slow.rest()
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert b"[DONE]" not in data
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 1, "completed": 1}


async def test_a_stream_whose_end_is_not_read_is_aborted_too(start: Start) -> None:
    """All of it is in the socket's buffer, and nobody takes it from there."""
    hub = await start(Fountain(), hub_options={"reader_patience": 0.2})
    hub.engine.done.set()
    live = hub.hub.submit(parse_create({"input": "flood"}))
    hub.hub.join(live)
    await live.until_ended()
    hub.hub.leave(live)
    slow = SseReader(hub)
    after = live.log.last - 1
    await slow.ask(f"GET /v1/responses/{live.id}?stream=true&starting_after={after}")
    await until_closed(hub)
    assert len(await slow.rest()) < len(FLOOD)


async def test_a_response_that_is_too_large_is_a_typed_error(start: Start) -> None:
    hub = await start(Fountain(), hub_options={"response_bytes": 1 << 20})
    async with aiohttp.ClientSession() as session:
        body = {"messages": [{"role": "user", "content": "flood"}]}
        async with session.post(f"{hub.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 502
            assert (await answer.json())["error"]["code"] == "response_too_large"
    assert hub.engine.let_go.is_set()
    assert hub.hub.bounds.statistics().too_large == 1
    async with connect(hub.ws, max_size=None) as ws:
        await create(ws, input="flood")
        while (event := json.loads(await ws.recv()))["type"] != "response.failed":
            pass
    assert event["response"]["error"]["code"] == "response_too_large"


async def test_a_full_memory_is_a_429_on_every_way_in(start: Start) -> None:
    hub = await start(Fountain(), hub_options={"live_bytes": 1 << 20})
    async with connect(hub.ws, max_size=None) as ws:
        await create(ws, input="flood")
        async with aiohttp.ClientSession() as session:
            held = 0
            while held <= 1 << 20:
                async with session.get(f"{hub.url}/health") as answer:
                    held = (await answer.json())["bounds"]["live_bytes"]
            # The hub looks at it a few times a second.
            status, refused, wait = 0, {}, None
            while status != 429:
                body = {"input": "Hello", "store": False}
                async with session.post(f"{hub.url}/v1/responses", json=body) as answer:
                    status, refused = answer.status, await answer.json()
                    wait = answer.headers.get("Retry-After")
        assert refused["error"]["code"] == "rate_limit_exceeded"
        assert wait == "1"
        await create(ws, input="Hello", stream_id="b")
        while (event := json.loads(await ws.recv()))["type"] != "error":
            pass
        assert (event["status"], event["stream_id"]) == (429, "b")
        assert event["headers"] == {"retry-after": "1.0"}
        ws.transport.abort()
    assert hub.hub.bounds.statistics().refused >= 2
