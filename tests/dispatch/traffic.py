"""Any traffic on any upstreams, in virtual time: one generator for all of the dispatcher's rules.

Everything happens at whole ticks. Between them, when nothing is on its way, a test looks at the
world; afterwards it reads what the requests and the engines have noted down.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from hub.dispatch.terms import Class, Rules, Terms
from hub.engines.base import Load
from hub.errors import HubError
from tests.dispatch.bench import Act, Bench, Site, Work, now
from tests.traces import traces

T = TypeVar("T")

TICK = 1 / 8
WATCHED = 100
"""Ticks at which the world is looked at. All arrivals are in the first 40."""
END = 200.0
"""Seconds: whatever hangs then is cancelled."""


@dataclass(frozen=True)
class Plan:
    """One request, in ticks."""

    arrives: int
    model: str
    terms: Terms
    raw: bool
    max_tokens: int | None
    acts: tuple[Act, ...]
    cancelled_after: int | None


@dataclass(frozen=True)
class Event:
    """Something that happens to an upstream, or to all of them."""

    at: int
    what: str
    """``down``, ``up``, ``drain``, ``add``, ``load``, ``configure``."""
    site: int = 0
    value: Any = None


@dataclass(frozen=True)
class Setup:
    sites: list[Site]
    rules: dict[Class, Rules]
    plans: list[Plan]
    events: list[Event] = field(default_factory=list)


ticks = st.integers(0, 8).map(lambda number: number * TICK)

acts = st.builds(
    Act,
    tokens=st.sampled_from([0, 1, 2, 3, 10]),
    delay=ticks,
    end=st.sampled_from(
        [
            *["finish"] * 5,
            "upstream_error",
            "upstream_overloaded",
            "upstream_unavailable",
            "upstream_timeout",
            "context_length_exceeded",
            "break",
            "hang",
        ]
    ),
    letting_go=st.sampled_from([0.0, 0.0, 2 * TICK]),
)

plans = st.builds(
    Plan,
    st.integers(0, 40),
    st.sampled_from(["", "", "m"]),
    st.builds(
        Terms,
        st.sampled_from(Class),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from(["", "", "lane"]),
        st.sampled_from([None, None, None, 4 * TICK, 32 * TICK]),
    ),
    st.booleans(),
    st.sampled_from([None, 4, 4, 20]),
    st.lists(acts, min_size=1, max_size=3).map(tuple),
    st.none() | st.none() | st.integers(0, 24),
)

sites = st.builds(
    Site,
    window=st.sampled_from([None, 1, 2, 3, 6]),
    models=st.fixed_dictionaries({"": st.just(True), "m": st.sampled_from([True, False, None])}),
    tokens=st.sampled_from([None, None, 40, 80]),
    gather=st.sampled_from([None, None, None, 2 * TICK]),
    arrays=st.booleans(),
    slots=st.sampled_from([None, 1, 4]),
)

events = st.one_of(
    st.builds(
        Event, st.integers(0, 40), st.sampled_from(["down", "up", "drain"]), st.integers(0, 2)
    ),
    st.builds(Event, st.integers(0, 40), st.just("add"), value=sites),
    st.builds(
        Event,
        st.integers(0, 40),
        st.just("load"),
        st.integers(0, 2),
        st.builds(
            Load,
            slots=st.none() | st.integers(1, 8),
            waiting=st.none() | st.integers(0, 4),
            kv_used=st.none() | st.sampled_from([0.1, 0.95]),
        ),
    ),
)


@st.composite
def rules(draw: st.DrawFn) -> dict[Class, Rules]:
    flush_interval = st.sampled_from([0.0, 0.0, 2 * TICK, 8 * TICK])
    return {
        rank: Rules(
            batch_size=draw(st.integers(1, 4)),
            flush_interval=draw(flush_interval),
            queue_size=draw(st.integers(1, 20)),
            tenant_queue=draw(st.integers(1, 20)),
            ceiling=ceiling,
            patience=draw(st.sampled_from([16 * TICK, 100.0])),
            age=draw(st.sampled_from([4 * TICK, 100.0])),
        )
        for rank, ceiling in zip(Class, (1.0, 0.9, 0.5, 0.5), strict=True)
    }


setups = st.builds(
    Setup,
    st.lists(sites, min_size=1, max_size=3),
    rules(),
    traces(plans, 30),
    st.lists(events, max_size=4),
)


class World:
    """Plays a setup, and knows what must be true of it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.bench = Bench(*setup.sites, ranks=setup.rules)
        self.accepted: list[Work] = []
        self.wishes: set[Work] = set()
        """Those that were cancelled before they had ended."""
        self.refusals: list[str] = []
        self.drained = False
        self._timers: list[asyncio.TimerHandle] = []

    async def play(
        self, look: Callable[["World"], None] = lambda world: None, *, end: float = END
    ) -> None:
        """Let everything happen, up to ``end``. ``look`` is called between the ticks."""
        for plan in self.setup.plans:
            self._at(plan.arrives, self._arrive, plan)
        for event in self.setup.events:
            self._at(event.at, self._happen, event)
        for tick in range(min(WATCHED, int(end / TICK))):
            await asyncio.sleep((tick + 0.5) * TICK - now())
            look(self)
        await asyncio.sleep(end - now())
        for timer in self._timers:
            timer.cancel()
        await self.bench.close()

    def _at(self, tick: int, do: Callable[[T], None], what: T) -> None:
        self._timers.append(asyncio.get_running_loop().call_at(tick * TICK, do, what))

    # What happens.

    def _arrive(self, plan: Plan) -> None:
        work = Work(
            plan.model, *plan.acts, terms=plan.terms, raw=plan.raw, max_tokens=plan.max_tokens
        )
        before = self.bench.shed()
        possible = self.possible(work)
        work.submitted_at = now()
        try:
            self.bench.dispatcher.submit(work)
        except HubError as refusal:
            after = self.bench.shed()
            (why,) = [why for why in after if after[why] != before.get(why)] or ["model_not_found"]
            self._check_refusal(work, refusal, why, possible)
            return
        self.accepted.append(work)
        if plan.cancelled_after is not None:
            self._at(plan.arrives + plan.cancelled_after, self._cancel, work)

    def _cancel(self, work: Work) -> None:
        if work.outcome is None:
            self.wishes.add(work)
        self.bench.dispatcher.cancel(work)

    def _happen(self, event: Event) -> None:
        number = event.site % len(self.bench.engines)
        match event.what:
            case "down" | "up":
                self.bench.engines[number].down = event.what == "down"
            case "load":
                self.bench.engines[number].load = event.value
            case "drain":
                self.drained = True
                self.bench.dispatcher.drain(self.bench.upstreams[number])
            case "add":
                self.bench.add(event.value)

    # What is true, as far as it can be seen from outside.

    def candidates(self, work: Work) -> list[int]:
        """The upstreams that serve its model, or else might."""
        model = work.generation.model
        answers = {
            number: engine.serves(model)
            for number, engine in enumerate(self.bench.engines)
            if not self.bench.upstreams[number].leaving
        }
        listing = [number for number, answer in answers.items() if answer]
        return listing or [number for number, answer in answers.items() if answer is None]

    def possible(self, work: Work) -> list[int]:
        """The upstreams on which it could run now."""
        return [number for number in self.candidates(work) if self._has_room(work, number)]

    def _has_room(self, work: Work, number: int) -> bool:
        upstream = self.bench.upstreams[number]
        window, state = upstream.window, upstream.breaker.state
        rank = work.terms.rank
        better = any(one.terms.rank < rank for one in self.accepted)  # all in the last minute
        share = self.setup.rules[rank].ceiling if better else 1.0
        most = window.size if share == 1 else max(1, int(window.size * share))
        return (
            state != "open"
            and (state == "closed" or not window.in_flight)
            and upstream.name not in [one.engine for one in work.attempts if one.error]
            and not (upstream.stage is not None and window.in_flight > len(upstream.stage))
            and window.in_flight < most
            and (
                window.budget is None
                or not window.in_flight
                or window.tokens + work.need <= window.budget
            )
        )

    def _check_refusal(self, work: Work, refusal: HubError, why: str, possible: list[int]) -> None:
        """The refusal has its reason, and says when to come back."""
        self.refusals.append(why)
        rank, tenant = work.terms.rank, work.terms.tenant
        rules = self.setup.rules[rank]
        waiting = [one for one in self.accepted if self.bench.waits(one)]
        class_waiting = [one for one in waiting if one.terms.rank is rank]
        candidates = [self.bench.upstreams[number] for number in self.candidates(work)]
        match why:
            case "queue_full":
                # Who has come back is let in.
                assert len(class_waiting) >= rules.queue_size
            case "tenant_full":
                of_tenant = [one for one in class_waiting if one.terms.tenant == tenant]
                assert len(of_tenant) >= rules.tenant_queue
            case "too_late":
                assert not possible
                assert work.terms.patience is not None or rules.patience < 100
                assert any(one.service.mean for one in candidates)
            case "upstream_unavailable":
                assert candidates
                assert all(one.breaker.state == "open" for one in candidates)
            case "model_not_found":
                assert not candidates
        if why != "model_not_found":
            assert refusal.retry_after is not None
            assert refusal.retry_after >= 1
        assert refusal.row.retryable or why == "model_not_found"

    def live(self) -> list[Work]:
        return [work for work in self.accepted if work.outcome is None]

    def patience(self, work: Work) -> float:
        own = work.terms.patience
        return self.setup.rules[work.terms.rank].patience if own is None else own
