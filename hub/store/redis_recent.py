"""What Redis has said that it has done lately, in case that it comes back without it.

A Redis that syncs once a second (``appendfsync everysec``, its default) and is killed, or a replica
that takes over, may have lost what it had acknowledged in the last seconds. So a node remembers its
own changes of that time, and makes them once more when it meets a Redis that was started since.
What was not lost is changed by none of them: that is how the scripts are made.
"""

from collections import deque

SECONDS = 3.0
"""How far it goes back: Redis puts a write off for at most 2 s beyond the second between syncs."""
MOST = 16 << 20
"""Bytes that are remembered; the oldest are forgotten."""


class Recent:
    """The changes of the last ``SECONDS``, as they were sent."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, str, bytes]] = deque()
        self._bytes = 0
        self._deleted: dict[str, float] = {}
        """What other nodes have deleted, and when that was heard."""

    def add(self, now: float, id: str, packed: bytes) -> None:
        """Redis has made a change to what has this id."""
        changes = self._changes
        changes.append((now, id, packed))
        self._bytes += len(packed)
        while changes[0][0] < now - SECONDS or self._bytes > MOST:
            self._bytes -= len(changes.popleft()[2])

    def forget(self, now: float, id: str) -> None:
        """Another node has deleted it."""
        self._deleted[id] = now
        # In the order of hearing: the first are the oldest.
        while (oldest := next(iter(self._deleted))) and self._deleted[oldest] < now - SECONDS:
            del self._deleted[oldest]

    def all(self) -> list[bytes]:
        """All that there are, the oldest first, but for what was deleted."""
        return [packed for _, id, packed in self._changes if id not in self._deleted]
