"""Tries the dispatcher on the simulated engine: a plan of requests goes in, times come out.

In virtual time (``hub.clock``) that takes as long as its computations, and the same plan, setting
and seed give the same result every time. In real time it also shows what the dispatcher itself
costs, which is nothing in virtual time.

What is compared is the same dispatcher with other settings (``Setting``): sending everything at
once is a window without end, a static batch is a server that takes one batch after the other.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from hub.api.requests import Generation, Json, Usage
from hub.bench.stats import Spread, spread
from hub.bench.traffic import Ask
from hub.clock import run_virtual
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import RULES, Class, Rules, Terms
from hub.dispatch.upstream import Upstream
from hub.engines.base import Load, Sink
from hub.engines.sim import Run, SimEngine
from hub.engines.sim_model import Profile
from hub.engines.sim_text import Script, prompt_tokens
from hub.errors import HubError
from hub.ledger import Ledger

EVERYTHING = 1_000_000
"""A window that is never full."""
LOOK = 0.25
"""Seconds between two looks at the size of the window."""


Knows = Literal["slots", "load", "nothing"]
"""What the dispatcher learns of the server: how many slots it has, as llama.cpp tells; how many run
and wait there and how full its cache is, as vLLM tells; or neither."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How the dispatcher is set, and what it knows of the server."""

    name: str
    window: int | None = None
    """Requests; ``None`` to adapt."""
    gather: float | None = None
    """Seconds, for a server that cannot batch by itself. See ``Upstream``."""
    rules: Mapping[Class, Rules] = field(default_factory=lambda: RULES)
    blind: bool = False
    """All requests are of one class and one tenant."""
    knows: Knows = "slots"


SEND_ALL = Setting("send-all", window=EVERYTHING, blind=True)
"""What a plain proxy does: the model server's queue is the only one."""
HUB = Setting("hub")
"""The defaults."""


class PlannedEngine(SimEngine):
    """A simulated engine whose answers have exactly as many tokens as were asked for."""

    def __init__(self, profile: Profile, setting: Setting, *, speed: float, seed: int) -> None:
        super().__init__(profile, speed=speed, seed=seed)
        self._knows = setting.knows
        if self._knows != "slots":
            self.slots = None
        self.entered: dict[int, float] = {}
        """When each generation got here, by its ``id``."""

    async def generate(self, generation: Generation, sink: Sink) -> None:
        self.entered[id(generation)] = asyncio.get_running_loop().time()
        await super().generate(generation, sink)

    async def probe(self) -> Load:
        if self._knows == "nothing":
            return Load()
        load = await super().probe()
        return load if self._knows == "slots" else replace(load, slots=None)

    def start(self, generation: Generation, sink: Sink) -> Run:
        assert generation.max_tokens is not None, "a plan says how long an answer is"
        loop = asyncio.get_running_loop()
        script, done = _script(generation.max_tokens), loop.create_future()
        run = Run(prompt_tokens(generation), script, sink, None, done, loop.time())
        self._add(run)
        return run


@lru_cache(maxsize=4096)
def _script(tokens: int) -> Script:
    return Script(text=("x",) * tokens, finish="length")


@lru_cache(maxsize=4096)
def _prompt(tokens: int) -> str:
    return "text" * tokens


class Trip:
    """One request: a ``dispatch.flight.Job`` and the sink of its tokens. It notes times only."""

    def __init__(self, ask: Ask, run: "Trial") -> None:
        self.ask = ask
        self.generation = Generation(
            "", (), prompt=_prompt(ask.prompt_tokens), max_tokens=ask.output_tokens
        )
        blind = run.setting.blind
        self.terms = Terms() if blind else Terms(rank=ask.rank, tenant=ask.tenant)
        self.ledger = Ledger(asyncio.get_running_loop().time)
        self.tokens = 0
        self.arrived = 0.0
        self.first: float | None = None
        self.ended: float | None = None
        """When it was completed."""
        self.waits = False
        """It has no token yet."""
        self._run = run
        self._time = asyncio.get_running_loop().time

    @property
    def sink(self) -> "Trip":
        return self

    # What the dispatcher says.

    def started(self) -> None: ...

    def completed(self) -> None:
        self.ended = self._time()
        self._run.over(self, None)

    def failed(self, error: HubError) -> None:
        self._run.over(self, error.code)

    def cancelled(self) -> None:
        self._run.over(self, None)

    # What the engine says.

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        if not self.tokens:
            self.first = self._time()
            self._run.begun(self)
        self.tokens += 1

    def reasoning(self, delta: str) -> None: ...
    def refusal(self, delta: str) -> None: ...
    def tool_call(self, index: int, call_id: str | None, name: str | None, args: str) -> None: ...
    def usage(self, usage: Usage) -> None: ...
    def finish(self, reason: str) -> None: ...

    @property
    def service(self) -> float:
        """Weighted tokens that it was served: see ``dispatch.terms``."""
        return self.ask.prompt_tokens + 2.0 * self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """What the requests of one class experienced. Times in milliseconds, from arrival."""

    requests: int
    ttft: Spread
    e2e: Spread
    wait: Spread
    """From arrival to the engine's being called: what the dispatcher adds."""
    tokens_per_s: float
    """Until the last request had arrived."""
    lost: dict[str, int]
    """Requests that were refused or failed, by error code."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one trial."""

    classes: dict[Class, Times]
    tokens_per_s: float
    """Of all classes together."""
    finished: list[float]
    """When each completed request ended, in seconds, in order."""
    windows: list[int]
    """The size of the window, looked at four times a second until the last request arrived."""
    changes: dict[str, int]
    """How often the window was changed, by why."""
    shared: dict[str, float]
    """Weighted tokens that each tenant was served while all of them had requests waiting, here or
    at the server."""


class Trial:
    """One run of a plan. Make one inside the loop, await ``run`` once."""

    def __init__(
        self, plan: Sequence[Ask], profile: Profile, setting: Setting, *, speed: float, seed: int
    ) -> None:
        self.setting = setting
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._engine = PlannedEngine(profile, setting, speed=speed, seed=seed)
        self._upstream = Upstream(self._engine, setting.window, gather=setting.gather)
        self._dispatcher = Dispatcher([self._upstream], setting.rules)
        self._trips = [Trip(ask, self) for ask in plan]
        self._lost: dict[Class, Counter[str]] = {rank: Counter() for rank in Class}
        self._open = len(plan)
        self._all_over = asyncio.Event()
        self._windows: list[int] = []
        self._waiting = dict.fromkeys(sorted({ask.tenant for ask in plan}), 0)
        self._shared = dict.fromkeys(self._waiting, 0.0)
        self._before: dict[str, float] | None = None
        """What the tenants had been served when the last of them began to wait."""

    async def run(self, *, cut: bool = False) -> Outcome:
        """Returns when every request has ended; ``cut`` ends those that are left when the last has
        arrived."""
        begun = self._loop.time()
        look = asyncio.create_task(self._look())
        for trip in self._trips:
            due = begun + trip.ask.at + trip.ask.held
            if (early := due - self._loop.time()) > 0:
                await asyncio.sleep(early)
            self._submit(trip)
        tokens = {rank: self._tokens(rank) for rank in Class}
        seconds = self._loop.time() - begun
        look.cancel()
        if not cut:
            await self._all_over.wait()
        await self._dispatcher.close()
        await self._engine.close()
        adaptive = self._upstream.adaptive
        return Outcome(
            {
                rank: self._times(rank, tokens[rank], seconds)
                for rank in Class
                if any(ask.rank is rank for ask in self._plan)
            },
            sum(tokens.values()) / seconds if seconds else float("nan"),
            sorted(trip.ended - begun for trip in self._trips if trip.ended is not None),
            self._windows,
            dict(adaptive.changes) if adaptive else {},
            self._shared,
        )

    # What its trips say.

    def begun(self, trip: Trip) -> None:
        """A request has its first token, or will have none."""
        if trip.waits:
            trip.waits = False
            self._count(trip.ask.tenant, -1)

    def over(self, trip: Trip, lost: str | None) -> None:
        """A request has ended; ``lost`` is the code of its error."""
        self.begun(trip)
        if lost is not None:
            self._lost[trip.ask.rank][lost] += 1
        self._open -= 1
        if not self._open:
            self._all_over.set()

    def _submit(self, trip: Trip) -> None:
        trip.arrived = self._loop.time() - trip.ask.held
        trip.waits = True
        self._count(trip.ask.tenant, +1)
        try:
            self._dispatcher.submit(trip)
        except HubError as refusal:
            self.over(trip, refusal.code)

    def _count(self, tenant: str, change: int) -> None:
        """Keep the account of what is served while all tenants wait."""
        self._waiting[tenant] += change
        contended = len(self._waiting) > 1 and all(self._waiting.values())
        if contended and self._before is None:
            self._before = self._served()
        elif not contended and self._before is not None:
            for name, now in self._served().items():
                self._shared[name] += now - self._before[name]
            self._before = None

    def _served(self) -> dict[str, float]:
        served = dict.fromkeys(self._waiting, 0.0)
        for trip in self._trips:
            served[trip.ask.tenant] += trip.service
        return served

    async def _look(self) -> None:
        while True:
            self._windows.append(self._upstream.window.size)
            await asyncio.sleep(LOOK)

    def _tokens(self, rank: Class) -> int:
        return sum(trip.tokens for trip in self._trips if trip.ask.rank is rank)

    def _times(self, rank: Class, tokens: int, seconds: float) -> Times:
        trips = [trip for trip in self._trips if trip.ask.rank is rank]
        entered = self._engine.entered
        return Times(
            len(trips),
            spread((t.first - t.arrived for t in trips if t.first is not None), 1e3),
            spread((t.ended - t.arrived for t in trips if t.ended is not None), 1e3),
            spread((at - t.arrived for t in trips if (at := entered.get(id(t.generation)))), 1e3),
            tokens / seconds if seconds else float("nan"),
            dict(self._lost[rank]),
        )


async def _trial(
    plan: Sequence[Ask], profile: Profile, setting: Setting, speed: float, seed: int, cut: bool
) -> Outcome:
    return await Trial(plan, profile, setting, speed=speed, seed=seed).run(cut=cut)


def try_virtual(
    plan: Sequence[Ask], profile: Profile, setting: Setting, *, seed: int = 0, cut: bool = False
) -> Outcome:
    """Run a plan in virtual time. See ``Trial.run``."""
    return run_virtual(_trial(plan, profile, setting, 1.0, seed, cut))


def try_real(
    plan: Sequence[Ask], profile: Profile, setting: Setting, *, speed: float, seed: int = 0
) -> Outcome:
    """Run a plan in real time, on an engine that is ``speed`` times as fast as its profile."""
    return asyncio.run(_trial(plan, profile, setting, speed, seed, False))


def capacity(
    plan: Sequence[Ask], profile: Profile, setting: Setting = SEND_ALL, *, seed: int = 0
) -> float:
    """Requests per second that a server completes of a long backlog, its first and last fifth left
    out."""
    finished = try_virtual(plan, profile, setting, seed=seed).finished
    low, high = len(finished) // 5, 4 * len(finished) // 5
    return (high - low) / (finished[high] - finished[low])
