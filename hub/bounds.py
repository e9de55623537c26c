"""What live responses and their readers may hold, and what happens at the bound.

    a response's log          beyond ``response_bytes`` it fails, and its upstream is let go of
    all live logs together,   beyond ``live_bytes`` nothing new is begun: a foreground request is
    and their requests        refused, a background one stays in the store
    a reader                  too long or too far behind, it is closed, and may come back and resume

Jobs that wait to be claimed do not count for that: if they filled the memory that they wait for,
none would ever begin. They may hold as much again, and beyond it no more are accepted.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hub.errors import HubError
from hub.live import Live
from hub.policy import Policy

MAX_CHAIN = 32 << 20
"""About how many bytes a request with the chain before it may hold: it is in memory as a whole
where it is gone on from, and each step makes it longer."""
INTERVAL = 0.25
"""Seconds for which the sum of the live logs is not made again."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is held, its bound, and how often each bound was met since the start."""

    live_bytes: int
    max_live_bytes: int
    refused: int
    """Requests, for want of memory."""
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
        self._job_room = True
        self._looked = float("-inf")
        self._refused = 0
        self._too_large = 0
        self._slow_readers = 0

    def admit(self, live: Live) -> None:
        """Let a new foreground response begin, within its bound. Raises ``HubError``
        ``rate_limit_exceeded`` if there is no room for any, ``context_length_exceeded`` if there
        never is for this one."""
        _check_chain(live)
        if not self.room():
            raise self._full("The responses that are running fill hub's memory.")
        self.guard(live)

    def admit_job(self, live: Live) -> None:
        """Let a background response wait. Raises ``HubError`` ``rate_limit_exceeded`` if those that
        do so hold too much, ``context_length_exceeded`` as ``admit`` does."""
        _check_chain(live)
        self._look()
        if not self._job_room:
            raise self._full("The background responses that wait fill hub's memory.")

    def room(self) -> bool:
        """Whether anything new may begin, as of a moment ago."""
        self._look()
        return self._room

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked >= INTERVAL:
            self._looked = now
            held, waiting = self._held()
            self._room = held <= self._policy.live_bytes
            self._job_room = waiting <= self._policy.live_bytes

    def _full(self, words: str) -> HubError:
        self._refused += 1
        return HubError("rate_limit_exceeded", f"{words} Try again later.", retry_after=1.0)

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
            live_bytes=self._held()[0],
            max_live_bytes=self._policy.live_bytes,
            refused=self._refused,
            too_large=self._too_large,
            slow_readers=self._slow_readers,
        )

    def _held(self) -> tuple[int, int]:
        """What is held by what runs or is to run soon, and by the jobs that wait."""
        held = waiting = 0
        for live in self._live():
            if live.attempt or not live.background:
                held += live.asked + live.log.size
            else:
                waiting += live.asked
        return held, waiting


def _check_chain(live: Live) -> None:
    if live.asked > MAX_CHAIN and live.recorder.request.previous_response_id is not None:
        raise HubError(
            "context_length_exceeded",
            f"The conversation holds more than {MAX_CHAIN >> 20} MiB.",
            param="previous_response_id",
        )
