"""How many places are worth leaving free for the better classes. Pure.

A request that finds no place waits until the next one gets free. So a class leaves as many as the
better ones are likely to want before that: it is a race of arrivals and ends, and if there lately
were ``m`` arrivals to an end, the number that comes before the next end is about Poisson with the
mean ``m``. One place at least, since the first one should not wait; a quarter of the window at
most, since places that nobody uses cost throughput. Where many places turn over, few are enough.
"""

from math import exp

from hub.dispatch.terms import Class

RISK = 0.003
"""How likely it may be that one more arrives than there is place for."""
MOST = 4
"""One place in so many may be left free."""
HALF = 10.0
"""Seconds after which an arrival or an end counts half."""
PRIOR = 4.0
"""Ends that are taken as seen, before any were."""


class Demand:
    """Of one upstream. Told of every place that is taken or given back, with ``now`` in seconds."""

    def __init__(self) -> None:
        self._taken = dict.fromkeys(Class, 0.0)
        self._ended = 0.0
        self._at = 0.0

    def take(self, rank: Class, now: float) -> None:
        self._fade(now)
        self._taken[rank] += 1

    def give_back(self, now: float) -> None:
        self._fade(now)
        self._ended += 1

    def spare(self, rank: Class, size: int, now: float) -> int:
        """How many places of a window of that size a class leaves free for the better ones."""
        self._fade(now)
        better = sum(count for one, count in self._taken.items() if one < rank)
        return _likely(better / (self._ended + PRIOR), max(1, size // MOST))

    def _fade(self, now: float) -> None:
        if now <= self._at:
            return
        kept = 0.5 ** ((now - self._at) / HALF)
        self._taken = {one: count * kept for one, count in self._taken.items()}
        self._ended *= kept
        self._at = now


def _likely(mean: float, most: int) -> int:
    """The least number, from 1 to ``most``, that a Poisson variable exceeds no oftener than
    ``RISK``."""
    exactly = exp(-mean)
    beyond = 1 - exactly
    for number in range(1, most):
        exactly *= mean / number
        beyond -= exactly
        if beyond <= RISK:
            return number
    return most
