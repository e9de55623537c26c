"""Several processes with a store in Redis, which one cannot tell apart: ``hub serve --workers``."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import OPEN

from hub.api.requests import Generation
from hub.client import Client, ClientError
from hub.engines.sim_text import full_text
from tests.e2e.process import Command, command
from tests.redis_server import RedisServer, needs_redis, redis_process, redis_server

__all__ = ["redis_process", "redis_server"]

pytestmark = [
    needs_redis,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]

SERVE = ("serve", "--sim", "--sim-speed", "2", "--port", "0", "--lease", "4", "--store")
PROMPT = "Question 3"
"""Its answer takes seconds."""
TEXT = full_text(Generation(model="", messages=[{"role": "user", "content": PROMPT}]))


def workers_of(hub: Command) -> set[int]:
    """The process ids of a supervisor's workers."""
    pid = hub.process.pid
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what processes do: nothing tells of it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_two_workers_serve_and_one_that_is_killed_comes_back(
    redis_server: RedisServer,
) -> None:
    async with (
        command(*SERVE, redis_server.url, "--workers", "2") as hub,
        AsyncExitStack() as stack,
    ):
        assert sum("serves" in line for line in hub.said) == 1
        assert "with 2 processes" in hub.said[-1]
        url = f"ws{hub.url.removeprefix('http')}/v1/responses"
        sockets = [await stack.enter_async_context(connect(url)) for _ in range(32)]
        before = workers_of(hub)
        assert len(before) == 2
        killed = min(before)
        # Which connections are whose, the kernel has decided by a hash.
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in workers_of(hub) and len(workers_of(hub)) == 2)
        lost = 0
        for socket in sockets:
            with suppress(ConnectionClosed):
                await (await socket.ping())
            lost += socket.state is not OPEN
        assert 0 < lost < len(sockets)
        async with Client(hub.url) as client:
            assert (await client.create("Hello", max_output_tokens=3).done())["output"]
        assert await hub.stop() == 0


async def test_workers_are_replaced_without_losing_a_connection_attempt_or_a_text(
    redis_server: RedisServer,
) -> None:
    """And they end with their supervisor, however it does."""
    async with (
        command(*SERVE, redis_server.url, "--workers", "2") as hub,
        AsyncExitStack() as stack,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http,
    ):
        before = workers_of(hub)

        async def read(client: Client) -> bool:
            """Read texts while workers are replaced: whether it was sent on to another one."""
            sent_on = False
            while before & workers_of(hub):
                run = client.create(PROMPT)
                try:
                    await run.done()
                except ClientError as error:
                    # It was sent as the connection was closed.
                    if error.code != "outcome_unknown":
                        raise
                else:
                    assert run.text == TEXT
                sent_on = sent_on or run.timings.resumed
            return sent_on

        clients = [await stack.enter_async_context(Client(hub.url)) for _ in range(8)]
        readers = [asyncio.create_task(read(client)) for client in clients]
        hub.process.send_signal(signal.SIGUSR2)
        attempts = 0
        while before & workers_of(hub):
            async with http.get(f"{hub.url}/v1/models") as answer:
                assert answer.status == 200
                attempts += 1
        assert attempts > 10
        assert any(await asyncio.gather(*readers))
        after = workers_of(hub)
        assert len(after) == 2
        hub.process.kill()
        await hub.process.wait()
        await until(lambda: not any(map(alive, after)))


async def test_a_client_goes_on_at_another_node_when_its_own_is_killed(
    redis_server: RedisServer,
) -> None:
    async with (
        command(*SERVE, redis_server.url) as one,
        command(*SERVE, redis_server.url) as other,
        Client([one.url, other.url]) as client,
    ):
        run = client.create(PROMPT)
        async for _ in run:
            break
        await one.stop(signal.SIGKILL)
        await run.done()
        assert run.text == TEXT
        assert run.timings.resumed
        assert client.url.startswith(f"ws{other.url.removeprefix('http')}/")
