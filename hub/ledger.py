"""When what happened to one response: the times from which every figure about it is made.

    received      hub took the request on (its body was read and understood by then)
    queued        it came into the dispatcher's queue; a background response when it was claimed
    dispatched    it was sent to a model server
    connected     that server took the connection
    first_byte    it began to answer
    first_token   it had said something: text, reasoning, a refusal or a piece of a tool call
    first_written the first text was handed to the socket of the reader of a stream
    last_token    it said that it had finished
    ended         the response had its end; it is told to the readers and kept from then on
    written       the end was handed to that socket, too

Time to first token is ``first_token`` from ``received``, so it has the queue in it. What did not
happen has no time: it is absent, never 0. Of a request that was sent again elsewhere the times
from ``dispatched`` on are those of the last attempt, so the steps always add up to the whole. Of
several readers the first counts. An answer that comes in one piece may have ended before any of it
is written; its object does not know ``first_written`` then, and never knows ``written``.

A *pause* is a silence of the model server's stream between the first token and the last one (from
``engines.base.PAUSE`` seconds on, which the engine measures). All are counted, the ``LONGEST`` are
kept.

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
    "first_written",
    "last_token",
    "ended",
    "written",
)
"""In the order in which they come, but for ``first_written``: it may be late."""
_OF_AN_ATTEMPT = MARKS[MARKS.index("dispatched") : MARKS.index("ended")]
_ON_THE_WAY = MARKS[MARKS.index("queued") : MARKS.index("first_token")]
_WRITTEN = {"first_written": "first_token", "written": "ended"}
"""What readers are told of -> the mark that it follows."""
LONGEST = 16
"""Pauses that are kept with their times, the longest ones."""


class Ledger:
    """Of one response. It begins when it is made."""

    __slots__ = (
        "_clock", "_engine", "_longest", "_marks", "_paused", "_paused_until", "_pauses",
        "attempts", "batch_size", "reason", "upstream",
    )  # fmt: skip

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
        self._pauses = 0
        self._paused = self._paused_until = 0.0
        self._longest: list[tuple[float, float]] = []
        """When they began, and their lengths."""
        self._engine: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Note that something happens now. The first time counts, and nothing after the end."""
        assert name in MARKS, f"no time of a response: {name}"
        if name not in self._marks and "ended" not in self._marks:
            self._marks[name] = self._clock()

    def wrote(self, name: str) -> bool:
        """Note that a reader's socket was given the first text (``first_written``) or the end
        (``written``). Whether that is news: a reader may come again, or read what an earlier
        process has made."""
        news = name not in self._marks and _WRITTEN[name] in self._marks
        if news:
            self._marks[name] = self._clock()
        return news

    def pause(self, seconds: float) -> None:
        """Note that the model server goes on after so long a silence. Before the first token it
        counts as waiting for that, and after the last one as nothing."""
        begin = self._marks.get("first_token")
        if begin is None or self._marks.keys() & {"last_token", "ended"}:
            return
        now = self._clock()
        # Whoever has measured it may have had a coarser clock.
        begin = max(begin, self._paused_until, now - seconds)
        self._paused_until = now
        self._pauses += 1
        self._paused += now - begin
        self._longest.append((begin, now - begin))
        if len(self._longest) > LONGEST:
            self._longest.remove(min(self._longest, key=lambda one: one[1]))

    def timings(self, prompt: float, predicted: float) -> None:
        """Note what the model server's own clock says: ms from the request to the first token, and
        from there to the end."""
        last = prompt + predicted
        self._engine = {"first_token": round(prompt, 3), "last_token": round(last, 3)}

    def sent(self, upstream: str, batch_size: int, reason: str) -> None:
        """Note that it leaves for an upstream now, possibly again."""
        for name in _OF_AN_ATTEMPT:
            self._marks.pop(name, None)
        self.upstream, self.batch_size, self.reason = upstream, batch_size, reason
        self.attempts += 1
        self.mark("dispatched")

    def adopt(self, other: "Ledger") -> None:
        """Note how another response came about whose text this one passes on, as far as that was
        after this one was received."""
        for name in _ON_THE_WAY:
            at = other._marks.get(name)
            if at is not None and at >= self._marks["received"]:
                self._marks.setdefault(name, at)
        self.upstream, self.attempts = other.upstream, other.attempts
        self.batch_size, self.reason = other.batch_size, other.reason

    def between(self, first: str, last: str) -> float | None:
        """The seconds from one mark to a later one, if there are both."""
        begin, end = self._marks.get(first), self._marks.get(last)
        return None if begin is None or end is None else end - begin

    def milliseconds(self) -> dict[str, float]:
        """All marks, as they came, in ms since the first."""
        at = self._marks
        known = sorted((name for name in MARKS if name in at), key=at.__getitem__)
        return {name: self._since(at[name]) for name in known}

    def told(self, rank: str) -> dict[str, Any]:
        """The key ``hub`` of the response object, for a response of a class. It has ``pauses_ms``
        if there were any (those that are kept as [when, how long], and how many and how long all
        were) and ``engine_ms`` if the model server has told its own times (since it got the
        request)."""
        told: dict[str, Any] = {
            "class": rank,
            "upstream": self.upstream,
            "batch_size": self.batch_size,
            "reason": self.reason,
            "attempts": self.attempts,
            "ledger_ms": self.milliseconds(),
        }
        if self._pauses:
            longest = [(self._since(at), _ms(length)) for at, length in self._longest]
            told["pauses_ms"] = {
                "count": self._pauses,
                "total": _ms(self._paused),
                "longest": longest,
            }
        if self._engine:
            told["engine_ms"] = self._engine
        return told

    def _since(self, at: float) -> float:
        return _ms(at - self._marks["received"])

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


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
