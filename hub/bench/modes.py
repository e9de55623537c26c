"""The ways to get an answer, on the same load: what each gives its user, and what it costs.

The simulated engine is a process of its own, so hub's CPU time is hub's alone. Each mode gets both
anew, with a store on disk, and every response is kept: the requests differ in nothing but the mode.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from hub.bench import report
from hub.bench.clients import Target
from hub.bench.comparison import Outcome
from hub.bench.load import Run
from hub.bench.machine import ProcessTree
from hub.bench.plan import MAX_LANES, Load, Mode
from hub.bench.processes import serving
from hub.bench.sweep import LiveLine

COMPARED: dict[Mode, str] = {
    "sync": "synchronous",
    "background": "background, polled",
    "sse": "SSE",
    "lanes": "WebSocket lanes",
}
CHOICE = (
    "Somebody reads along: lanes if a client has several answers at a time, else SSE. A program "
    "needs the whole answer: synchronous. It must outlive client and hub, or nobody waits: "
    "background; poll seldom, or let a webhook tell."
)


async def measure(
    load: Load,
    profile: str,
    serve: Sequence[str],
    live_line: LiveLine,
    *,
    sockets: int,
    compared: Mapping[Mode, str] = COMPARED,
) -> list[Outcome]:
    """Run the load in each mode; lanes are those of so many ``sockets``. Raises ``StartError``."""
    outcomes = []
    for mode, name in compared.items():
        with live_line(name) as progress:
            async with AsyncExitStack() as stack:
                store = stack.enter_context(tempfile.TemporaryDirectory())
                engine = await stack.enter_async_context(
                    serving("sim", "--port", "0", "--profile", profile)
                )
                hub = await stack.enter_async_context(
                    serving(
                        *("serve", "--port", "0", "--store", store, "--upstream", engine.url),
                        *serve,
                    )
                )
                run = Run(
                    Target.parse(hub.url),
                    replace(load, mode=mode, store=True, connections=sockets, lanes=MAX_LANES),
                    processes=ProcessTree(hub.pid),
                    source=ProcessTree(engine.pid),
                    progress=progress,
                )
                result = await run.run()
        outcomes.append(Outcome({"mode": name}, result, run.records))
    return outcomes


HEAD = (
    "mode", "TTFT p50 / p99", "E2E p50 / p99", "tokens/s", "resp/s", "hub's CPU",
    "HTTP requests", "on the wire", "connections", "mistakes",
)  # fmt: skip


def matrix(outcomes: Iterable[Outcome]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The head and the lines of the table. Times in ms; costs are per response."""
    plain = report.plain
    lines = []
    for outcome in outcomes:
        one = outcome.result
        limited = "" if one.goodput_share is None else f" ({one.goodput_share:.0%} good)"
        lines.append(
            [
                outcome.settings["mode"],
                f"{plain(one.ttft_ms.p50)} / {plain(one.ttft_ms.p99)}",
                f"{plain(one.e2e_ms.p50)} / {plain(one.e2e_ms.p99)}",
                plain(one.tokens_per_s),
                plain(one.requests_per_s) + limited,
                "-" if one.cpu_ms is None else f"{plain(one.cpu_ms)} ms",
                plain(one.http_requests),
                f"{plain(one.wire_bytes / 1000)} kB",
                str(one.peak_connections),
                report.mistakes(one),
            ]
        )
    return HEAD, lines


def notes(poll: float) -> tuple[str, ...]:
    """What has to be known to read the table; polls were so many seconds apart."""
    return (
        "TTFT as the user sees it: synchronous, when the whole answer is there; polled, every "
        f"{poll * 1000:g} ms, when a poll first shows text. Hub's CPU time, HTTP requests and "
        "bytes are per response, connections the most that were open at a time.",
        CHOICE,
    )
