"""What a server holds: idle, with idle WebSockets, and after very many short responses.

Everything is a process of its own: hub, the token source, and this one, which looks at hub's
resident memory (``VmRSS``).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from hub.bench import wire
from hub.bench.clients import Target
from hub.bench.load import Run
from hub.bench.machine import ProcessTree
from hub.bench.plan import Load
from hub.bench.processes import serving
from hub.bench.wire import HttpReader

AT_ONCE = 64
"""Handshakes that are under way at the same time."""
SHORT = 4
"""Tokens of a short response."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one run found; memory in bytes."""

    idle: int
    per_connection: float
    connections: int
    handshakes_per_s: float
    after: list[tuple[int, int]]
    """Short responses so far, and what was resident then."""
    mistakes: int


async def measure(
    *, connections: int, responses: int, steps: int, progress: Callable[[str], None]
) -> Memory:
    """Run it once: so many idle ``connections``, then ``responses`` in so many ``steps``."""
    async with (
        serving("bench", "source", "--port", "0") as source,
        serving(
            *("serve", "--port", "0", "--store", "memory"),
            f"--upstream={source.url}#window=1024",
        ) as hub,
    ):
        tree = ProcessTree(hub.pid)
        await asyncio.sleep(1)
        idle = tree.resident()
        progress(f"Idle: {idle / 1e6:.1f} MB.")
        target = Target.parse(hub.url)
        begun = time.monotonic()
        writers = await _open(target, connections)
        seconds = time.monotonic() - begun
        await asyncio.sleep(1)
        held = tree.resident()
        progress(
            f"{connections} idle connections: {(held - idle) / 1024 / connections:.1f} KiB each."
        )
        for writer in writers:
            writer.transport.abort()
        after: list[tuple[int, int]] = []
        mistakes = 0
        for step in range(1, steps + 1):
            load = Load(
                mode="lanes",
                connections=16,
                lanes=16,
                requests=responses // steps,
                max_tokens=SHORT,
                warmup=0.2,
                seed=step,
            )
            result = await Run(target, load).run()
            mistakes += sum(result.failed.values()) + result.wrong
            after.append((step * responses // steps, tree.resident()))
            progress(f"{after[-1][0]:,} responses: {after[-1][1] / 1e6:.1f} MB.")
        return Memory(
            idle, (held - idle) / connections, connections, connections / seconds, after, mistakes
        )


async def _open(target: Target, count: int) -> list[asyncio.StreamWriter]:
    """Open WebSockets that say nothing."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> asyncio.StreamWriter:
        async with gate:
            reader, writer = await asyncio.open_connection(target.host, target.port)
            writer.write(wire.upgrade(target.authority, f"{target.path}/v1/responses", target.key))
            head = HttpReader()
            while not head.done:
                head.feed(await reader.read(4096))
            wire.check_upgrade(head)
            return writer

    return await asyncio.gather(*(one() for _ in range(count)))


def table(found: Memory) -> str:
    """A Markdown table."""
    rows = [
        ("idle server", f"{found.idle / 1e6:.1f} MB"),
        (
            f"each of {found.connections:,} idle WebSockets",
            f"{found.per_connection / 1024:.1f} KiB",
        ),
        ("handshakes per second", f"{found.handshakes_per_s:,.0f}"),
        *(
            (f"after {n:,} responses of {SHORT} tokens", f"{b / 1e6:.1f} MB")
            for n, b in found.after
        ),
        ("responses that failed or were wrong", str(found.mistakes)),
    ]
    return "\n".join(
        ["| | |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows)]
    )
