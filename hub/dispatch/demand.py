"""How many places are worth leaving free for the better classes. Pure.

A request that finds no place waits until the next one gets free. So a class leaves as many as the
better ones are likely to want before that. Places that get free one by one are soon to be had,
those that get free together are long in coming: at a random moment the next end is
``E[g^2] / 2E[g]`` away, where ``g`` are the gaps between ends (the inspection paradox). What
arrives in that time is about Poisson. One place at least, since the first one should not wait; a
quarter of the window at most, since places that nobody uses cost throughput. Where many places turn
over, few are enough.
"""

from math import exp

from hub.dispatch.terms import Class

RISK = 0.003
"""How likely it may be that one more arrives than there is place for."""
MOST = 4
"""One place in so many may be left free."""
HALF = 10.0
"""Seconds after which what was seen counts half."""
PRIOR = 1.0
"""Seconds without arrivals that are taken as seen, before anything was."""


class Demand:
    """Of one upstream. Told of every place that is taken or given back, with ``now`` in seconds."""

    def __init__(self) -> None:
        self._taken = dict.fromkeys(Class, 0.0)
        self._gaps = 0.0
        self._squares = 0.0
        """The sums of the gaps between ends, and of their squares."""
        self._last: float | None = None
        """The last end."""
        self._at = 0.0

    def take(self, rank: Class, now: float) -> None:
        self._fade(now)
        self._taken[rank] += 1

    def give_back(self, now: float) -> None:
        self._fade(now)
        if self._last is not None:
            gap = now - self._last
            self._gaps += gap
            self._squares += gap * gap
        self._last = now

    def spare(self, rank: Class, size: int, now: float) -> int:
        """How many places of a window of that size a class leaves free for the better ones."""
        if self._last is None:
            return 1
        self._fade(now)
        better = sum(count for one, count in self._taken.items() if one < rank)
        # The gap that lasts counts, too.
        gap = now - self._last
        seen = self._gaps + gap
        until = (self._squares + gap * gap) / (2 * seen) if seen else 0.0
        return _likely(better / (seen + PRIOR) * until, max(1, size // MOST))

    def _fade(self, now: float) -> None:
        if now <= self._at:
            return
        kept = 0.5 ** ((now - self._at) / HALF)
        self._taken = {one: count * kept for one, count in self._taken.items()}
        self._gaps *= kept
        self._squares *= kept
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
