"""The queue of the dispatcher: who leaves next, and with whom.

A batch is a dispatch decision, not an HTTP body: its members leave together, each as a stream of
its own. The rules, in the order in which they decide:

1. Nobody waits while nothing runs (*idle*).
2. From when somebody has to wait for room until the queue is empty, everybody leaves as soon as
   there is room for him (*room*). So it always is if ``flush_interval`` is 0: nobody waits for
   company then.
3. Else, with room, a request waits for others to join it until ``batch_size`` are there (*full*) or
   the oldest has waited ``flush_interval`` (*timer*).
4. At most ``batch_size`` leave in one batch; order of arrival inside and between batches, except
   that a request for which there is no place never holds up one for which there is.

Why not "wait until the batch is full": a model server batches by itself at every decode step, so
waiting only adds to the time to first token. Pure: time comes in as ``now``, in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Place = TypeVar("Place")

Reason = Literal["idle", "room", "full", "timer"]


@dataclass(frozen=True, slots=True)
class Batch(Generic[T, Place]):
    """Requests that leave together, each with the place reserved for it."""

    reason: Reason
    members: list[tuple[T, Place]]


class BatchQueue(Generic[T]):
    """A bounded FIFO queue that gathers batches. See the rules at the top of this file."""

    def __init__(self, *, batch_size: int, flush_interval: float, capacity: int) -> None:
        assert batch_size >= 1
        assert flush_interval >= 0
        self.batch_size = batch_size
        self.flush_interval = flush_interval
        self.capacity = capacity
        self._since: dict[T, float] = {}
        self._blocked = False

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, item: T) -> bool:
        return item in self._since

    @property
    def full(self) -> bool:
        """Whether ``put`` would be refused: refuse the request before anything is promised."""
        return len(self._since) >= self.capacity

    def put(self, item: T, now: float) -> None:
        """Add a request at the end. The caller has checked ``full``, and calls ``take`` next."""
        assert not self.full, "put in a full queue"
        assert item not in self._since, "queued twice"
        if not self._since:
            self._blocked = False
        self._since[item] = now

    def remove(self, item: T) -> bool:
        """Take a request out, wherever it stands. False if it is not here."""
        return self._since.pop(item, None) is not None

    def take(
        self, now: float, reserve: Callable[[T], Place | None], *, room: int, idle: bool
    ) -> Batch[T, Place] | None:
        """The next batch to send, or ``None`` if nobody may leave now.

        ``room`` is how many requests could run in addition to those that do, ``idle`` whether none
        runs. ``reserve`` finds a place for one request and takes it, or gives ``None``. Call it
        again after a batch: more may be waiting. After ``None``, ``due`` says when to come back.
        """
        if not self._since:
            return None
        if room <= 0:
            self._blocked = True
            return None
        reason = self._reason(now, idle)
        if reason is None:
            return None
        members: list[tuple[T, Place]] = []
        most = min(room, self.batch_size)
        for item in self._since:
            place = reserve(item)
            if place is None:
                self._blocked = True
                continue
            members.append((item, place))
            if len(members) == most:
                break
        for item, _ in members:
            del self._since[item]
        return Batch(reason, members) if members else None

    def _reason(self, now: float, idle: bool) -> Reason | None:
        if idle:
            return "idle"
        if self._blocked or not self.flush_interval:
            return "room"
        if len(self._since) >= self.batch_size:
            return "full"
        if now >= self._oldest + self.flush_interval:
            return "timer"
        return None

    @property
    def due(self) -> float | None:
        """When ``take`` will let the oldest request go for its waiting; ``None``: on other news."""
        if not self._since or self._blocked:
            return None
        return self._oldest + self.flush_interval

    @property
    def _oldest(self) -> float:
        return next(iter(self._since.values()))
