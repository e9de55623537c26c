"""What durability costs: ``python -m tests.e2e.measure`` prints the figures of one run.

Every server is a process of its own, on loopback. The model server of 1 and 3 is a script here;
that of 2 is the simulated engine inside hub, so fast that what is left of the time to first token
is hub's own.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from websockets.asyncio.client import connect

from tests.e2e.process import command

VANISH = 300
TTFT = 300
EVENTS = 10_000


class ModelServer:
    """Answers with ``events`` deltas at once, and then hangs until it is left, or ends."""

    def __init__(self, events: int, hang: bool) -> None:
        self._events = events
        self._hang = hang
        self.left: asyncio.Queue[float] = asyncio.Queue()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            body = b'{"object":"list","data":[{"id":"m"}]}'
            kind = b"application/json" if b"/models" in head else b"text/plain"
            status = b"200 OK" if b"/models" in head else b"404 Not Found"
            writer.write(
                b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
                % (status, kind, len(body), body)
            )
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            )
            for number in range(self._events):
                chunk = {"choices": [{"index": 0, "delta": {"content": f"{number} "}}]}
                writer.write(b"data: %b\n\n" % json.dumps(chunk).encode())
            if self._hang:
                # The rest of the request, then the end of the connection.
                while await reader.read(65536):
                    pass
                self.left.put_nowait(time.perf_counter())
            else:
                end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
                writer.write(b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(end).encode())
        writer.close()


@asynccontextmanager
async def model_server(events: int, *, hang: bool) -> AsyncIterator[ModelServer]:
    server = ModelServer(events, hang)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


def quantiles(values: Sequence[float]) -> str:
    ordered = statistics.quantiles(values, n=100)
    return f"p50 {ordered[49] * 1e3:7.2f} ms   p99 {ordered[98] * 1e3:7.2f} ms"


async def vanish() -> None:
    """1. From a client's disappearance to the end of the upstream's stream."""
    times: dict[str, list[float]] = {"WebSocket": [], "SSE": []}
    async with (
        model_server(1, hang=True) as upstream,
        command("serve", "--port", "0", "--upstream", upstream.url) as hub,
        aiohttp.ClientSession() as session,
    ):
        body: dict[str, Any] = {"input": "Hello", "store": False}
        for _ in range(VANISH):
            async with connect(f"ws{hub.url.removeprefix('http')}/v1/responses") as ws:
                await ws.send(json.dumps({"type": "response.create", **body}))
                while "output_text.delta" not in str(await ws.recv()):
                    pass
                begun = time.perf_counter()
                ws.transport.abort()
            times["WebSocket"].append(await upstream.left.get() - begun)
            answer = await session.post(f"{hub.url}/v1/responses", json={**body, "stream": True})
            while b"output_text.delta" not in await answer.content.readline():
                pass
            begun = time.perf_counter()
            answer.close()
            times["SSE"].append(await upstream.left.get() - begun)
    for kind in ("WebSocket", "SSE"):
        print(f"  {kind:<22} {quantiles(times[kind])}   ({VANISH} times)")


async def first_token(session: aiohttp.ClientSession, url: str, **body: Any) -> float:
    begun = time.perf_counter()
    request = {"input": "Hello", "stream": True, **body}
    async with session.post(f"{url}/v1/responses", json=request) as answer:
        took = 0.0
        async for line in answer.content:
            if not took and line.startswith(b"event: response.output_text.delta"):
                took = time.perf_counter() - begun
    return took


async def stores() -> None:
    """2. Time to first token with and without the store, turn by turn in one run."""
    modes: dict[str, dict[str, Any]] = {
        "store: false": {"store": False},
        "store: true": {},
        "background: true": {"background": True},
    }
    serve = ("serve", "--port", "0", "--sim", "--sim-speed", "1000")
    with tempfile.TemporaryDirectory() as directory:
        async with (
            command(*serve, "--store", "memory") as memory,
            command(*serve, "--store", directory) as sqlite,
            aiohttp.ClientSession() as session,
        ):
            times: dict[tuple[str, str], list[float]] = {}
            for _ in range(TTFT):
                for where, hub in (("memory", memory), ("SQLite", sqlite)):
                    for mode, body in modes.items():
                        took = await first_token(session, hub.url, max_output_tokens=20, **body)
                        times.setdefault((where, mode), []).append(took)
    base = statistics.median(times["SQLite", "store: false"])
    for (where, mode), values in times.items():
        ratio = statistics.median(values) / base
        print(f"  {where:<8} {mode:<17} {quantiles(values)}   p50 ratio {ratio:.2f}")


async def replay() -> None:
    """3. Resuming a long response: live memory, and the store after a restart."""
    with tempfile.TemporaryDirectory() as directory:
        async with model_server(EVENTS, hang=False) as upstream, aiohttp.ClientSession() as session:
            arguments = ("serve", "--port", "0", "--upstream", upstream.url, "--store", directory)
            async with command(*arguments) as hub:
                async with session.post(
                    f"{hub.url}/v1/responses", json={"input": "Hello"}
                ) as answer:
                    id = (await answer.json())["id"]
                for _ in range(3):
                    await time_replay(session, hub.url, id, "from memory")
                await hub.stop()
            async with command(*arguments) as hub:
                await time_replay(session, hub.url, id, "from the store")


async def time_replay(session: aiohttp.ClientSession, url: str, id: str, where: str) -> None:
    begun = time.perf_counter()
    first = total = 0.0
    async with session.get(f"{url}/v1/responses/{id}?stream=true&starting_after=5") as answer:
        async for chunk in answer.content.iter_any():
            first = first or time.perf_counter() - begun
            total += len(chunk)
    took = time.perf_counter() - begun
    print(
        f"  {where:<22} first byte {first * 1e3:6.1f} ms   last byte {took * 1e3:6.1f} ms   "
        f"{total / 1e6:.1f} MB"
    )


async def main() -> None:
    print("1. A client disappears: time until the model server's stream is closed")
    await vanish()
    print("2. Time to first token (simulated engine at 1000 times its speed)")
    await stores()
    print(f"3. Resume a response of {EVENTS} events")
    await replay()


if __name__ == "__main__":
    asyncio.run(main())
