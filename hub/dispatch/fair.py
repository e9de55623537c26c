"""Fair shares: who of a class's tenants is served next. Pure.

The virtual token counter of Sheng et al. (Fairness in Serving Large Language Models, OSDI 2024):
every tenant has a counter of the weighted tokens that it was served, input when it is dispatched
and output as it is made. Whoever has the least goes next. A tenant who comes back after having
nothing in the queue is lifted to the least of those who are there: being away earns no credit. So
the service of two tenants who both always have work waiting differs by a bounded amount, whoever
asks for more, and whoever is alone gets everything.

Two cases are not in the paper. Tenants who come once, one after the other, would all start at the
same least and keep everybody above it waiting for ever: so there is a virtual time, as in WF2Q+
(Bennett and Zhang, 1996), that goes on with every token that is served: nobody starts below it.
And with several models, whoever is passed over because there is no place for what it wants is not
owed what others are served meanwhile: else it would hold the least down for newcomers, and keep
everybody else waiting once there is a place.
"""

from collections.abc import Collection, Sequence

MAX_COUNTERS = 4096
"""Tenants that are remembered. Forgetting one only forgives what it had more than the others."""


class FairShare:
    """The counters of one class."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._last = ""
        """Who was dispatched last."""
        self._time = 0.0
        self._beside = 0
        """Tenants that shared when somebody was last dispatched."""

    def arrive(self, tenant: str, waiting: Collection[str]) -> None:
        """A tenant begins to wait beside those of ``waiting``."""
        least = min(map(self._counter, waiting), default=self._counter(self._last))
        floor = max(least, self._time)
        # Taken out first: the dict is in the order of the last arrival.
        self._served[tenant] = max(self._served.pop(tenant, floor), floor)
        if len(self._served) > MAX_COUNTERS:
            self._forget(keep={tenant, self._last, *waiting})

    def order(self, waiting: Collection[str]) -> list[str]:
        """Those of ``waiting`` in the order in which they are to be served."""
        if len(waiting) == 1:
            return [*waiting]
        return sorted(waiting, key=self._counter)

    def dispatch(self, tenant: str, tokens: float, order: Sequence[str]) -> None:
        """A request of a tenant leaves, and costs so many weighted tokens to begin with. Those who
        are before it in the ``order`` of all who waited want what there is no place for."""
        here = self._counter(tenant)
        for one in order[: order.index(tenant)]:
            self._served[one] = max(self._counter(one), here)
        self._beside = len(order)
        self._time = max(self._time, here)
        self.charge(tenant, tokens)
        self._last = tenant

    def charge(self, tenant: str, tokens: float) -> None:
        """A tenant was served so many weighted tokens; negative if it was charged too much."""
        self._served[tenant] = self._counter(tenant) + tokens
        # What one is served moves the time by what each of those who share would have of it.
        if self._beside:
            self._time = max(0.0, self._time + tokens / self._beside)

    def spread(self, waiting: Collection[str]) -> float:
        """How far apart those of ``waiting`` are, in weighted tokens."""
        counters = [self._counter(tenant) for tenant in waiting]
        return max(counters) - min(counters) if counters else 0.0

    def _counter(self, tenant: str) -> float:
        return self._served.get(tenant, self._time)

    def _forget(self, keep: set[str]) -> None:
        for tenant in [*self._served]:
            if len(self._served) <= MAX_COUNTERS:
                return
            if tenant not in keep:
                del self._served[tenant]
