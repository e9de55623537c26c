"""An upstream, as the dispatcher sees it: an engine, its window, its breaker, and what it knows."""

from collections import Counter
from collections.abc import Mapping
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
from hub.division import Claim, Share
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
        server: str = "",
    ) -> None:
        """``window`` is the most requests that it holds, ``None`` to find that out; ``tokens`` the
        most tokens, ``None`` for what the server says of its cache, if it does.

        ``gather`` (seconds) is for a server that cannot batch by itself: what goes there is
        gathered for so long, up to ``window`` requests, and sent together when the last batch has
        ended. ``arrays`` sends equal raw completions of the background class as one request.
        ``server`` is what all nodes know the server by; without, no other node uses it.
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
        self.server = server
        self.share: Share | None = None
        """What is this node's of a window that is divided (``hub.division``)."""
        self.leaving = False
        self.limited = False
        """Somebody waited for room here since it was last asked how it is."""
        self.failure: HubError | None = None
        """Why its breaker opened."""
        self.ended: Counter[str] = Counter()
        self.prefix_hits = 0
        self._own_budget = tokens is not None
        self._budget = tokens
        """Of all nodes together."""
        self._fixed = self.window.size if fixed else None
        self._nodes = 0
        """How many use it; 0 while it is not divided."""
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
            self._budget = load.kv_tokens
        if self.adaptive is not None and load.slots is not None:
            self.adaptive.slots(now, load.slots)
        self._fit(now)
        if self.adaptive is not None:
            self.adaptive.load(now, load)

    # What other nodes leave it.

    def divide(self, now: float) -> None:
        """Other nodes use it, too: until they were heard (``settle``) one place is this node's."""
        self._nodes = self._nodes or 1
        if self.total is not None:
            self.share = Share(self.total)
        self._fit(now)

    def claim(self, waiting: int) -> Claim:
        """What to tell the others, if so many wait for it."""
        demand, used = self.window.in_flight + waiting, self._used
        if self.share is None:
            return Claim(demand, max(used, self.window.size))
        return self.share.claim(demand, used)

    def settle(self, name: str, claims: Mapping[str, Claim], now: float) -> None:
        """Go by what all nodes that use it said when they were told the last ``claim``; this one is
        ``name``."""
        nodes = len({*claims, name})
        if self.adaptive is not None and self.total is None and not self.adaptive.changes:
            # Together they begin as one would.
            self.window.size = max(1, Adaptive.first_size(None) // nodes)
        self._nodes = nodes
        if self.share is not None:
            self.share.settle(name, claims)
        self._fit(now)

    @property
    def restless(self) -> bool:
        """Whether the others should have the next ``claim`` soon."""
        return self.share is not None and self.share.restless(self._used)

    @property
    def total(self) -> int | None:
        """The window of all nodes together; ``None`` while each finds its own."""
        return self._fixed if self.adaptive is None else self.adaptive.most

    @property
    def _used(self) -> int:
        """How many places its requests take, or their tokens, if those take more."""
        used = self.window.in_flight
        if self.share is not None and self._budget is not None:
            tokens = -(-self.window.tokens * self.share.total // self._budget)
            used = max(used, min(tokens, self.share.total))
        return used

    def _fit(self, now: float) -> None:
        """Keep to the share."""
        total, part = self.total, 1.0 / max(1, self._nodes)
        if self._nodes and total is not None:
            if self.share is None:
                # The others find the slots out at about the same time.
                self.share = Share(total, max(1, total // self._nodes))
            elif self.share.total != total:
                self.share.change(total)
            self._resize(self.share.size, now)
            part = self.share.size / total
        if self._budget is not None:
            self.window.budget = max(1, int(self._budget * part))

    def _resize(self, size: int, now: float) -> None:
        if self.adaptive is not None:
            self.adaptive.share(now, size)
        else:
            self.window.size = size
            if self.stage is not None:
                self.stage.size = size

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
