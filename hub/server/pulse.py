"""How late the event loop is, and how long the garbage collector stops everything.

A timer notes how late it is rung: so late is everything else that the loop does at that time, a
token that has arrived as well. What is shorter than the time between two rings is mostly missed;
what happens often is not.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

INTERVAL = 0.1
"""Seconds between two rings."""

BUCKETS = (1, 3, 10, 30, 100, 300)
"""Milliseconds."""
MORE = "more"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Since the start. Times are in milliseconds."""

    rings: int
    late_max: float
    late: Mapping[str, int]
    """How many rings were late by at most so much, each counted once; ``more``: by more."""
    collections: int
    collecting: float
    """All pauses together."""
    collection_max: float


class Pulse:
    """``start``, then ``stop``, in the running loop. ``clock`` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        # Not the loop's clock: uvloop's stands still while a callback runs.
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._late = dict.fromkeys((*map(str, BUCKETS), MORE), 0)
        self._late_max = 0.0
        self._collections = 0
        self._collecting = self._collection_max = 0.0
        self._began = 0.0

    def start(self) -> None:
        self._set()
        gc.callbacks.append(self.collected)

    def stop(self) -> None:
        """No timer and no callback is left. No effect if it does not run."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.callbacks.remove(self.collected)

    def statistics(self) -> Statistics:
        return Statistics(
            rings=sum(self._late.values()),
            late_max=round(self._late_max, 2),
            late=dict(self._late),
            collections=self._collections,
            collecting=round(self._collecting, 2),
            collection_max=round(self._collection_max, 2),
        )

    def rung(self, late: float) -> None:
        """Note a ring that was ``late`` seconds late."""
        # Timers are rung a little early, too.
        late = max(0.0, late * 1000)
        self._late_max = max(self._late_max, late)
        bucket = next((str(most) for most in BUCKETS if late <= most), MORE)
        self._late[bucket] += 1

    def collected(self, phase: str, info: Mapping[str, int]) -> None:
        """Note a pause of the collector: called when it begins (``start``) and ends (``stop``), in
        whatever thread that happens."""
        if phase == "start":
            self._began = self._clock()
            return
        pause = (self._clock() - self._began) * 1000
        self._collections += 1
        self._collecting += pause
        self._collection_max = max(self._collection_max, pause)

    def _set(self) -> None:
        due = self._clock() + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._ring, due)

    def _ring(self, due: float) -> None:
        self.rung(self._clock() - due)
        self._set()
