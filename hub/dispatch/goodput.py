"""How many tokens per second an upstream makes in total, by how many run side by side. Pure.

On some servers a slightly larger batch is slower in total: llama.cpp on one CPU core made 62
tokens/s one by one, 50 with 2 to 4 side by side, and more than one by one with 8 and above. So only
the numbers up to 8 are compared.

By Little's law ``n`` requests side by side that take S seconds each, from the dispatch to the end,
and have T tokens each, make ``n * T / S`` tokens per second. The time to first token must be part
of S. Side by side the prompts of others make one's tokens late; alone one waits as long, but for
one's own prompt, before the first token. By the time per token alone, one by one is four times as
good as 16 side by side on a GPU, if prompts are long and answers short; in truth it is worse.

What the requests were like counts, too, and it changes. So what was seen earlier at another number
is a hint, which is to be tried (``adapt.py``).
"""

from dataclasses import dataclass

FEW = 8
"""More side by side were nowhere seen to make less than one by one."""
FORGET = 1800.0
"""Seconds for which a speed that was seen counts."""
SEEN = 8
"""Requests whose speed must be known before it is believed."""
ENOUGH = 3
HOPELESS = 2 / 3
"""What is given up after so many: if a smaller number makes less than so much of a larger one."""
BETTER = 1.1
"""A smaller number must make so many times the tokens to be preferred: it makes others wait."""
WEIGHT = 0.1
"""How much the last request counts, at least."""


@dataclass(slots=True)
class _Mean:
    """A moving mean."""

    value: float = 0.0
    count: int = 0

    def note(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(WEIGHT, 1 / self.count)


class _Seen:
    """What was seen at one number side by side."""

    def __init__(self) -> None:
        self.at = 0.0
        """When, lastly."""
        self.first = _Mean()
        """Seconds to the first token."""
        self.rest = _Mean()
        """Seconds from there to the end."""
        self.tokens = _Mean()


class Goodput:
    """See the top of this file."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def began(self, now: float, side_by_side: int, seconds: float) -> None:
        """A request had its first token after so long, as one of so many."""
        self._at(now, side_by_side).first.note(seconds)

    def ended(self, now: float, side_by_side: int, seconds: float, tokens: int) -> None:
        """A request had so many tokens, in so many seconds since its first, as one of so many."""
        seen = self._at(now, side_by_side)
        seen.rest.note(seconds)
        seen.tokens.note(tokens)

    def _at(self, now: float, side_by_side: int) -> _Seen:
        seen = self._seen.get(side_by_side)
        if side_by_side > FEW or seen is None or now - seen.at > FORGET:
            seen = _Seen()
        if side_by_side <= FEW:
            self._seen[side_by_side] = seen
        seen.at = now
        return seen

    def forget(self, side_by_side: int) -> None:
        """It is to be seen anew."""
        self._seen.pop(side_by_side, None)

    def of(self, now: float, side_by_side: int) -> float | None:
        """Tokens per second in total with so many side by side, if it is known."""
        return self._of(now, side_by_side, SEEN)

    def hopeless(self, now: float, size: int, before: int) -> bool:
        """Whether so few make clearly less than ``before`` made, as far as one can see yet."""
        here, there = self._of(now, size, ENOUGH), self.of(now, before)
        return here is not None and there is not None and here < HOPELESS * there

    def _of(self, now: float, side_by_side: int, requests: int) -> float | None:
        seen = self._seen.get(side_by_side)
        if seen is None or now - seen.at > FORGET:
            return None
        if min(seen.first.count, seen.rest.count) < requests:
            return None
        seconds = seen.first.value + seen.rest.value
        return side_by_side * seen.tokens.value / seconds if seconds > 0 else None

    def better_below(self, now: float, size: int) -> int | None:
        """The number that makes clearly more than ``size``, if there is one: the best of those that
        are at most half as large. Between closer ones chance would decide."""
        here = self.of(now, size)
        if here is None:
            return None
        known = ((self.of(now, one) or 0.0, one) for one in range(1, size // 2 + 1))
        best, one = max(known, default=(0.0, 0))
        return one if best > BETTER * here else None

    def next_above(self, now: float, size: int, step: int, most: int) -> int | None:
        """Where to grow from ``size``: by ``step``, but past what is known to make less."""
        here, wanted = self.of(now, size), size + step
        while wanted < most and here is not None:
            there = self.of(now, wanted)
            if there is None or there >= here:
                break
            wanted += 1
        wanted = min(wanted, most)
        there = self.of(now, wanted)
        worse = here is not None and there is not None and there < here
        return None if wanted <= size or worse else wanted
