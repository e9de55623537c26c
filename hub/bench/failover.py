"""What a model server's death costs: one of three is killed under load.

Three token sources stand behind hub, requests arrive in open loop, and after a while one source
gets SIGKILL. A response that had no text yet must not be lost: another source says it. One that was
in the middle cannot be saved, since nobody else could go on with the same text.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import aiohttp

from hub.bench.clients import Target
from hub.bench.load import Run
from hub.bench.plan import Load
from hub.bench.processes import serving
from hub.bench.tally import Result

SOURCES = 3
RATE = 50.0
"""Tokens per second of a response."""
FIRST = 500.0
"""Milliseconds until its first, so that some have none yet when the source is killed."""


@dataclass(frozen=True, slots=True)
class Failover:
    """What one run found."""

    result: Result
    running: int
    """Requests that the killed source held when it was killed."""
    moved_ms: float
    """From the kill until hub had let go of all of them and sent nothing there any more."""
    retried: int
    """Requests that were sent again to another source."""


async def measure(
    *, rate: float, seconds: float, tokens: int, progress: Callable[[str], None]
) -> Failover:
    """Run it once: ``rate`` requests arrive per second, each of so many ``tokens``; the source is
    killed after half of the time."""
    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(
                serving(
                    *("bench", "source", "--port", "0", "--rate", str(RATE), "--first", str(FIRST))
                )
            )
            for _ in range(SOURCES)
        ]
        upstreams = [f"--upstream={source.url}#window=256" for source in sources]
        hub = await stack.enter_async_context(
            serving("serve", "--port", "0", "--store", "memory", *upstreams)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        load = Load(mode="chat", rate=rate, seconds=seconds, max_tokens=tokens, warmup=1.0)
        run = asyncio.create_task(Run(Target.parse(hub.url), load).run())
        await asyncio.sleep(load.warmup + seconds / 2)
        victim = "upstream-1"

        async def held() -> tuple[int, str, int]:
            async with session.get(f"{hub.url}/health") as answer:
                dispatcher = (await answer.json())["dispatcher"]
            one = dispatcher["upstreams"][victim]
            return one["in_flight"], one["state"], sum(dispatcher["retried"].values())

        running, _, _ = await held()
        progress(f"Killing a source that holds {running} requests.")
        with suppress(ProcessLookupError):
            os.kill(sources[0].pid, signal.SIGKILL)
        killed = time.monotonic()
        while (now := await held())[0] or now[1] != "open":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.001)
        moved = time.monotonic() - killed
        return Failover(await run, running, moved * 1000, (await held())[2])


def table(found: list[Failover]) -> str:
    """A Markdown table."""
    lines = [
        "| responses | held by the source when killed | lost before their first text | broken off "
        "in the middle | sent again | traffic had moved after, ms | TTFT p50 / p99 / max, ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        result, ttft = one.result, one.result.ttft_ms
        failed = sum(result.failed.values())
        lines.append(
            f"| {result.completed + failed} | {one.running} | {result.silent} | "
            f"{failed - result.silent} | {one.retried} | {one.moved_ms:.0f} | "
            f"{ttft.p50:.1f} / {ttft.p99:.1f} / {ttft.max:.1f} |"
        )
    return "\n".join(lines)
