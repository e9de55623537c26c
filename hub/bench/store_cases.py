"""What a shared store costs: the same load on hub with a store of its own, with one in Redis, and
read on another node than the one that generates.

CPU time is user and system time per token that was read. What Redis uses is its process's; what it
keeps is ``used_memory`` at the end of the window less that at its beginning, of streams that have
ended and of streams that go on.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from hub.bench import machine, report
from hub.bench.chaos_cluster import Redis
from hub.bench.clients import Target
from hub.bench.load import Run
from hub.bench.machine import ProcessTree
from hub.bench.plan import Load
from hub.bench.processes import serving
from hub.bench.source import TokenSource
from hub.bench.stats import Spread, middle, spread
from hub.bench.store_streams import Streams, Timings
from hub.bench.tally import Result

OWN, SHARED, ELSEWHERE = "store of its own", "Redis", "Redis, read on another node"
VARIANTS = OWN, SHARED, ELSEWHERE
STREAMS = 64
QUIET = ("--log-level", "warning", "--window", "4096", "--queue-size", "4096", "--background=4096")


@dataclass(frozen=True, slots=True)
class Setup:
    """How to measure."""

    redis: str
    """The server's executable."""
    seconds: float
    repeat: int
    pin: bool
    progress: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run, or the median of several, has found. Latencies in ms: a token's is from when
    the source says it to when it is read."""

    variant: str
    rate: float
    tokens: float
    ttft: Spread
    latency: Spread
    gaps: Spread
    cpu_us: float
    """hub's CPU time per token."""
    generating_us: float
    """Of the node that generates alone."""
    redis_us: float | None
    redis_bytes: float | None
    """Per 1,000 tokens."""
    failed: dict[str, int]

    def json(self) -> dict[str, Any]:
        return asdict(self)


async def costs(rates: Sequence[float], setup: Setup) -> list[Cost]:
    """Every variant at every rate, ``repeat`` times in turn; the medians."""
    cases = [(rate, variant) for rate in rates for variant in VARIANTS]
    found: dict[tuple[float, str], list[Cost]] = {case: [] for case in cases}
    cores = machine.cores()
    core = cores[0] if setup.pin and len(cores) > 1 else None
    if core is not None:
        machine.pin(0, cores[1])
    for turn in range(setup.repeat):
        for rate, variant in cases:
            cost = await _cost(rate, variant, setup, core)
            found[rate, variant].append(cost)
            setup.progress(
                f"{turn + 1}/{setup.repeat}  {rate:g} tokens/s, {variant}: TTFT p50 "
                f"{cost.ttft.p50:.2f} ms, latency p50 {cost.latency.p50:.2f} ms, "
                f"{cost.cpu_us:.1f} us per token"
            )
    return [_middle(several) for several in found.values()]


async def _cost(rate: float, variant: str, setup: Setup, core: int | None) -> Cost:
    async with AsyncExitStack() as stack:
        source = TokenSource(rate=rate)
        upstream = f"--upstream=http://127.0.0.1:{await source.start()}#continues"
        stack.push_async_callback(source.stop)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = None
        store = str(place)
        if variant != OWN:
            redis = await started(setup.redis, place, stack)
            store = f"unix://{redis.socket}"
        nodes = [
            await stack.enter_async_context(
                serving("serve", "--port", "0", upstream, "--store", store, *QUIET, core=core)
            )
            for _ in range(2 if variant == ELSEWHERE else 1)
        ]
        trees = [ProcessTree(node.pid) for node in nodes]
        if redis is not None and redis.process is not None:
            trees.append(ProcessTree(redis.process.pid))
        load = Load(
            mode="background" if variant == ELSEWHERE else "sse",
            connections=STREAMS,
            seconds=setup.seconds,
            warmup=3.0,
            max_tokens=256,
            store=True,
        )
        timings, used, held = Timings(source), [], []
        targets = [Target.parse(node.url) for node in nodes]
        streams = Streams(timings, load, targets[0], targets[1] if len(targets) > 1 else None)

        def look() -> None:
            used.append([tree.usage().cpu for tree in trees])

        held.append(await memory(redis))
        await streams.run(look, look)
        held.append(await memory(redis))
        spent = [after - before for before, after in zip(*used, strict=True)]
        tokens = timings.tokens or 1
        hub = spent[: len(nodes)]
        return Cost(
            variant=variant,
            rate=rate,
            tokens=timings.tokens,
            ttft=spread(timings.ttft, 1e3),
            latency=spread(timings.latencies, 1e3),
            gaps=spread(timings.window.gaps, 1e3),
            cpu_us=sum(hub) / tokens * 1e6,
            generating_us=hub[0] / tokens * 1e6,
            redis_us=None if redis is None else spent[-1] / tokens * 1e6,
            redis_bytes=None if redis is None else (held[1] - held[0]) / source.streamed * 1000,
            failed=timings.failed,
        )


async def started(executable: str, place: Path, stack: AsyncExitStack) -> Redis:
    """A Redis that is gone with the stack. Raises ``StartError``."""
    redis = Redis(executable, place)
    stack.push_async_callback(redis.kill)
    await redis.start()
    return redis


async def memory(redis: Redis | None) -> int:
    """What it keeps, in bytes."""
    return 0 if redis is None else int((await redis.info())["used_memory"])


def _middle(several: Sequence[Cost]) -> Cost:
    redis = [one.redis_us for one in several if one.redis_us is not None]
    kept = [one.redis_bytes for one in several if one.redis_bytes is not None]
    return replace(
        several[0],
        tokens=median(one.tokens for one in several),
        ttft=middle([one.ttft for one in several]),
        latency=middle([one.latency for one in several]),
        gaps=middle([one.gaps for one in several]),
        cpu_us=median(one.cpu_us for one in several),
        generating_us=median(one.generating_us for one in several),
        redis_us=median(redis) if redis else None,
        redis_bytes=median(kept) if kept else None,
        failed={code: n for one in several for code, n in one.failed.items()},
    )


def costs_table(found: Sequence[Cost]) -> str:
    """A Markdown table."""
    head = [
        "tokens/s of a stream", "store", "TTFT p50 / p99, ms", "token latency p50 / p99, ms",
        "ITL p50 / p99, ms", "hub, us per token", "Redis, us per token",
        "Redis, KiB per 1,000 tokens", "failed",
    ]  # fmt: skip
    rows = [
        [
            f"{one.rate:g}",
            one.variant,
            *(f"{each.p50:.2f} / {each.p99:.2f}" for each in (one.ttft, one.latency, one.gaps)),
            f"{one.cpu_us:.1f}"
            + (f" ({one.generating_us:.1f} generates)" if one.variant == ELSEWHERE else ""),
            report.number(one.redis_us),
            report.number(None if one.redis_bytes is None else one.redis_bytes / 1024),
            str(sum(one.failed.values())),
        ]
        for one in found
    ]
    return report.markdown_table(head, rows)


async def workers(counts: Sequence[int], setup: Setup) -> dict[int, list[Result]]:
    """As fast as it goes with so many workers, ``repeat`` times in turn."""
    found: dict[int, list[Result]] = {count: [] for count in counts}
    for turn in range(setup.repeat):
        for count in counts:
            result = await _unpaced(count, setup)
            found[count].append(result)
            setup.progress(
                f"{turn + 1}/{setup.repeat}  {count} workers: {result.tokens_per_s:,.0f} tokens/s"
            )
    return found


async def _unpaced(count: int, setup: Setup) -> Result:
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = await started(setup.redis, place, stack)
        source = await stack.enter_async_context(serving("bench", "source", "--port", "0"))
        store, upstream = f"unix://{redis.socket}", f"{source.url}#continues"
        hub = await stack.enter_async_context(
            serving(
                *("serve", "--port", "0", "--workers", str(count), "--store", store),
                *("--upstream", upstream, *QUIET),
            )
        )
        load = Load(
            mode="sse",
            connections=STREAMS,
            seconds=setup.seconds,
            warmup=2.0,
            drain=0.0,
            store=True,
        )
        return await Run(
            Target.parse(hub.url),
            load,
            processes=ProcessTree(hub.pid),
            source=ProcessTree(source.pid),
        ).run()


def workers_table(found: dict[int, list[Result]]) -> str:
    """A Markdown table."""
    rows = []
    for count, results in found.items():
        figures = [
            median(getattr(one, field) or 0.0 for one in results)
            for field in ("tokens_per_s", "cpu_us", "client_busy", "source_cpu_us")
        ]
        ttft = middle([one.ttft_ms for one in results])
        rows.append(
            [
                str(count),
                f"{figures[0]:,.0f}",
                f"{figures[1]:.1f}",
                f"{ttft.p50:.1f} / {ttft.p99:.1f}",
                f"{figures[2]:.0%}",
                f"{figures[3]:.1f}",
                "; ".join(report.mistakes(one) for one in results if not one.flawless) or "0",
            ]
        )
    head = [
        "workers", "tokens/s", "hub, us per token", "TTFT p50 / p99, ms", "load generator busy",
        "source, us per token", "mistakes",
    ]  # fmt: skip
    return report.markdown_table(head, rows)


def heading() -> str:
    """When and where this is measured."""
    return f"{time.strftime('%Y-%m-%d %H:%M %Z')}, {machine.description()}."
