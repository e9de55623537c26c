"""The log's rules, with any readers, on any traffic."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.log import Event, ResponseLog, merged
from tests.traces import traces


class CountingPart:
    """A part that counts how often each event was encoded."""

    type = "delta"

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode(self, seq: int, delta: str) -> bytes:
        self.encoded.append(seq)
        return b"%d:%b" % (seq, delta.encode())


class Writer:
    """A log and its one writer: deltas of three parts, and events that are none."""

    def __init__(self) -> None:
        self.log = ResponseLog()
        self.parts = [CountingPart() for _ in range(3)]
        self.written: list[Event] = []

    def delta(self, part: int, text: str) -> None:
        self.log.say(self.parts[part], text)
        self.written.append(self.newest())

    def other(self, *, terminal: bool = False) -> None:
        body: dict[str, object] = {"n": len(self.written)}
        self._append(Event("other", body, wire=b'{"n":%d' % len(self.written)), terminal=terminal)

    def newest(self) -> Event:
        """The last event, also of a log that hides it."""
        # A held log shows nothing; the event is the same object once it is shown.
        return self.log._events[-1]

    def _append(self, event: Event, *, terminal: bool = False) -> None:
        self.log.append(event, terminal=terminal)
        self.written.append(event)


def story(events: Sequence[Event]) -> list[tuple[object, str]]:
    """What a reader is told: texts per run of a part, and every event that is no delta."""
    told: list[tuple[object, str]] = []
    for event in events:
        if event.part is None:
            told.append((event, ""))
        elif told and told[-1][0] is event.part:
            told[-1] = (event.part, told[-1][1] + event.delta)
        else:
            told.append((event.part, event.delta))
    return told


class Reader:
    """A cursor, and what came with it."""

    def __init__(self, log: ResponseLog) -> None:
        self.log = log
        self.cursor = -1
        self.had: list[Event] = []

    def read(self, *, merge: bool, budget: int | None, keep: int | None = None) -> int:
        """Read once; the connection drops after ``keep`` events, and the rest is lost."""
        events = self.log.read(self.cursor, merge=merge, budget=budget)
        for event in events[:keep]:
            assert event.seq > self.cursor
            self.cursor = event.seq
            self.had.append(event)
        return len(events)


texts = st.text(max_size=4)
budgets = st.none() | st.integers(0, 2000)
writes = st.one_of(
    st.tuples(st.just("delta"), st.integers(0, 2), texts),
    st.tuples(st.just("other"), st.just(0), st.just("")),
)
switches = st.tuples(st.sampled_from(["on", "off"]), st.integers(0, 3))
reads = st.tuples(
    st.just("read"), st.integers(0, 2), st.booleans(), budgets, st.none() | st.integers(0, 5)
)


@given(traces(st.one_of(writes, reads), 60), st.booleans())
def test_every_reader_gets_exactly_the_text_in_order_once(
    steps: list[tuple[object, ...]], merge_at_end: bool
) -> None:
    """Any readers, at any speed, dropping and resuming anywhere, each get exactly the log's text,
    in order, once."""
    writer = Writer()
    readers = [Reader(writer.log) for _ in range(3)]
    for step in steps:
        match step:
            case ("delta", int(part), str(text)):
                writer.delta(part, text)
            case ("other", *_):
                writer.other()
            case ("read", int(reader), bool(merge), budget, keep):
                assert budget is None or isinstance(budget, int)
                assert keep is None or isinstance(keep, int)
                readers[reader].read(merge=merge, budget=budget, keep=keep)
    writer.other(terminal=True)
    for reader_ in readers:
        while reader_.read(merge=merge_at_end, budget=500):
            pass
        assert story(reader_.had) == story(writer.written)
        assert reader_.cursor == writer.log.last


@given(traces(writes, 20))
def test_numbers_rise_by_one_from_0(steps: list[tuple[str, int, str]]) -> None:
    """Events are numbered from 0 upwards without gaps, and ``last`` and ``next`` say so."""
    writer = Writer()
    assert (writer.log.last, writer.log.next) == (-1, 0)
    for kind, part, text in steps:
        writer.delta(part, text) if kind == "delta" else writer.other()
        assert writer.written[-1].seq == writer.log.last == writer.log.next - 1
    assert [event.seq for event in writer.log.read(-1)] == [*range(len(steps))]


@given(st.integers(0, 20), st.integers(-1, 50))
def test_a_read_is_what_follows_the_cursor(count: int, after: int) -> None:
    """A read gives the events with a number above the cursor; none for a cursor at or past the
    end."""
    writer = Writer()
    for _ in range(count):
        writer.other()
    assert writer.log.read(after) == [event for event in writer.written if event.seq > after]


def test_a_read_is_the_readers_own() -> None:
    """Reading never changes the log, whatever the reader does with the list."""
    writer = Writer()
    writer.other()
    writer.log.read(-1).clear()
    assert writer.log.read(-1) == writer.written


@given(st.lists(writes, max_size=5), st.booleans())
def test_nothing_follows_a_terminal_event(
    steps: list[tuple[str, int, str]], delta_after: bool
) -> None:
    """A log is sealed by its terminal event and by nothing else; appending to it is a defect."""
    writer = Writer()
    for kind, part, text in steps:
        writer.delta(part, text) if kind == "delta" else writer.other()
        assert not writer.log.sealed
    writer.other(terminal=True)
    assert writer.log.sealed
    before = writer.log.read(-1)
    with pytest.raises(AssertionError, match="after the end of the log"):
        writer.delta(0, "late") if delta_after else writer.other()
    assert writer.log.read(-1) == before


@given(traces(writes, 40))
def test_merging_joins_only_runs_of_one_part(steps: list[tuple[str, int, str]]) -> None:
    """Merging joins exactly the runs of consecutive deltas of one part, keeps their text and the
    last one's number, and leaves every other event as it is."""
    writer = Writer()
    for kind, part, text in steps:
        writer.delta(part, text) if kind == "delta" else writer.other()
    events = merged(writer.written)
    assert story(events) == story(writer.written)
    assert len(events) == len(story(writer.written)), "neighbours of one part are left"
    had = -1
    for event in events:
        run = writer.written[had + 1 : event.seq + 1]
        assert event.delta == "".join(one.delta for one in run)
        assert event.type == run[-1].type
        if len(run) == 1:
            assert event is run[0]
        had = event.seq
    assert had == writer.log.last


@given(st.lists(texts, max_size=20), st.lists(st.booleans(), max_size=5))
def test_an_event_is_encoded_once_however_many_read_it(
    deltas: list[str], readers: list[bool]
) -> None:
    """Each event is encoded when the first reader asks, and never again; nobody's merging touches
    it."""
    writer = Writer()
    for text in deltas:
        writer.delta(0, text)
    part = writer.parts[0]
    assert part.encoded == []
    for merge in readers:
        for event in writer.log.read(-1, merge=merge):
            assert event.wire == event.wire == b"%d:%b" % (event.seq, event.delta.encode())
    for event in writer.written:
        assert event.wire == b"%d:%b" % (event.seq, event.delta.encode())
    merging = sum(readers) if len(deltas) > 1 else 0
    assert len(part.encoded) == len(deltas) + merging
    assert set(part.encoded) == {event.seq for event in writer.written}


def test_an_event_without_a_part_brings_its_own_encoding() -> None:
    """What is no delta is encoded when it is made."""
    assert Event("other", {}, wire=b"{").wire == b"{"
    with pytest.raises(AssertionError, match="without a part"):
        _ = Event("other", {}).wire


@given(traces(writes, 10), st.booleans())
def test_who_waits_for_the_end_is_called_once_when_it_is_seen(
    steps: list[tuple[str, int, str]], held: bool
) -> None:
    """``when_sealed`` calls once, after the readers, when the terminal event is shown; and at once
    from then on."""
    writer = Writer()
    called: list[str] = []
    writer.log.when_sealed(lambda: called.append("early"))

    def given_up() -> None:
        called.append("given up")

    writer.log.when_sealed(given_up)
    writer.log.forget(given_up)
    writer.log.forget(given_up)
    if held:
        writer.log.hold()
    for kind, part, text in steps:
        writer.delta(part, text) if kind == "delta" else writer.other()
    assert called == []
    writer.log.subscribe(lambda: called.append("reader"))
    writer.other(terminal=True)
    if held:
        assert called == []
        writer.log.release(writer.log.next - 1)
    assert called == ["reader", "early"]
    writer.log.when_sealed(lambda: called.append("late"))
    writer.log.wake()
    assert called == ["reader", "early", "late", "reader"]


@given(st.lists(writes, min_size=1, max_size=30), st.integers(0, 3000), st.booleans())
@example([("delta", 0, "a")] * 3, 402, False)
def test_a_budget_takes_at_least_one_event_and_stops_when_it_is_spent(
    steps: list[tuple[str, int, str]], budget: int, merge: bool
) -> None:
    """A budget takes one event at least, and none once that many bytes are taken."""
    writer = Writer()
    for kind, part, text in steps:
        writer.delta(part, text) if kind == "delta" else writer.other()
    last = writer.log.read(-1, merge=merge, budget=budget)[-1].seq
    taken = writer.written[: last + 1]
    assert sum(event.size for event in taken[:-1]) < max(budget, 1)
    assert taken == writer.written or sum(event.size for event in taken) >= budget


@given(traces(writes, 20))
def test_the_size_of_a_log_grows_with_every_event(steps: list[tuple[str, int, str]]) -> None:
    """A log's size is the sum of its events', text at the least, before anything is encoded."""
    writer = Writer()
    for kind, part, text in steps:
        writer.delta(part, text) if kind == "delta" else writer.other()
    assert writer.log.size == sum(event.size for event in writer.written)
    assert writer.log.size >= sum(len(event.delta) for event in writer.written) + 200 * len(steps)


@given(traces(st.one_of(writes, switches), 40))
def test_readers_are_woken_for_every_append_while_they_are_subscribed(
    steps: list[tuple[object, ...]],
) -> None:
    """``wake`` is called once for each append, with the event already there, and never after
    ``unsubscribe``."""
    writer = Writer()
    woken: list[list[int]] = [[] for _ in range(4)]
    expected: list[list[int]] = [[] for _ in range(4)]
    subscribed: set[int] = set()

    def waker(reader: int) -> Callable[[], None]:
        return lambda: woken[reader].append(writer.log.last)

    wakers = [waker(reader) for reader in range(4)]
    for step in steps:
        match step:
            case ("on", int(reader)) if reader in subscribed:
                with pytest.raises(AssertionError, match="subscribed twice"):
                    writer.log.subscribe(wakers[reader])
            case ("on", int(reader)):
                writer.log.subscribe(wakers[reader])
                subscribed.add(reader)
            case ("off", int(reader)):
                writer.log.unsubscribe(wakers[reader])
                subscribed.discard(reader)
            case ("delta", int(part), str(text)):
                writer.delta(part, text)
            case _:
                writer.other()
        if step[0] in ("delta", "other"):
            for reader in subscribed:
                expected[reader].append(writer.log.last)
        assert writer.log.readers == len(subscribed)
    assert woken == expected


# Held logs.


releases = st.tuples(st.just("release"), st.integers(-2, 4))


@given(
    st.lists(writes, max_size=5),
    traces(st.one_of(writes, releases), 40),
    st.booleans(),
    budgets,
)
def test_readers_of_a_held_log_see_what_was_released(
    before: list[tuple[str, int, str]],
    steps: list[tuple[object, ...]],
    merge: bool,
    budget: int | None,
) -> None:
    """From ``hold`` on readers see, and are woken for, exactly what is released; its keeper is
    woken for every append; the log is sealed when they see its terminal event."""
    writer = Writer()
    log = writer.log
    woken: list[int] = []
    kept: list[int] = []
    for kind, part, text in before:
        writer.delta(part, text) if kind == "delta" else writer.other()
    log.hold(lambda: kept.append(log.next))
    log.subscribe(lambda: woken.append(log.last))
    reader = Reader(log)
    seen = log.last
    expected: list[int] = []
    for step in [*steps, ("end",), ("release", 1), ("release", 1000)]:
        match step:
            case ("delta", int(part), str(text)):
                writer.delta(part, text)
            case ("end",):
                writer.other(terminal=True)
                assert log.ended
            case ("release", int(more)):
                to = min(seen + more, log.next - 1)
                log.release(to)
                if more > 0 and to > seen:
                    seen = to
                    expected.append(seen)
            case _:
                writer.other()
        assert log.last == seen
        assert log.sealed is (log.ended and seen == log.next - 1)
        while reader.read(merge=merge, budget=budget):
            pass
        assert reader.cursor == seen
        assert story(reader.had) == story(writer.written[: seen + 1])
    assert woken == expected
    assert kept == [event.seq + 1 for event in writer.written[len(before) :]]
    assert log.sealed


def test_a_held_log_needs_no_keeper() -> None:
    """Whoever holds a log may release it without being woken."""
    writer = Writer()
    writer.log.hold()
    writer.other()
    assert writer.log.read(-1) == []
    writer.log.release(0)
    assert writer.log.read(-1) == writer.written


def test_nothing_follows_a_terminal_event_that_is_held_back() -> None:
    """A log ends for its writer before it is sealed for its readers."""
    writer = Writer()
    writer.log.hold()
    writer.other(terminal=True)
    assert not writer.log.sealed
    with pytest.raises(AssertionError, match="after the end of the log"):
        writer.delta(0, "late")


def test_what_was_not_appended_cannot_be_released() -> None:
    """Releasing more than there is would show a later event before its time."""
    writer = Writer()
    writer.log.hold()
    writer.other()
    with pytest.raises(AssertionError, match="before it was appended"):
        writer.log.release(1)
    assert writer.log.read(-1) == []


def test_an_event_shows_what_it_is() -> None:
    """An event in a debugger tells its number, its type and its text."""
    writer = Writer()
    writer.delta(0, "hi")
    assert repr(writer.written[0]) == "<Event 0 delta 'hi'>"


# Bounds.


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=20), st.integers(0, 3000))
def test_whoever_bounds_a_log_is_told_once_when_it_is_larger(
    events: list[tuple[bool, int]], limit: int
) -> None:
    """At the first event that leaves more than the bound, by whichever way it was appended, and
    never again; the log itself goes on."""
    writer = Writer()
    told: list[int] = []
    writer.log.bound(limit, lambda: told.append(writer.log.next))
    expected: list[int] = []
    for said, length in events:
        if said:
            writer.log.say(writer.parts[0], "x" * length)
        else:
            writer.other()
        if not expected and writer.log.size > limit:
            expected.append(writer.log.next)
        assert told == expected
    assert writer.log.next == len(events)


def test_what_ends_a_log_is_not_bounded() -> None:
    """Without its bound nobody is told; with another one, somebody else is."""
    writer = Writer()
    told: list[str] = []
    writer.log.bound(1, lambda: told.append("first"))
    writer.log.unbound()
    writer.delta(0, "x")
    writer.log.bound(1, lambda: told.append("second"))
    writer.delta(0, "x")
    assert told == ["second"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(-2, 25))
def test_a_lag_is_zero_for_who_has_all_and_the_size_for_who_has_nothing(
    lengths: list[int], cursor: int
) -> None:
    """And in between it falls as the cursor rises; it is exact if all events are equally large."""
    writer = Writer()
    assert writer.log.lag(cursor) == 0
    for length in lengths:
        writer.delta(0, "x" * length)
    log = writer.log
    assert log.lag(-1) == log.lag(-2) == log.size
    assert log.lag(cursor + 1) <= log.lag(cursor) <= log.size
    assert (log.lag(cursor) == 0) is (cursor >= log.last)
    if len(set(lengths)) == 1:
        missed = max(0, len(lengths) - 1 - max(cursor, -1))
        assert log.lag(cursor) == missed * (log.size // len(lengths))
