"""A model server that answers anything, over real sockets: whatever it sends, and however its
connection ends, the engine that asks it returns or raises a ``HubError``, in time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

from hub.api.requests import Generation
from hub.engines.upstream import UpstreamEngine
from hub.errors import HubError
from tests.engines.recording import RecordingSink
from tests.fuzz import goods
from tests.fuzz.mutants import cuts, mutate
from tests.fuzz.parsers import foretold

DEADLINE = 10.0
IDLE = 0.5
"""Seconds after which the engine gives up a server that says nothing."""

WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(body), body)
    for body in (*goods.MODELS, *goods.PROPS, *goods.FAILURES, goods.STREAMS[-1])
] + [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + body
    for body in goods.METRICS
]
STREAMED = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body for body in goods.STREAMS
]
ANSWERS = [*goods.ANSWERS, *WHOLE, *STREAMED]

MESSAGES = ({"role": "user", "content": "Hello"},)
GENERATIONS = (
    Generation("", MESSAGES),
    Generation("m", MESSAGES, top_logprobs=2, max_tokens=5),
    Generation("m", (), prompt="Hello"),
    Generation("qwen2.5-coder", (), prompt="def f(", suffix="):\n"),
    Generation("m", (), prompt="a", suffix="b"),
)


class Liar:
    """The server. What it sends next is ``answer``."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.answer = b""
        self._talks: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to somebody."""
        task = asyncio.create_task(self.talk(reader, writer))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def close(self) -> None:
        """Wait until everybody has gone."""
        while self._talks:
            await asyncio.wait(self._talks)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        random = self._random
        try:
            if random.random() < 0.95:
                await reader.readuntil(b"\r\n\r\n")
            for piece in [self.answer] if random.random() < 0.5 else cuts(self.answer, random):
                if writer.transport.is_closing():
                    return
                writer.write(piece)
                await asyncio.sleep(0)
            if random.random() < 0.01:
                # It neither says more nor closes, until the engine does.
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if random.random() < 0.1:
                writer.transport.abort()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def attack(cases: int, seed: int, *, found: Callable[[str], None]) -> int:
    """Ask the liar so often. ``found`` is told of each case that failed. Gives their number."""
    random = Random(seed)
    liar = Liar(random)
    server = await asyncio.start_server(liar.connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = UpstreamEngine(f"http://127.0.0.1:{port}", connect_timeout=IDLE, idle_timeout=IDLE)
    asks: tuple[Callable[[], Awaitable[object]], ...] = (
        *(lambda one=one: engine.generate(one, RecordingSink()) for one in GENERATIONS),
        engine.models,
        engine.probe,
        engine.probe_slots,
    )
    for number in range(cases):
        liar.answer = mutate(random.choice(ANSWERS), random, random.choice(ANSWERS))
        try:
            async with asyncio.timeout(DEADLINE):
                await random.choice(asks)()
        except HubError as error:
            foretold(error)
        except Exception as error:
            found(f"seed {seed}, case {number}: {error!r}: {liar.answer!r}")
    await engine.close()
    server.close()
    async with asyncio.timeout(DEADLINE):
        await liar.close()
    return cases
