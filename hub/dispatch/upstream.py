"""An upstream, as the dispatcher sees it: an engine, its window, its breaker, and what it knows."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hub.dispatch.adapt import Adaptive
from hub.dispatch.breaker import Breaker
from hub.dispatch.demand import Demand
from hub.dispatch.estimate import ServiceTime
from hub.dispatch.route import Prefixes
from hub.dispatch.stage import Stage
from hub.dispatch.terms import Class
from hub.dispatch.window import Window
from hub.engines.base import Engine, Load
from hub.errors import Fault, HubError

LEAST_TOKENS = 8
"""A shorter answer says nothing of the speed of decoding."""


STEADY = 0.05
"""How far from a whole number the mean of those side by side may be: else it was a mixture."""


@dataclass(frozen=True, slots=True)
class UpstreamStatistics:
    """What an upstream holds, and what became of its requests since the start."""

    state: str
    """Its breaker's: ``closed`` is well; or ``leaving``."""
    in_flight: int
    tokens: int
    window: int
    budget: int | None
    window_changes: dict[str, int]
    """How often its window was changed, by why."""
    ended: dict[str, int]
    """Requests by how they ended there: ``ok``, ``cancelled``, or the error's code."""
    opened: int
    """How often its breaker has opened."""
    prefix_hits: int
    """Requests that began with what it had seen before."""


class Upstream:
    """See the top of this file. One dispatcher's only."""

    def __init__(
        self,
        engine: Engine,
        window: int | None = None,
        *,
        tokens: int | None = None,
        gather: float | None = None,
        arrays: bool = False,
    ) -> None:
        """``window`` is the most requests that it holds, ``None`` to find that out; ``tokens`` the
        most tokens, ``None`` for what the server says of its cache, if it does.

        ``gather`` (seconds) is for a server that cannot batch by itself: what goes there is
        gathered for so long, up to ``window`` requests, and sent together when the last batch has
        ended. ``arrays`` sends equal raw completions of the background class as one request.
        """
        self.engine = engine
        self.name = engine.name
        self.window = Window(window or Adaptive.first_size(engine.slots), tokens)
        fixed = window is not None or gather is not None
        self.adaptive = None if fixed else Adaptive(self.window, slots=engine.slots)
        self.demand = Demand()
        self.breaker = Breaker()
        self.prefixes = Prefixes()
        self.service = ServiceTime()
        self.stage = None if gather is None else Stage[Any](self.window.size, gather)
        self.arrays = arrays
        self.leaving = False
        self.limited = False
        """Somebody waited for room here since it was last asked how it is."""
        self.failure: HubError | None = None
        """Why its breaker opened."""
        self.ended: Counter[str] = Counter()
        self.prefix_hits = 0
        self._own_budget = tokens is not None
        self._crowd = 0.0
        self._counted = 0.0

    @property
    def closed(self) -> bool:
        return self.stage is not None and self.window.in_flight > len(self.stage)

    # What happens to its requests.

    def held_back(self) -> None:
        """A request waits for room in the window."""
        self.limited = True
        if self.adaptive is not None:
            self.adaptive.held_back()

    def first_token(self, now: float, sent_at: float, prompt_tokens: int) -> None:
        """A request has its first token."""
        self.breaker.success()
        if self.adaptive is not None:
            self.adaptive.first_token(now, sent_at, prompt_tokens)

    def take(self, need: int, now: float, rank: Class = Class.CHAT) -> None:
        """Reserve a place for a request of a class."""
        self._count(now)
        self.window.take(need)
        self.demand.take(rank, now)

    def give_back(self, need: int, now: float) -> None:
        """Free a place."""
        self._count(now)
        self.window.give_back(need)
        self.demand.give_back(now)

    def crowd(self, now: float) -> float:
        """The sum over time of how many requests it held, in request-seconds: the difference of
        two such sums, by the time between them, is how many ran side by side."""
        self._count(now)
        return self._crowd

    def _count(self, now: float) -> None:
        self._crowd += self.window.in_flight * (now - self._counted)
        self._counted = now

    def completed(self, now: float, sent_at: float) -> None:
        """A request has ended well."""
        self.ended["ok"] += 1
        self.breaker.success()
        self.service.note(now - sent_at)

    def decoded(self, now: float, first_at: float, tokens: int, crowd: float) -> None:
        """A request has had so many tokens since its first, which came at ``first_at``, when the
        ``crowd`` was so large."""
        seconds = now - first_at
        if self.adaptive is None or tokens < LEAST_TOKENS or seconds <= 0:
            return
        beside = (self.crowd(now) - crowd) / seconds
        if abs(beside - round(beside)) <= STEADY * beside:
            self.adaptive.ended(now, round(beside), seconds, tokens + 1)

    def failed(self, error: HubError, now: float, sent_at: float, *, said: bool) -> None:
        """A request has failed, possibly after having ``said`` something."""
        self.ended[error.code] += 1
        if error.code == "upstream_overloaded":
            if self.adaptive is not None:
                self.adaptive.refused(now, sent_at)
        elif error.row.fault is Fault.UPSTREAM:
            self.failure = error
            unreachable = error.code == "upstream_unavailable" and not said
            self.breaker.failure(now, unreachable=unreachable)
        elif error.row.fault is Fault.CLIENT:
            self.breaker.success()

    def unreachable(self, error: HubError, now: float) -> None:
        """It was asked what it serves, and did not answer."""
        self.failure = error
        self.breaker.failure(now, unreachable=True)

    def said(self, load: Load, now: float) -> None:
        """It was asked how it is."""
        if load.kv_tokens is not None and not self._own_budget:
            self.window.budget = load.kv_tokens
        if self.adaptive is not None:
            if load.slots is not None:
                self.adaptive.slots(now, load.slots)
            self.adaptive.load(now, load)

    def statistics(self) -> UpstreamStatistics:
        return UpstreamStatistics(
            state="leaving" if self.leaving else self.breaker.state,
            in_flight=self.window.in_flight,
            tokens=self.window.tokens,
            window=self.window.size,
            budget=self.window.budget,
            window_changes=dict(self.adaptive.changes) if self.adaptive else {},
            ended=dict(self.ended),
            opened=self.breaker.opened,
            prefix_hits=self.prefix_hits,
        )
