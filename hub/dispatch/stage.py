"""Gathering at an upstream that cannot batch by itself. Pure.

Such a server runs what it was given to the end before it takes anything else. So what goes there
is gathered, even while nothing runs, and leaves together: ``size`` requests (*full*), or fewer when
the first has waited ``interval`` (*timer*); and the next batch begins only when the last has ended.
"""

from math import inf
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


class Stage(Generic[T]):
    """The batch that is being gathered for one upstream."""

    def __init__(self, size: int, interval: float) -> None:
        """``interval`` is in seconds."""
        assert size >= 1
        self.size = size
        self.interval = interval
        self._since: dict[T, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def put(self, item: T, now: float) -> None:
        self._since[item] = now

    def remove(self, item: T) -> bool:
        """Take one out. False if it is not here."""
        return self._since.pop(item, None) is not None

    def clear(self) -> list[T]:
        """Take all of them out: they do not leave from here."""
        members = [*self._since]
        self._since.clear()
        return members

    def take(self, now: float) -> tuple[Literal["full", "timer"], list[T]] | None:
        """The batch, if it is to leave now."""
        if not self._since or (len(self._since) < self.size and now < self.due):
            return None
        reason: Literal["full", "timer"] = "full" if len(self._since) >= self.size else "timer"
        return reason, self.clear()

    @property
    def due(self) -> float:
        """When the batch leaves even if it is not full; infinity if there is none."""
        return next(iter(self._since.values())) + self.interval if self._since else inf
