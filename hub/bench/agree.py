"""Whether three clocks tell the same time to first token: the engine's own, hub's ledger, and the
load generator's, which is its user's.

Each contains the one before it, response by response: what the engine calls its first token is
heard by hub, which had sent the request before the engine got it; and what hub hears a reader is
told. The difference is what lies between: sockets, two event loops, and hub's own work. A clock
that is wrong, or begins or ends at another moment than it says, shows as a difference of its own.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp

from hub.bench.clients import Target
from hub.bench.load import Run
from hub.bench.plan import Load, Mode
from hub.bench.processes import serving
from hub.bench.stats import Spread, spread

CLOCKS = {
    "engine": "the engine: its first token, from when it got the request",
    "dispatched": "hub: the first token, from when the request was sent to the engine",
    "received": "hub: the first token, from when hub had received the request",
    "written": "hub: the first text handed to the reader's socket, from then",
    "reader": "the reader: the first text, from when the request was written",
}
"""In the order in which each contains the one before."""
PLACES = {
    "in hub's process": False,
    "behind a socket": True,
}
"""Where the simulated engine runs; whether that is a process of its own."""
_QUIET = ("--log-level", "warning")


class Silent(Exception):
    """A response failed, or lacks a time."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What one run found, in ms."""

    place: str
    mode: Mode
    clocks: Mapping[str, Spread]
    """TTFT by each of ``CLOCKS``."""
    steps: Mapping[str, Spread]
    """By how much each differs from the one before it."""
    whole: Spread
    """By how much the reader's differs from the engine's."""


async def measure(
    place: str, mode: Mode, *, requests: int, streams: int, max_tokens: int
) -> Agreement:
    """Run it once, with so many ``streams`` at a time. Raises ``Silent``."""
    async with AsyncExitStack() as stack:
        engine = ["--sim"]
        if PLACES[place]:
            sim = await stack.enter_async_context(serving("sim", "--port", "0"))
            engine = ["--upstream", sim.url]
        hub = await stack.enter_async_context(
            serving("serve", *_QUIET, "--port", "0", "--store", "memory", *engine)
        )
        load = Load(
            mode=mode,
            connections=1 if mode == "lanes" else streams,
            lanes=streams,
            requests=requests,
            warmup=0.5,
            max_tokens=max_tokens,
            model="",
            any_text=True,
            # What the engine has told is asked for afterwards.
            store=True,
        )
        run = Run(Target.parse(hub.url), load)
        result = await run.run()
        if not result.flawless:
            raise Silent(f"Responses failed: {result.failed}.")
        session = await stack.enter_async_context(aiohttp.ClientSession(hub.url))
        times = []
        for record in run.records:
            async with session.get(f"/v1/responses/{record.id}") as answer:
                times.append(times_of((await answer.json())["hub"], record.ttft_ms))
    return compared(place, mode, times)


def times_of(told: Mapping[str, Any], ttft: float | None) -> dict[str, float]:
    """What the ``CLOCKS`` say of one response: what hub has ``told`` of it, and its reader's TTFT
    (ms). Raises ``Silent``."""
    ledger = told["ledger_ms"]
    try:
        first = ledger["first_token"]
        times = {
            "engine": told["engine_ms"]["first_token"],
            "dispatched": first - ledger["dispatched"],
            "received": first,
            "written": ledger["first_written"],
        }
    except KeyError as missing:
        raise Silent(f"A response does not tell its {missing}.") from None
    if ttft is None:
        raise Silent("A response had no text.")
    return {**times, "reader": ttft}


def compared(place: str, mode: Mode, times: Sequence[Mapping[str, float]]) -> Agreement:
    """How far the clocks are from one another."""
    return Agreement(
        place,
        mode,
        {name: spread(one[name] for one in times) for name in CLOCKS},
        {
            later: spread(one[later] - one[earlier] for one in times)
            for earlier, later in pairwise(CLOCKS)
        },
        spread(one["reader"] - one["engine"] for one in times),
    )


def table(found: Agreement) -> str:
    """A Markdown table."""
    lines = [
        f"**The engine {found.place}, {found.mode}**, {found.clocks['engine'].count} responses",
        "",
        "| TTFT by the clock of | p50, ms | after the one before, p50 | p99 | max |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, title in CLOCKS.items():
        step = _cells(found.steps[name]) if name in found.steps else "| |"
        lines.append(f"| {title} | {found.clocks[name].p50:.2f} | {step} |")
    lines.append(f"| from the engine's to the reader's | | {_cells(found.whole)} |")
    return "\n".join(lines)


def _cells(step: Spread) -> str:
    return " | ".join(f"{ms:+.2f}" for ms in (step.p50, step.p99, step.max))
