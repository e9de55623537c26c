"""How large an upstream's window should be, by what is measured on its requests. Pure.

The rules:

1. It starts with the number of slots that the server tells of, and a thirty-second more, so that a
   slot that gets free does not wait for hub; it never grows beyond that. Where the server tells
   nothing it starts with 16 and doubles every round until the first congestion.
2. A *round* is 8 requests or a second, whichever comes later, in which the window was the limit:
   somebody had to wait for room. Without that nothing changes, since nothing can be learned. Of a
   server that tells of its queue, a round has such news in it.
3. A round is *congested* if the server says that it holds more requests than it has slots (that
   any wait, if nobody knows its slots), or that its cache is nearly full; or, where it tells of
   neither slots nor a queue, if half of the times to first token, measured from the dispatch, are
   over 8 times what such a prompt takes at the least. Then the window shrinks by a tenth (by four
   tenths at the end of the doubling), but not below a quarter of the known slots. Late first tokens
   have other causes, too: the least may be a prompt's that the server had in its cache. If with
   four tenths less they are nearly as late, it was not the window: it is put back, and only what
   is twice as late as now counts, too. That is forgotten slowly.
4. A refusal by the server (429, 503) shrinks it by four tenths at once, down to 1 if need be.
5. Otherwise the window grows by its square root.
6. After a change nothing counts that was dispatched before it, nor what the server tells while it
   still holds more than the window: one congestion is one step, not one for each request that
   suffered from it. Nor does the burst count that fills a window that has just grown (or the very
   first one), nor what comes behind it: until something dispatched after it has its first token.
7. **Goodput guard** (``goodput.py``): if a number of at most half as many was seen to make over a
   tenth more tokens per second than the window, which is 8 at most, it is tried for 8 requests (3,
   if they make less than two thirds). It is kept if it makes as much more of these, and again after
   some more with the window as it was: the requests may have become others. The window grows again
   only past what is worse, until it makes half as much again or a third less. A full server with
   few slots (8 at most) is asked to try one by one at most every half hour: it may be a CPU, and
   under load that number is never seen.
8. Where several nodes use a server, each adapts its own window, on what it sees itself. With known
   slots it never grows beyond the node's share of them, and 3's numbers are those of the share.

Sources: additive increase, multiplicative decrease and slow start as in TCP (RFC 5681); the ratio
to the unloaded latency as in Netflix's concurrency-limits (gradient). Plain additive increase from
a small window builds up a backlog that it never works off; hence rule 1.
"""

from collections import Counter
from math import inf, isqrt

from hub.dispatch.goodput import FEW, FORGET, Goodput
from hub.dispatch.window import Window
from hub.engines.base import Load

FIRST = 16
"""Requests that an upstream of which nothing is known is given at first."""
MOST = 1024
ROUND = 8
ROUND_TIME = 1.0
BURST = 0.05
"""Seconds in which what there is new room for is dispatched."""
SLOW = 8.0
"""Times the least time to first token that count as congestion."""
HELPED = 0.75
"""How late first tokens may still be, against before, if less side by side has helped."""
TWICE = 2.0
"""Times what is usual for other reasons that count as congestion, too."""
FORGIVE = 0.99
NEARLY_FULL = 0.9
SHRINK = 0.9
SHRINK_HARD = 0.6
UNREPORTED = 256
"""Requests after which a server that used to tell of its queue, and does so no more, is judged."""
WINS = 2
CHANGED = 1.5
TRIAL_TIME = 300.0
"""Seconds after which a trial is given up, if it has not shown anything."""


class Baseline:
    """The least time to first token by the size of the prompt. It rises very slowly, to forget."""

    RISE = 1.0001

    def __init__(self) -> None:
        self._least: dict[int, float] = {}

    def ratio(self, seconds: float, prompt_tokens: int) -> float:
        """Take one measurement into account, and give how many times the least it is."""
        size = prompt_tokens.bit_length()
        least = min(seconds, self.RISE * self._least.get(size, seconds))
        self._least[size] = least
        return seconds / least if least > 0 else 1.0


class Adaptive:
    """Changes the size of a window. The rules are at the top of this file."""

    def __init__(self, window: Window, *, slots: int | None = None) -> None:
        """``window`` has its first size already: see ``first_size``."""
        self.window = window
        self.changes: Counter[str] = Counter()
        """How often the size was changed, by why."""
        self._slots = slots
        self._most = self._all = self.first_size(slots) if slots else MOST
        """The largest window, and what it would be if no other node used the server."""
        self._least = max(1, slots // 4) if slots else 1
        self._starting = slots is None
        self._goodput = Goodput()
        self._baseline = Baseline()
        self._told = False
        """Whether the server tells how many wait there."""
        self._usual = 1.0
        """How many times the least first tokens take, of which the window is not the cause."""
        self._blamed: tuple[int, float] | None = None
        """The window that was shrunk first for late ones, and how late they were."""
        self._changed_at = -inf
        self._burst_at: float | None = None
        """When the window was last filled; ``None`` before the first request."""
        self._counts_from = inf
        """Since when what is dispatched has no burst before it; ``inf`` while it is not known."""
        self._trial: tuple[int, float] | None = None
        """The size before the trial, and when it is given up."""
        self._next_trial = -inf
        self._wins = 0
        """Trials in a row in which the smaller number was better."""
        self._kept: float | None = None
        """What it made, once it was kept."""
        self._begin(0.0)

    @staticmethod
    def first_size(slots: int | None) -> int:
        return slots + slots // 32 if slots else FIRST

    def _begin(self, now: float) -> None:
        self._round_began = now
        self._samples = 0
        self._ratios: list[float] = []
        self._limited = False
        self._queued = ""
        self._reported = False
        """The server has said how it is in this round."""

    # What is observed.

    def slots(self, now: float, slots: int) -> None:
        """The server has told how many slots it has: it was not there at first, or has others."""
        if slots != self._slots:
            self._slots, self._most = slots, self.first_size(slots)
            self._all = self._most
            self._least = max(1, slots // 4)
            self._change(now, self._most, "slots")

    @property
    def most(self) -> int | None:
        """The largest window, all nodes together; ``None`` if the slots are not known."""
        return None if self._slots is None else self._all

    def share(self, now: float, most: int) -> None:
        """Of the largest window only so much is this node's. The slots are known."""
        assert self._slots is not None, "nothing is divided"
        full, self._most = self.window.size >= self._most, most
        self._least = max(1, self._slots // 4 * most // self._all)
        size = most if full else min(self.window.size, most)
        if size != self.window.size:
            self._change(now, size, "share")

    def held_back(self) -> None:
        """Somebody waits because the window is full."""
        self._limited = True

    def first_token(self, now: float, dispatched_at: float, prompt_tokens: int) -> None:
        """A request has its first token."""
        ratio = self._baseline.ratio(now - dispatched_at, prompt_tokens)
        if self._burst_at is None:
            self._burst_at = dispatched_at
        if self._counts_from == inf and dispatched_at > self._burst_at + BURST:
            self._counts_from = now
        elif dispatched_at >= self._counts_from:
            self._samples += 1
            self._ratios.append(ratio)
            self._goodput.began(now, self.window.in_flight, now - dispatched_at)
        self._judge(now)

    def ended(self, now: float, side_by_side: int, seconds: float, tokens: int) -> None:
        """A request of so many tokens has ended, so many seconds after its first, as one of so
        many."""
        if now - seconds >= self._counts_from:
            self._goodput.ended(now, side_by_side, seconds, tokens)
        if self._trial is not None:
            self._judge_trial(now)

    def refused(self, now: float, dispatched_at: float) -> None:
        """The server refused a request for being overloaded."""
        if dispatched_at > self._changed_at:
            self._change(now, max(1, int(self.window.size * SHRINK_HARD)), "refused")

    def load(self, now: float, load: Load) -> None:
        """The server has said how it is."""
        self._told = self._told or load.waiting is not None
        self._reported = True
        if self.window.in_flight > self.window.size:
            # What it tells comes from before the change.
            self._judge(now)
            return
        waiting = load.waiting or 0
        if self._slots is not None and load.running is not None:
            # Below its slots it has only not begun yet with what it was given.
            waiting = load.running + waiting - self._slots
        if load.kv_used is not None and load.kv_used > NEARLY_FULL:
            self._queued = "cache"
        elif waiting > max(1, self.window.size * self._all // self._most // 10):
            self._queued = "queue"
        self._judge(now)

    # What follows from it.

    def _judge(self, now: float) -> None:
        if self._trial is not None:
            self._judge_trial(now)
            return
        if self._samples < ROUND or now - self._round_began < ROUND_TIME:
            return
        if self._limited and self._told and not self._reported and self._samples < UNREPORTED:
            return  # Whether the server's queue grows is not known yet.
        limited, queued, ratios = self._limited, self._queued, sorted(self._ratios)
        self._begin(now)
        if not limited:
            return
        size = self.window.size
        if not queued and self._slots is None and not self._told:
            before = self._blame(ratios[len(ratios) // 2])
            if before > size:
                self._change(now, before, "room")
                return
            queued = "ttft" if before else ""
        if queued:
            smaller = int(size * (SHRINK_HARD if self._starting else SHRINK))
            self._change(now, max(min(self._least, size), smaller), queued)
        elif (fewer := self._goodput.better_below(now, size)) is not None:
            self._try(now, fewer)
        elif self._may_try_one(now):
            self._try(now, 1)
        elif self._wins and self._goodput.of(now, size) is None:
            pass  # It is to be seen before the next trial.
        else:
            self._wins = 0
            self._forget_others(now, size)
            step = size if self._starting else isqrt(size)
            larger = self._goodput.next_above(now, size, step, self._most)
            if larger is not None:
                self._change(now, larger, "room")

    def _blame(self, late: float) -> int:
        """Whether the window is to blame for ``late`` first tokens: 0 if they are not, and its size
        if it is; else the larger size that it had before it was shrunk for nothing."""
        size = self.window.size
        self._usual = max(1.0, FORGIVE * self._usual)
        if late <= max(SLOW, TWICE * self._usual):
            self._blamed = None
            return 0
        before, then = self._blamed or (size, late)
        if size > SHRINK_HARD * before:
            self._blamed = (before, then)
            return size
        helped = late <= HELPED * then
        self._blamed = (size, late) if helped else None
        self._usual = self._usual if helped else late
        return size if helped else before

    def _may_try_one(self, now: float) -> bool:
        """Whether to find out what one by one would make."""
        return (
            self._slots is not None
            and self._most == self._all
            and 1 < self.window.size <= FEW
            and now >= self._next_trial
            and self._goodput.of(now, self.window.size) is not None
            and self._goodput.of(now, 1) is None
        )

    def _forget_others(self, now: float, size: int) -> None:
        """Forget what was worse if the requests have become others since."""
        kept, here = self._kept, self._goodput.of(now, size)
        if kept is None or here is None or kept / CHANGED < here < kept * CHANGED:
            return
        self._kept = None
        for other in range(1, FEW + 1):
            if other != size:
                self._goodput.forget(other)

    def _try(self, now: float, size: int) -> None:
        """Find out what a smaller window makes of the requests of now."""
        before = self.window.size
        self._goodput.forget(size)
        self._change(now, size, "trial")
        self._trial = (before, now + TRIAL_TIME)
        self._next_trial = now + FORGET

    def _judge_trial(self, now: float) -> None:
        """End the trial if it has shown what it was for, or takes too long."""
        assert self._trial is not None
        before, until = self._trial
        size = self.window.size
        if now < until and not self._goodput.hopeless(now, size, before):
            if self._goodput.of(now, size) is None:
                return
            self._wins = self._wins + 1 if self._goodput.better_below(now, before) == size else 0
        else:
            self._goodput.forget(size)
            self._wins = 0
        self._trial = None
        if self._wins == WINS:
            self._wins = 0
            self._kept = self._goodput.of(now, size)
            self.changes["slower"] += 1
        else:
            self._goodput.forget(before)
            self._change(now, before, "trial")

    def _change(self, now: float, size: int, why: str) -> None:
        if why not in ("room", "trial"):
            self._starting = False
        if size != self.window.size:
            self.window.size = size
            self.changes[why] += 1
        if why != "trial":
            self._wins = 0
        self._trial = None
        self._changed_at = self._burst_at = now
        self._counts_from = inf
        self._begin(now)
