"""What live responses and their readers may hold, and what happens at the bound.

    a response's log          beyond ``response_bytes`` it fails, and its upstream is let go of
    all live logs together    beyond ``live_bytes`` nothing new is begun: a foreground request is
                              refused, a background one stays in the store
    a reader                  too long or too far behind, it is closed, and may come back and resume

Jobs that wait to be claimed do not count: they are in the store, and if they filled the memory that
they wait for, none would ever begin.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hub.errors import HubError
from hub.live import Live
from hub.policy import Policy

INTERVAL = 0.25
"""Seconds for which the sum of the live logs is not made again."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is held, its bound, and how often each bound was met since the start."""

    live_bytes: int
    max_live_bytes: int
    refused: int
    """Foreground requests, for want of memory."""
    too_large: int
    """Responses that were given up."""
    slow_readers: int
    """Connections that were closed."""


class Bounds:
    """Those of one hub. See the top of this file."""

    def __init__(
        self, policy: Policy, *, live: Callable[[], Iterable[Live]], stop: Callable[[Live], None]
    ) -> None:
        """``live`` gives the responses that live; ``stop`` lets go of one's upstream and then
        ends it, if it has not ended."""
        self._policy = policy
        self._live = live
        self._stop = stop
        self._room = True
        self._looked = float("-inf")
        self._refused = 0
        self._too_large = 0
        self._slow_readers = 0

    def admit(self, live: Live) -> None:
        """Let a new foreground response begin, within its bound. Raises ``HubError``
        ``rate_limit_exceeded`` if there is no room for any."""
        if not self.room():
            self._refused += 1
            raise HubError(
                "rate_limit_exceeded",
                "The responses that are running fill hub's memory. Try again later.",
                retry_after=1.0,
            )
        self.guard(live)

    def room(self) -> bool:
        """Whether anything new may begin, as of a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._looked >= INTERVAL:
            self._looked = now
            self._room = self._held() <= self._policy.live_bytes
        return self._room

    def guard(self, live: Live) -> None:
        """Give a response up when its log is too large."""

        def give_up() -> None:
            self._too_large += 1
            live.failure = HubError(
                "response_too_large",
                f"The model server said more than {self._policy.response_bytes} bytes.",
            )
            # Not from within the engine that is just saying something.
            asyncio.get_running_loop().call_soon(self._stop, live)

        live.log.bound(self._policy.response_bytes, give_up)

    def reader_closed(self) -> None:
        """A reader was too far behind, and its connection was closed."""
        self._slow_readers += 1

    def statistics(self) -> Statistics:
        return Statistics(
            live_bytes=self._held(),
            max_live_bytes=self._policy.live_bytes,
            refused=self._refused,
            too_large=self._too_large,
            slow_readers=self._slow_readers,
        )

    def _held(self) -> int:
        return sum(live.log.size for live in self._live() if live.attempt or not live.background)
