"""Several model servers behind one hub, as processes: one is killed, one taken out of service."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from openai import APIError, AsyncOpenAI

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.e2e.process import Command, command


@asynccontextmanager
async def model_servers(count: int, speed: str) -> AsyncIterator[list[Command]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(command("sim", "--port", "0", "--speed", speed))
            for _ in range(count)
        ]


async def dispatcher_of(hub: Command) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{hub.url}/health") as answer:
        found: dict[str, Any] = (await answer.json())["dispatcher"]
        return found


async def until(hub: Command, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the dispatcher's statistics are as they should be."""
    while not holds(await dispatcher_of(hub)):  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)


def said(prompt: str) -> str:
    return full_text(Generation(model="sim", messages=[{"role": "user", "content": prompt}]))


async def ask(client: AsyncOpenAI, number: int) -> tuple[str, bool, bool]:
    """The text of an answer, whether it began, and whether it is whole."""
    text = ""
    try:
        stream = await client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": f"Request {number}"}],
            stream=True,
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    except APIError:
        return text, bool(text), False
    return text, True, True


async def test_killing_one_of_three_loses_nothing_that_had_not_begun() -> None:
    """Whoever had no token yet is answered by another server, with the text that it would have had;
    whoever was in the middle gets a typed error; and nobody is sent to the dead one any more."""
    async with model_servers(3, "4") as servers:
        upstreams = [word for one in servers for word in ("--upstream", one.url)]
        async with command("serve", "--port", "0", *upstreams) as hub:
            client = AsyncOpenAI(base_url=f"{hub.url}/v1", api_key="none", max_retries=0)
            asked = [asyncio.create_task(ask(client, number)) for number in range(90)]
            first = "upstream-1"
            await until(hub, lambda now: bool(now["upstreams"][first]["in_flight"] >= 10))
            servers[0].process.send_signal(signal.SIGKILL)
            answers = await asyncio.gather(*asked)
            broken = 0
            for number, (text, began, whole) in enumerate(answers):
                assert began, "it was lost before its first token"
                expected = said(f"Request {number}")
                assert text == expected if whole else expected.startswith(text)
                broken += not whole
            assert broken <= 16, "more than the dead server can have been running"
            later = await asyncio.gather(*(ask(client, number) for number in range(12)))
            assert all(whole for _, _, whole in later)
            statistics = await dispatcher_of(hub)
            dead = statistics["upstreams"][first]
            assert (dead["in_flight"], dead["opened"] > 0) == (0, True)
            await client.close()


async def test_upstreams_change_without_losing_a_request(tmp_path: Path) -> None:
    """On SIGHUP hub reads its settings again: a new upstream gets requests, one that is gone is
    drained, and every request that was on its way is answered in full."""
    config = tmp_path / "hub.toml"
    async with model_servers(2, "20") as (old, new):
        config.write_text(f'upstream = ["{old.url}"]\n')
        async with command("serve", "--port", "0", "--config", str(config)) as hub:
            client = AsyncOpenAI(base_url=f"{hub.url}/v1", api_key="none", max_retries=0)
            before = [asyncio.create_task(ask(client, number)) for number in range(40)]
            await until(hub, lambda now: bool(now["in_flight"] >= 10))
            config.write_text(f'upstream = ["{new.url}#window=3"]\nbatch_size = 2\n')
            hub.process.send_signal(signal.SIGHUP)
            await until(hub, lambda now: "upstream-1" not in now["upstreams"])
            after = [asyncio.create_task(ask(client, number)) for number in range(10)]
            assert all(whole for _, _, whole in await asyncio.gather(*before, *after))
            statistics = await dispatcher_of(hub)
            assert [*statistics["upstreams"]] == ["upstream-2"]
            assert statistics["upstreams"]["upstream-2"]["window"] == 3
            # Settings that are wrong change nothing.
            config.write_text('rule = ["nonsense"]\n')
            hub.process.send_signal(signal.SIGHUP)
            assert (await ask(client, 1))[2]
            assert [*(await dispatcher_of(hub))["upstreams"]] == ["upstream-2"]
            await client.close()
