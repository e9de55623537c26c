"""The outbox of a socket: everything new, in one write per turn of the event loop.

A *subscription* is a cursor on a log and a way to render its events. When its log grows it marks
itself as dirty, and the outbox asks the loop for one flush; by the time the flush runs, every log
that grew in this turn is in it. No queue, no task and no timer per subscription: a reader that
cannot keep up is a cursor that stays where it is. When its socket drains, what it missed is merged
into few events.

A reader is *behind* from the first pause of its socket until it has had all there is. Only then a
timer runs, and when it has been behind for too long, or by too much, its owner is told to close it:
what it holds open lives on without it, and it may come back and resume.

Fair among the subscriptions of one socket: a flush takes a bounded number of bytes of each, in the
order in which they became dirty; who has more goes to the back.
"""

import asyncio
import socket
from collections.abc import Callable

from hub.log import Event, ResponseLog

HIGH_WATER = 64 * 1024
"""Bytes that wait in a socket's buffer before it counts as full: what both loops do by default."""
BUDGET = 64 * 1024
"""Bytes that one subscription may write in one turn before the next one gets its turn."""
CHECK = 1.0
"""Seconds between two looks at how far behind a reader is."""


def bound_buffers(transport: asyncio.WriteTransport) -> None:
    """Let a transport hold few bytes for a reader that does not read: in this process, and in the
    kernel, which would keep megabytes by itself. What is not written yet is merged later; what was
    written cannot be."""
    transport.set_write_buffer_limits(high=HIGH_WATER)
    sock = transport.get_extra_info("socket")
    if sock is not None:
        # Linux takes twice as much, for its own needs.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HIGH_WATER)


class Subscription:
    """A reader of one log. Made by ``Outbox.subscribe``."""

    __slots__ = (
        "_outbox", "behind", "came", "cursor", "dirty", "log", "on_end", "on_text", "render",
    )  # fmt: skip

    def __init__(
        self,
        outbox: "Outbox",
        log: ResponseLog,
        cursor: int,
        render: Callable[[Event], bytes],
        on_end: Callable[[], None],
        on_text: Callable[[], object] | None,
    ) -> None:
        self._outbox = outbox
        self.log = log
        self.cursor = cursor
        self.came = log.last
        """What the log had when it began to read."""
        self.render = render
        self.on_end = on_end
        self.on_text = on_text
        """Until there was one: called after the first text was written."""
        self.dirty = False
        self.behind = False
        """It missed turns: merge what it has not had yet."""

    def wake(self) -> None:
        """The log grew. On the hot path: runs for every token and reader."""
        if not self.dirty:
            self.dirty = True
            self._outbox.mark(self)


class Outbox:
    """Writes the news of any number of subscriptions to one transport.

    The owner forwards the transport's ``pause_writing`` and ``resume_writing``, and calls ``close``
    when the connection is lost.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        loop: asyncio.AbstractEventLoop,
        *,
        patience: float,
        max_lag: int,
        on_slow: Callable[[], None],
        budget: int = BUDGET,
    ) -> None:
        """``on_slow`` is called when the reader has been behind for ``patience`` seconds, or by
        more than ``max_lag`` bytes: close the outbox and the connection then."""
        self._write = write
        self._loop = loop
        self._patience = patience
        self._max_lag = max_lag
        self._on_slow = on_slow
        self._budget = budget
        self._subscriptions: set[Subscription] = set()
        self._dirty: list[Subscription] = []
        self._scheduled = False
        self._paused = False
        self._closed = False
        self._deadline = 0.0
        """When its patience is over, if the timer runs."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def lag(self) -> int:
        """About how many bytes of the logs it is behind by. What was there before a subscription
        does not count: who reads an old log is not slow for its length."""
        return sum(one.log.lag(max(one.cursor, one.came)) for one in self._subscriptions)

    @property
    def paused(self) -> bool:
        """The socket is full: nothing is written until it has drained."""
        return self._paused

    def subscribe(
        self,
        log: ResponseLog,
        render: Callable[[Event], bytes],
        *,
        cursor: int = -1,
        on_end: Callable[[], None],
        on_text: Callable[[], object] | None = None,
    ) -> Subscription:
        """Send a log's events after ``cursor``, and all that follow.

        ``render`` turns an event into bytes. ``on_end`` is called after the terminal event was
        written, or if the reader has had it; the subscription is over then. ``on_text`` is called
        once, after the first text was written.
        """
        subscription = Subscription(self, log, cursor, render, on_end, on_text)
        subscription.behind = self._paused
        self._subscriptions.add(subscription)
        log.subscribe(subscription.wake)
        if log.last > cursor or log.sealed:
            subscription.wake()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop reading. ``on_end`` will not be called."""
        self._subscriptions.discard(subscription)
        subscription.log.unsubscribe(subscription.wake)

    def mark(self, subscription: Subscription) -> None:
        """``subscription`` has news."""
        self._dirty.append(subscription)
        if not self._scheduled and not self._paused:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def pause(self) -> None:
        """The transport's buffer is over its high-water mark."""
        self._paused = True
        for subscription in self._subscriptions:
            subscription.behind = True
        if self._timer is None and not self._closed:
            self._deadline = self._loop.time() + self._patience
            self._wait()

    def resume(self) -> None:
        """The transport's buffer has drained."""
        self._paused = False
        if not self._dirty:
            self._caught_up()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """The connection is gone: forget all subscriptions."""
        self._closed = True
        for subscription in [*self._subscriptions]:
            self.unsubscribe(subscription)
        self._dirty.clear()
        self._caught_up()

    def _wait(self) -> None:
        """Look again when its patience is over, or sooner."""
        self._timer = self._loop.call_at(min(self._loop.time() + CHECK, self._deadline), self._look)

    def _look(self) -> None:
        """A reader is behind: see whether it is too far."""
        self._timer = None
        if self._loop.time() >= self._deadline or self.lag > self._max_lag:
            self._on_slow()
        else:
            self._wait()

    def _caught_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        self._scheduled = False
        if self._paused or self._closed:
            return
        dirty, self._dirty = self._dirty, []
        blocks: list[bytes] = []
        ended: list[Subscription] = []
        told: tuple[Callable[[], object], ...] = ()
        for subscription in dirty:
            subscription.dirty = False
            if subscription not in self._subscriptions:
                continue
            log = subscription.log
            events = log.read(subscription.cursor, merge=subscription.behind, budget=self._budget)
            if events:
                subscription.cursor = events[-1].seq
                blocks += map(subscription.render, events)
                if subscription.on_text is not None and any(event.delta for event in events):
                    told = (*told, subscription.on_text)
                    subscription.on_text = None
            if subscription.cursor < log.last:
                subscription.wake()
            else:
                subscription.behind = False
                if log.sealed:
                    ended.append(subscription)
        data = b"".join(blocks)
        if data:
            self._write(data)
        for on_text in told:
            on_text()
        if self._timer is not None and not (self._dirty or self._paused):
            self._caught_up()
        for subscription in ended:
            # The end of one may have been the reason to stop another.
            if subscription in self._subscriptions:
                self.unsubscribe(subscription)
                subscription.on_end()
