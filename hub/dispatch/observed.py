"""What the dispatcher counts: every decision and why it was made. Pure."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Self

from hub.dispatch.queue import ClassQueue
from hub.dispatch.terms import Class
from hub.dispatch.upstream import UpstreamStatistics

WAITS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds (seconds, inclusive) by which waits are counted; one more counts the rest."""


class Waits:
    """How long requests waited in the queue."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.most = 0.0
        self.buckets = [0] * (len(WAITS) + 1)

    def note(self, seconds: float) -> None:
        self.count += 1
        self.sum += seconds
        self.most = max(self.most, seconds)
        self.buckets[bisect_left(WAITS, seconds)] += 1


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """One class of requests."""

    queued: int
    dispatched: int
    wait_seconds: float
    """The sum of what the dispatched have waited."""
    longest_wait: float
    waits: list[int]
    """How many have waited for how long: by the bounds ``WAITS``, not cumulative."""
    tenants: int
    """Tenants with something waiting."""
    fairness_spread: float
    """How far apart these tenants' service is, in weighted tokens."""

    @classmethod
    def of(cls, queue: ClassQueue, waits: Waits) -> Self:
        tenants = queue.tenants
        return cls(
            queued=len(queue),
            dispatched=waits.count,
            wait_seconds=waits.sum,
            longest_wait=waits.most,
            waits=[*waits.buckets],
            tenants=len(tenants),
            fairness_spread=queue.fair.spread(tenants),
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the dispatcher is doing, and what it did since the start."""

    queued: int
    in_flight: int
    classes: dict[str, ClassStatistics]
    upstreams: dict[str, UpstreamStatistics]
    dispatched: dict[str, int]
    """Batches by the reason for which they left."""
    batches: dict[str, int]
    """Batches by their size."""
    arrays: int
    """Batches that were sent as one request."""
    shed: dict[str, int]
    """Requests that were refused, or gave up waiting, by why."""
    cancelled: dict[str, int]
    """Requests that were cancelled, by where they were: ``queued``, ``running``."""
    retried: dict[str, int]
    """Requests that were sent again to another upstream, by the error of the first."""


class Counts:
    """What happened so far."""

    def __init__(self) -> None:
        self.waits = {rank: Waits() for rank in Class}
        self.reasons: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        self.shed: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.retried: Counter[str] = Counter()
        self.arrays = 0

    def batch(self, reason: str, size: int) -> None:
        """A batch has left."""
        self.reasons[reason] += 1
        self.sizes[size] += 1

    def statistics(
        self,
        in_flight: int,
        classes: dict[str, ClassStatistics],
        upstreams: dict[str, UpstreamStatistics],
    ) -> Statistics:
        return Statistics(
            queued=sum(one.queued for one in classes.values()),
            in_flight=in_flight,
            classes=classes,
            upstreams=upstreams,
            dispatched=dict(self.reasons),
            batches={str(size): count for size, count in sorted(self.sizes.items())},
            arrays=self.arrays,
            shed=dict(self.shed),
            cancelled=dict(self.cancelled),
            retried=dict(self.retried),
        )
