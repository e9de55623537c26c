"""What all nodes of a Redis have in common: what they keep there together, and its clock."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from hub.store.redis_calls import Calls
from hub.store.redis_scripts import TOTALS

logger = logging.getLogger("hub.store.redis")

TOTALS_AGE = 1.0
"""Seconds after which the totals are asked for, since other nodes change them, too."""
CLOCK_AGE = 60.0
"""Seconds between two looks at Redis's clock."""
SKEW = 0.25
"""Seconds by which clocks may differ before leases are made by Redis's."""


class Common:
    """Asks Redis from time to time. ``clock`` gives the Unix time from which ``now`` comes."""

    def __init__(self, calls: Calls, place: str, clock: Callable[[], float]) -> None:
        self.records = 0
        self.jobs = 0
        self.bytes = 0
        self.skew = 0.0
        """What has to be added to ``now`` where nodes have to agree on it."""
        self._calls = calls
        self._place = place
        self._clock = clock
        self._measure_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asked: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Ask for the first time, and from then on."""
        self._ask()
        if self._asked:
            await asyncio.wait(self._asked)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def totals(self) -> tuple[int, int, int]:
        """The records, jobs and bytes that Redis held when it was heard of last."""
        return self.records, self.jobs, self.bytes

    @property
    def waiting(self) -> int:
        """Its own calls that have no answer."""
        return len(self._asked)

    def count(self, totals: Sequence[int]) -> None:
        """They are at the end of most answers: what this node does itself is counted at once."""
        self.records, self.jobs, self.bytes = totals[-3:]

    def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._asked:
            self._own(self._calls.call(("EVALSHA", TOTALS.name, 0), self.count))
            if now >= self._measure_at:
                self._measure_at = now + CLOCK_AGE
                self._own(self._calls.call(("TIME",), partial(self._measured, self._clock())))
        self._timer = loop.call_later(TOTALS_AGE, self._ask)

    def _own(self, future: asyncio.Future[None]) -> None:
        self._asked.add(future)
        future.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[None]) -> None:
        self._asked.discard(future)
        future.exception()  # The next one may succeed.

    def _measured(self, asked: float, reply: Sequence[bytes]) -> None:
        here = (asked + self._clock()) / 2
        skew = int(reply[0]) + int(reply[1]) / 1e6 - here
        before, self.skew = self.skew, skew if abs(skew) > SKEW else 0.0
        if self.skew and not before:
            logger.warning(
                "This machine's clock differs from that of Redis at %s by %.2f s. Leases are made"
                " by Redis's. See to it that both are synchronised.",
                self._place,
                skew,
            )
