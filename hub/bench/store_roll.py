"""A rolling restart under load: SIGUSR2 to a supervisor whose workers are all replaced.

The clients are those of ``chaos_crowd``: every character is compared, and whoever is told to come
back does, with the cursor. Nothing may break.
"""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from hub.bench.chaos_book import UNENDED, Book
from hub.bench.chaos_crowd import READERS, Crowd
from hub.bench.chaos_faults import Weather
from hub.bench.chaos_wire import Wire
from hub.bench.processes import serving
from hub.bench.source import TokenSource
from hub.bench.store_cases import started

RATE = 40.0
"""Tokens per second: the longest responses are over within a drain."""
FINISH = 60.0


class _Port:
    """The port that all workers share, as the crowd's only node."""

    number = 0
    hits = 0

    def __init__(self, url: str) -> None:
        self.url = url


async def roll(
    redis: str, *, workers: int, readers: int, rolls: int, progress: Callable[[str], None]
) -> Book:
    """Restart all workers so often while so many read."""
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await started(redis, place, stack)
        source = TokenSource(rate=RATE)
        upstream = f"http://127.0.0.1:{await source.start()}#continues"
        stack.push_async_callback(source.stop)
        hub = await stack.enter_async_context(
            serving(
                *("serve", "--port", "0", "--workers", str(workers), "--upstream", upstream),
                *("--store", f"unix://{server.socket}", "--log-level", "warning"),
            )
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        book = Book(random.SystemRandom().randrange(1 << 32), None)
        crowd = Crowd([_Port(hub.url)], Wire(session), book, Weather())
        clients = [
            asyncio.create_task(crowd.client()) for _ in range(max(1, round(readers / READERS)))
        ]
        for turn in range(rolls):
            await asyncio.sleep(5.0)
            progress(f"rolling restart {turn + 1} of {rolls}, {len(crowd.live)} responses live")
            os.kill(hub.pid, signal.SIGUSR2)
            await asyncio.sleep(15.0)
        crowd.full = True
        done, late = await asyncio.wait(clients, timeout=FINISH)
        for task in late:
            task.cancel()
            book.blame(UNENDED, None)
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
        await crowd.ends.check()
        book.seconds = book.now()
        return book
