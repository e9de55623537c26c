"""How long the queue takes to drain: what a refusal tells, and whether a deadline can be met. Pure.

By Little's law: an upstream with a window of W, whose requests take S seconds each, ends W / S of
them per second while it is full. It is an estimate, from what requests took lately; where nothing
was measured there is none, and nobody is refused for it.
"""

from collections.abc import Iterable
from math import ceil

WEIGHT = 0.1
"""How much the last request counts in the mean."""
LEAST_RETRY = 1.0
MOST_RETRY = 300.0


class ServiceTime:
    """How long a request runs at an upstream, in seconds: a moving mean."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def note(self, seconds: float) -> None:
        self.mean = seconds if self.mean is None else self.mean + WEIGHT * (seconds - self.mean)


def drain_time(ahead: int, upstreams: Iterable[tuple[int, float | None]]) -> float | None:
    """Seconds until a request with so many ahead of it gets a place, ``None`` if nobody knows.

    ``upstreams`` are those that may take it, each with its window and its service time. All of
    them are full.
    """
    rate = sum(size / seconds for size, seconds in upstreams if seconds)
    return (ahead + 1) / rate if rate else None


def retry_after(seconds: float | None) -> float:
    """What a refused client is told, in whole seconds: an estimate within reason."""
    return float(ceil(min(max(seconds or LEAST_RETRY, LEAST_RETRY), MOST_RETRY)))
