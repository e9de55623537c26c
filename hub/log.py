"""The log of a response: numbered events, appended by one writer, read by cursors.

Machines and rules of this file's world:

- A *log* is open, then ended. Only its one writer appends; the event that is appended with
  ``terminal=True`` ends it, and appending to a log that has ended is a defect (an assertion).
- Readers see an event as soon as it is appended, unless the log is *held*: then they see what was
  *released*, so that nobody reads what might still be lost. A log is *sealed* for its readers
  when they see its terminal event.
- Events are numbered from 0 upwards without gaps. A *cursor* is the number of the last
  event that a reader has had, -1 for none. Reading never changes the log, so any number of
  readers at any speed cost an integer each.
- A reader that wants to be woken subscribes a plain callable. It is called whenever there is more
  to see, on the writer's stack: it must not block, raise, append or subscribe; it marks something
  as dirty. Who waits for the end only is called once, after the readers, when the log is sealed.
- A log may be *bounded* in bytes: when it is larger, whoever has bounded it is told, once. Its
  writer may add what is under way already, until it is stopped.
- Consecutive deltas of one part (same ``part`` object) may be *merged* for a reader that is
  behind: one event that carries their joined text and the last one's number. The reader's text is
  the same and its cursor ends at the same place.

What may not be in this file: JSON, a dialect, a clock, a socket, asyncio.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol


class Part(Protocol):
    """What the deltas of one output part share. Knows how to write such an event."""

    type: str
    """The type of such an event."""

    def encode(self, seq: int, delta: str) -> bytes:
        """The event's wire form (see ``Event.wire``)."""
        ...


_FIXED = 200
"""About how many bytes an event holds beside its text or its encoding."""


class Event:
    """One event of a log.

    ``type`` is the protocol's event type. ``body`` holds the fields of an event that is no delta;
    deltas keep their text in ``delta`` and what they share in ``part``. ``size`` estimates the
    bytes that the event holds in memory and on the wire.
    """

    __slots__ = ("_wire", "body", "delta", "part", "seq", "type")

    def __init__(
        self,
        type: str,
        body: dict[str, object] | None = None,
        *,
        part: Part | None = None,
        delta: str = "",
        wire: bytes | None = None,
    ) -> None:
        self.seq = -1
        self.type = type
        self.body = body
        self.part = part
        self.delta = delta
        self._wire = wire

    @property
    def wire(self) -> bytes:
        """The event as a JSON object *without its closing brace*, encoded once.

        Whoever sends it closes it: ``}`` alone, or with what belongs to the reader and not to the
        log, such as ``,"stream_id":"a"}``.
        """
        wire = self._wire
        if wire is None:
            assert self.part is not None, "an event without a part is encoded when it is made"
            wire = self._wire = self.part.encode(self.seq, self.delta)
        return wire

    @property
    def size(self) -> int:
        return (len(self.delta) if self.part is not None else len(self.wire)) + _FIXED

    def __repr__(self) -> str:
        return f"<Event {self.seq} {self.type} {self.delta!r}>"


class ResponseLog:
    """An append-only log. See the rules at the top of this file."""

    __slots__ = (
        "_enders",
        "_events",
        "_held",
        "_largest",
        "_limit",
        "_on_full",
        "_readers",
        "_visible",
        "_wake_keeper",
        "ended",
        "sealed",
        "size",
    )

    def __init__(self) -> None:
        self.ended = False
        self.sealed = False
        self.size = 0
        self._events: list[Event] = []
        self._held = False
        self._wake_keeper: Callable[[], None] | None = None
        self._visible = 0
        self._largest = 0
        self._limit: float = inf
        self._on_full: Callable[[], None] | None = None
        self._readers: tuple[Callable[[], None], ...] = ()
        self._enders: list[Callable[[], None]] = []

    @property
    def last(self) -> int:
        """The number of the last event that readers see, -1 if there is none."""
        return self._visible - 1

    @property
    def next(self) -> int:
        """The number that the next event will have."""
        return len(self._events)

    def append(self, event: Event, *, terminal: bool = False) -> None:
        """Number an event and add it. ``terminal`` ends the log."""
        assert not self.ended, f"{event.type} after the end of the log"
        event.seq = len(self._events)
        self._events.append(event)
        size = event.size
        self.size += size
        self._largest = max(self._largest, size)
        if self.size > self._limit:
            self._full()
        self.ended = terminal
        if not self._held:
            self._show(len(self._events))
        elif self._wake_keeper is not None:
            self._wake_keeper()

    def say(self, part: Part, delta: str) -> None:
        """Append a delta of a part: ``append``, for the path that every token takes."""
        assert not self.ended, f"{part.type} after the end of the log"
        events = self._events
        # Written out, since a call of the constructor would cost as much as all of the rest.
        event = _blank(Event)
        event.seq = len(events)
        event.type = part.type
        event.body = None
        event.part = part
        event.delta = delta
        event._wire = None
        events.append(event)
        size = len(delta) + _FIXED
        self.size = total = self.size + size
        if size > self._largest:
            self._largest = size
        if total > self._limit:
            self._full()
        if not self._held:
            self._visible = event.seq + 1
            for wake in self._readers:
                wake()
        elif self._wake_keeper is not None:
            self._wake_keeper()

    def bound(self, limit: float, on_full: Callable[[], None]) -> None:
        """Call ``on_full`` once, at the first event that leaves the log with more than ``limit``
        bytes, on the writer's stack: it must not append. Another bound takes its place."""
        self._limit = limit
        self._on_full = on_full

    def unbound(self) -> None:
        """What is written from now on, such as its end, may be as large as it is."""
        self._limit = inf
        self._on_full = None

    def _full(self) -> None:
        on_full = self._on_full
        assert on_full is not None
        self.unbound()
        on_full()

    def hold(self, wake: Callable[[], None] | None = None) -> None:
        """From now on readers see an event only when it is released.

        ``wake`` is called after every append, for whoever is to release it.
        """
        self._held = True
        self._wake_keeper = wake

    def release(self, last: int) -> None:
        """Let the readers of a held log see everything up to the event ``last``."""
        visible = last + 1
        assert visible <= len(self._events), "released before it was appended"
        if visible > self._visible:
            self._show(visible)

    def _show(self, visible: int) -> None:
        self._visible = visible
        self.sealed = self.ended and visible == len(self._events)
        self.wake()
        if self.sealed:
            self.unbound()
            # Nothing is appended any more. Its keeper refers to it, too.
            self._wake_keeper = None
            enders, self._enders = self._enders, []
            for ended in enders:
                ended()

    def when_sealed(self, ended: Callable[[], None]) -> None:
        """Call ``ended`` once, when readers see the terminal event; at once if they do."""
        if self.sealed:
            ended()
        else:
            self._enders.append(ended)

    def forget(self, ended: Callable[[], None]) -> None:
        """Do not call what ``when_sealed`` was given. No effect if it was called already."""
        if ended in self._enders:
            self._enders.remove(ended)

    def wake(self) -> None:
        """Wake the readers. They may find nothing new: something else has changed."""
        for wake in self._readers:
            wake()

    def read(self, after: int, *, merge: bool = False, budget: int | None = None) -> list[Event]:
        """The events after cursor ``after``, oldest first; empty if there are none.

        ``merge`` joins consecutive deltas of a part. ``budget`` stops once that many bytes are
        taken, but always takes one event. The new cursor is the last event's ``seq``.
        """
        start, stop = max(after + 1, 0), self._visible
        if budget is not None and (stop - start) * self._largest >= budget:
            stop = self._spent(start, budget)
        events = self._events[start:stop]
        return merged(events) if merge and stop - start > 1 else events

    def lag(self, after: int) -> int:
        """About how many bytes a reader has not had whose cursor is ``after``: as if all events
        were equally large."""
        missed = self._visible - 1 - max(after, -1)
        return missed * self.size // len(self._events) if missed > 0 else 0

    def _spent(self, start: int, budget: int) -> int:
        """Where a budget ends."""
        for index in range(start, self._visible):
            budget -= self._events[index].size
            if budget <= 0:
                return index + 1
        return self._visible

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever readers see more, until it is unsubscribed."""
        assert wake not in self._readers, "subscribed twice"
        self._readers = (*self._readers, wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Stop calling ``wake``. No effect if it is not subscribed."""
        self._readers = tuple(reader for reader in self._readers if reader != wake)

    @property
    def readers(self) -> int:
        """How many readers are subscribed."""
        return len(self._readers)


_blank: Callable[[type[Event]], Event] = Event.__new__


def merged(events: Sequence[Event]) -> list[Event]:
    """Join runs of consecutive deltas of the same part; leave everything else as it is."""
    out: list[Event] = []
    index, end = 0, len(events)
    while index < end:
        event = events[index]
        stop = index + 1
        if event.part is not None:
            while stop < end and events[stop].part is event.part:
                stop += 1
        if stop - index > 1:
            joined = Event(
                event.type,
                part=event.part,
                delta="".join([e.delta for e in events[index:stop]]),
            )
            joined.seq = events[stop - 1].seq
            out.append(joined)
        else:
            out.append(event)
        index = stop
    return out
