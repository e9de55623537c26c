"""When what happened to one response: the times from which every figure about it is made.

    received    hub took the request on (its body was read and understood by then)
    queued      it came into the dispatcher's queue; a background response when it was claimed
    dispatched  it was sent to a model server
    connected   that server took the connection
    first_byte  it began to answer
    first_token it had said something: text, reasoning, a refusal or a piece of a tool call
    last_token  it said that it had finished
    ended       the response had its end; it is told to the readers and kept from then on

Time to first token is ``first_token`` from ``received``, so it has the queue in it. What did not
happen has no time: it is absent, never 0. Of a request that was sent again elsewhere the times
from ``dispatched`` on are those of the last attempt, so the steps always add up to the whole.

Nothing is noted per token. Pure: the clock comes in.
"""

from collections.abc import Callable
from typing import Any

MARKS = (
    "received",
    "queued",
    "dispatched",
    "connected",
    "first_byte",
    "first_token",
    "last_token",
    "ended",
)
"""In the order in which they come."""
_OF_AN_ATTEMPT = MARKS[MARKS.index("dispatched") : MARKS.index("ended")]


class Ledger:
    """Of one response. It begins when it is made."""

    __slots__ = ("_clock", "_marks", "attempts", "batch_size", "reason", "upstream")

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` tells seconds, and never goes back."""
        self._clock = clock
        self._marks = {"received": clock()}
        self.upstream: str | None = None
        """Where it was sent, the last time."""
        self.batch_size: int | None = None
        """How many left with it, itself included."""
        self.reason: str | None = None
        """Why they left then: see ``dispatch.queue``."""
        self.attempts = 0
        """How often it was sent."""

    def mark(self, name: str) -> None:
        """Note that something happens now. The first time counts, and nothing after the end."""
        assert name in MARKS, f"no time of a response: {name}"
        if name not in self._marks and "ended" not in self._marks:
            self._marks[name] = self._clock()

    def sent(self, upstream: str, batch_size: int, reason: str) -> None:
        """Note that it leaves for an upstream now, possibly again."""
        for name in _OF_AN_ATTEMPT:
            self._marks.pop(name, None)
        self.upstream, self.batch_size, self.reason = upstream, batch_size, reason
        self.attempts += 1
        self.mark("dispatched")

    def between(self, first: str, last: str) -> float | None:
        """The seconds from one mark to a later one, if there are both."""
        begin, end = self._marks.get(first), self._marks.get(last)
        return None if begin is None or end is None else end - begin

    def milliseconds(self) -> dict[str, float]:
        """All marks, in their order, in ms since the first."""
        zero = self._marks["received"]
        return {
            name: round((self._marks[name] - zero) * 1000, 3)
            for name in MARKS
            if name in self._marks
        }

    def told(self, rank: str) -> dict[str, Any]:
        """The key ``hub`` of the response object, for a response of a class."""
        return {
            "class": rank,
            "upstream": self.upstream,
            "batch_size": self.batch_size,
            "reason": self.reason,
            "attempts": self.attempts,
            "ledger_ms": self.milliseconds(),
        }

    def server_timing(self) -> str:
        """The value of a ``Server-Timing`` header: ``queue`` and ``upstream`` make ``total``, and
        ``ttft`` is the time to the first token."""
        steps = {
            "queue": self.between("received", "dispatched"),
            "upstream": self.between("dispatched", "ended"),
            "ttft": self.between("received", "first_token"),
            "total": self.between("received", "ended"),
        }
        return ", ".join(
            f"{name};dur={seconds * 1000:.3f}"
            for name, seconds in steps.items()
            if seconds is not None
        )
