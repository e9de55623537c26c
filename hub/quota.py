"""What a key has used of its limits, and whether it may do more now. Pure.

Requests and tokens per minute are token buckets: each holds what one minute allows, begins full,
and fills evenly. So a key that was quiet may use a minute's worth at once, and in T seconds never
gets more than T / 60 of the limit beyond that. How many tokens a response costs is known at its
end; they may take the bucket below zero, and the next requests wait for it to fill again.

How many responses are in hand, wait, or have sockets is counted by whoever asks: they end in too
many ways to be counted twice.

Where several nodes serve a key, each has its buckets, which are debited for what the others let
through (``debit``); one that has just started begins with theirs (``lower``).
"""

from math import ceil

from hub.errors import HubError
from hub.keys import Limits

SOON = 1.0
"""Seconds to wait for what nobody knows the end of: a response, a socket."""
MARGIN = 0.001
"""Seconds more than computed: a sum of floats may fall short."""


class _Bucket:
    """Holds at most what a minute allows."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = 0.0

    def wait(self, now: float, number: int = 1) -> float | None:
        """Seconds until so many are in it, or it is full; ``None`` if that is so now."""
        self._fill(now)
        missing = min(number, self.per_minute) - self._level
        return missing * 60 / self.per_minute + MARGIN if missing > 0 else None

    def take(self, now: float, number: int) -> None:
        self._fill(now)
        self._level -= number

    def missing(self, now: float) -> float:
        """How much of what a minute allows is used up."""
        self._fill(now)
        return self.per_minute - self._level

    def lower(self, now: float, missing: float) -> None:
        """At least so much is used up."""
        self._fill(now)
        self._level = min(self._level, self.per_minute - missing)

    def _fill(self, now: float) -> None:
        # A clock that was set back fills nothing, and counts from there.
        if now > self._at:
            filled = self._level + (now - self._at) * self.per_minute / 60
            self._level = min(filled, float(self.per_minute))
        self._at = now


def _bucket(per_minute: int | None) -> _Bucket | None:
    return None if per_minute is None else _Bucket(per_minute)


class Quota:
    """One key's use of its limits. A key whose limits change gets a new one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._requests = _bucket(limits.requests_per_minute)
        self._tokens = _bucket(limits.tokens_per_minute)

    def admit(self, now: float, concurrent: int, waiting: int, number: int = 1) -> HubError | None:
        """Let a request of the key begin, and count it; or say why not (``rate_limit_exceeded``),
        and count nothing.

        ``concurrent`` of its responses are in hand without this one, and ``waiting`` of its
        requests wait. One that asks for a ``number`` of responses counts as so many requests; if
        they are more than the key has at a time, it is refused for good (``invalid_value``). Tell
        ``spend_tokens`` when a response has ended. ``now`` is in seconds, of any clock.
        """
        reached: list[tuple[float, str]] = []
        for most, there, what in (
            (self.limits.concurrent, concurrent, "responses at a time"),
            (self.limits.queued, waiting, "waiting requests"),
        ):
            if most is not None and number > most:
                why = f"This key has at most {most} {what}, and this asks for {number} at once."
                return HubError("invalid_value", why)
            if most is not None and there + number > most:
                reached.append((SOON, f"{most} {what}"))
        for bucket, least, what in (
            (self._requests, number, "requests"),
            (self._tokens, 1, "tokens"),
        ):
            if bucket is not None and (wait := bucket.wait(now, least)) is not None:
                reached.append((wait, f"{bucket.per_minute} {what} per minute"))
        if reached:
            return _refusal(*max(reached))
        if self._requests is not None:
            self._requests.take(now, number)
        return None

    def spend_tokens(self, now: float, tokens: int) -> None:
        """A response of the key has ended, and cost so many tokens, of its prompt and its text."""
        assert tokens >= 0, "tokens are not given back"
        if self._tokens is not None:
            self._tokens.take(now, tokens)

    def debit(self, now: float, requests: int, tokens: int) -> None:
        """Other nodes have let so many requests begin, and what has ended there cost so much."""
        for bucket, number in ((self._requests, requests), (self._tokens, tokens)):
            if bucket is not None:
                bucket.take(now, number)

    def missing(self, now: float) -> tuple[float, float]:
        """How many requests and tokens of a minute's worth are used up; more than that if the next
        ones have to wait for longer."""
        requests, tokens = self._requests, self._tokens
        return (
            0.0 if requests is None else requests.missing(now),
            0.0 if tokens is None else tokens.missing(now),
        )

    def lower(self, now: float, requests: float, tokens: float) -> None:
        """At least so much is used up, as another node says: see ``missing``."""
        for bucket, missing in ((self._requests, requests), (self._tokens, tokens)):
            if bucket is not None:
                bucket.lower(now, missing)

    def admit_socket(self, sockets: int) -> HubError | None:
        """Let a WebSocket of the key open that has so many others, or say why not."""
        most = self.limits.sockets
        if most is not None and sockets >= most:
            return _refusal(SOON, f"{most} WebSockets at a time")
        return None


def _refusal(wait: float, limit: str) -> HubError:
    after = float(ceil(wait))
    words = f"This key has reached its limit of {limit}. Try again in {int(after)} s."
    return HubError("rate_limit_exceeded", words, retry_after=after)
