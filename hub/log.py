"""The log of a response: numbered events, appended by one writer, read by cursors.

Machines and rules of this file's world:

- A *log* is open, then ended. Only its one writer appends; the event that is appended with
  ``terminal=True`` ends it, and appending to a log that has ended is a defect (an assertion).
- Readers see an event as soon as it is appended, unless the log is *held*: then they see what was
  *released*, so that nobody reads what might still be lost. A log is *sealed* for its readers
  when they see its terminal event.
- Events are numbered from ``first`` upwards without gaps. A *cursor* is the number of the last
  event that a reader has had, -1 for none. Reading never changes the log, so any number of
  readers at any speed cost an integer each.
- A reader that wants to be woken subscribes a plain callable. It is called whenever there is more
  to see, on the writer's stack: it must not block, raise, append or subscribe; it marks something
  as dirty.
- Consecutive deltas of one part (same ``part`` object) may be *merged* for a reader that is
  behind: one event that carries their joined text and the last one's number. The reader's text is
  the same and its cursor ends at the same place.

What may not be in this file: JSON, a dialect, a clock, a socket, asyncio.
"""

from collections.abc import Callable, Sequence
from typing import Protocol


class Part(Protocol):
    """What the deltas of one output part share. Knows how to write such an event."""

    def encode(self, seq: int, delta: str) -> bytes:
        """The event's wire form (see ``Event.wire``)."""
        ...


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
        return len(self.delta) + 200 if self._wire is None else len(self._wire) + 200

    def __repr__(self) -> str:
        return f"<Event {self.seq} {self.type} {self.delta!r}>"


class ResponseLog:
    """An append-only log. See the rules at the top of this file."""

    __slots__ = (
        "_events",
        "_held",
        "_readers",
        "_visible",
        "_wake_keeper",
        "ended",
        "first",
        "sealed",
        "size",
    )

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.ended = False
        self.sealed = False
        self.size = 0
        self._events: list[Event] = []
        self._held = False
        self._wake_keeper: Callable[[], None] | None = None
        self._visible = 0
        self._readers: tuple[Callable[[], None], ...] = ()

    @property
    def last(self) -> int:
        """The number of the last event that readers see, ``first - 1`` if there is none."""
        return self.first + self._visible - 1

    @property
    def next(self) -> int:
        """The number that the next event will have."""
        return self.first + len(self._events)

    def append(self, event: Event, *, terminal: bool = False) -> None:
        """Number an event and add it. ``terminal`` ends the log."""
        assert not self.ended, f"{event.type} after the end of the log"
        event.seq = self.first + len(self._events)
        self._events.append(event)
        self.size += len(event.delta) + 200 if event.body is None else event.size
        self.ended = terminal
        if not self._held:
            self._show(len(self._events))
        elif self._wake_keeper is not None:
            self._wake_keeper()

    def hold(self, wake: Callable[[], None] | None = None) -> None:
        """From now on readers see an event only when it is released.

        ``wake`` is called after every append, for whoever is to release it.
        """
        self._held = True
        self._wake_keeper = wake

    def release(self, last: int) -> None:
        """Let the readers of a held log see everything up to the event ``last``."""
        visible = last + 1 - self.first
        assert visible <= len(self._events), "released before it was appended"
        if visible > self._visible:
            self._show(visible)

    def _show(self, visible: int) -> None:
        self._visible = visible
        self.sealed = self.ended and visible == len(self._events)
        self.wake()

    def wake(self) -> None:
        """Wake the readers. They may find nothing new: something else has changed."""
        for wake in self._readers:
            wake()

    def read(self, after: int, *, merge: bool = False, budget: int | None = None) -> list[Event]:
        """The events after cursor ``after``, oldest first; empty if there are none.

        ``merge`` joins consecutive deltas of a part. ``budget`` stops once that many bytes are
        taken, but always takes one event. The new cursor is the last event's ``seq``.
        """
        start = max(after + 1 - self.first, 0)
        events = (
            self._events[start : self._visible] if budget is None else self._take(start, budget)
        )
        return merged(events) if merge else events

    def _take(self, start: int, budget: int) -> list[Event]:
        taken: list[Event] = []
        for index in range(start, self._visible):
            event = self._events[index]
            taken.append(event)
            budget -= event.size
            if budget <= 0:
                break
        return taken

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
