"""The circuit breaker of an upstream: whether it is given requests at all. Pure.

    state       success     failure              unreachable      time is over, and it answers
    closed      closed      closed, the third    open             -
                            in a row: open
    open        -           -                    -                half-open
    half-open   closed      open                 open             -

*success* is a first token, or an answer that proves the server well (a request that it refuses for
its content). *failure* is a broken answer, *unreachable* a connection that could not be made. Being
overloaded is neither: that is the window's business. Open, the upstream gets nothing; the time it
stays so doubles from 1 s up to 10 s. Half-open, it gets one request at a time. What "-" stands for
changes nothing: those are the last words of requests from before.
"""

from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 3
FIRST_PAUSE = 1.0
MAX_PAUSE = 10.0


class Breaker:
    """See the table above. Times are in seconds."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.until = 0.0
        """When an open one may be tried again."""
        self.opened = 0
        """How often it has opened."""
        self._failures = 0
        self._pause = FIRST_PAUSE

    @property
    def most(self) -> int | None:
        """How many requests the upstream may hold at once; ``None`` for no bound."""
        return {"closed": None, "open": 0, "half_open": 1}[self.state]

    def success(self) -> None:
        if self.state != "open":
            self.state = "closed"
            self._failures = 0
            self._pause = FIRST_PAUSE

    def failure(self, now: float, *, unreachable: bool = False) -> None:
        if self.state == "open":
            return
        self._failures += 1
        if unreachable or self.state == "half_open" or self._failures >= FAILURES:
            self._open(now)

    def answered(self) -> None:
        """Its time is over, and the server answers questions again."""
        if self.state == "open":
            self.state = "half_open"

    def silent(self, now: float) -> None:
        """Its time is over, but the server does not answer."""
        if self.state == "open":
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = "open"
        self.opened += 1
        self.until = now + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE)
