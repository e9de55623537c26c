"""Sweeps: the same load on hub with other settings, or other loads, one after the other.

hub and the simulated engine are started anew for every run, so that none inherits anything from
the one before. A server that runs already is aimed at as it is; its batch size and flush interval
can be changed if it is a hub that was started with ``--lab``, and are put back at the end.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import aiohttp

from hub.bench.clients import Target
from hub.bench.comparison import Outcome
from hub.bench.load import Run
from hub.bench.machine import ProcessTree
from hub.bench.plan import Load, lanes_for
from hub.bench.processes import serving
from hub.bench.running import Progress

LiveLine = Callable[[str], AbstractContextManager[Progress | None]]
"""Makes what is told how far a run is, from the run's title."""


@dataclass(frozen=True, slots=True)
class Point:
    """What is set for one run; ``None``: left as it is."""

    concurrency: int | None = None
    """Requests at a time, in closed loop, or ..."""
    rate: float | None = None
    """... requests per second, in open loop."""
    batch_size: int | None = None
    flush_interval: float | None = None
    """In ms."""

    def settings(self) -> dict[str, str]:
        """By name, with units."""
        named = {
            "concurrency": None if self.concurrency is None else str(self.concurrency),
            "rate": None if self.rate is None else f"{self.rate:g}/s",
            "batch size": None if self.batch_size is None else str(self.batch_size),
            "flush interval": None
            if self.flush_interval is None
            else f"{self.flush_interval:g} ms",
        }
        return {name: value for name, value in named.items() if value is not None}

    def load(self, load: Load) -> Load:
        """A load with this concurrency or rate."""
        if self.concurrency is None:
            return replace(load, rate=self.rate)
        if load.mode != "lanes":
            return replace(load, rate=None, connections=self.concurrency)
        connections, lanes = lanes_for(self.concurrency)
        return replace(load, rate=None, connections=connections, lanes=lanes)

    def flags(self) -> list[str]:
        """Of ``hub serve``."""
        flags = []
        if self.batch_size is not None:
            flags += ["--batch-size", str(self.batch_size)]
        if self.flush_interval is not None:
            flags += ["--flush-interval", f"{self.flush_interval:g}"]
        return flags

    def changes(self) -> dict[str, float]:
        """Of ``/lab/settings``."""
        wanted = {"batch_size": self.batch_size, "flush_interval_ms": self.flush_interval}
        return {name: value for name, value in wanted.items() if value is not None}


def points(
    *,
    concurrency: Sequence[float] = (),
    rate: Sequence[float] = (),
    batch_size: Sequence[float] = (),
    flush_interval: Sequence[float] = (),
) -> list[Point]:
    """Every combination, in order; the last one varies fastest."""
    return [
        Point(
            concurrency=None if many is None else int(many),
            rate=often,
            batch_size=None if size is None else int(size),
            flush_interval=interval,
        )
        for many, often, size, interval in product(
            concurrency or (None,),
            rate or (None,),
            batch_size or (None,),
            flush_interval or (None,),
        )
    ]


class SettingsError(Exception):
    """A server does not let its settings be changed."""


async def measure(
    points: Sequence[Point],
    load: Load,
    serve: Sequence[str],
    live_line: LiveLine,
    *,
    target: Target | None = None,
    processes: ProcessTree | None = None,
) -> list[Outcome]:
    """Run the load at each point: on a hub of its own, started with ``serve``, or on ``target``,
    whose ``processes`` may be known.

    Raises ``StartError`` if hub cannot be started, ``SettingsError`` if the target's settings
    cannot be changed.
    """
    outcomes = []
    async with _settings(target if any(one.changes() for one in points) else None) as change:
        for number, point in enumerate(points, 1):
            told = ", ".join(f"{name} {value}" for name, value in point.settings().items())
            with live_line(f"{number}/{len(points)} {told}") as progress:
                if target is None:
                    async with serving("serve", "--port", "0", *serve, *point.flags()) as hub:
                        one = Run(
                            Target.parse(hub.url),
                            point.load(load),
                            processes=ProcessTree(hub.pid),
                            progress=progress,
                        )
                        result = await one.run()
                else:
                    await change(point.changes())
                    one = Run(
                        target,
                        point.load(load),
                        processes=processes,
                        progress=progress,
                    )
                    result = await one.run()
            outcomes.append(Outcome(point.settings(), result, one.records))
    return outcomes


@asynccontextmanager
async def _settings(target: Target | None) -> AsyncIterator[Callable[[Mapping[str, float]], Any]]:
    """What changes a target's settings. They are put back at the end."""

    async def nothing(changes: Mapping[str, float]) -> None:
        assert not changes, "there is nothing to change them at"

    if target is None:
        yield nothing
        return
    url = f"http://{target.authority}{target.path}/lab/settings"
    async with aiohttp.ClientSession() as session:

        async def change(changes: Mapping[str, float]) -> None:
            async with session.post(url, json=dict(changes)) as answer:
                if answer.status != 200:
                    raise SettingsError((await answer.json())["error"]["message"])

        try:
            async with session.get(url) as answer:
                if answer.status != 200:
                    raise SettingsError(f"{target.authority} has no settings that can be changed.")
                before = await answer.json()
        except aiohttp.ClientError as error:
            raise SettingsError(f"{target.authority} does not answer: {error}.") from None
        if not before.pop("changeable"):
            raise SettingsError(
                f"The settings of {target.authority} cannot be changed: start it with --lab."
            )
        try:
            yield change
        finally:
            await change(before)
