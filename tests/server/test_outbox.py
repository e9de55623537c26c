"""The outbox: one write per turn of the loop, a lagging cursor per slow reader, nothing lost.

A turn of the loop is what is tested here, so time is virtual and the tests turn it by hand.
"""

import asyncio
from collections.abc import Callable
from itertools import groupby
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.log import Event, ResponseLog
from hub.server.outbox import CHECK, Outbox, Subscription
from tests.traces import traces
from tests.virtual import virtual


async def turn() -> None:
    """One turn of the event loop: a flush that was asked for has run."""
    await asyncio.sleep(0)


class Part:
    """A part with a name."""

    type = "delta"

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, seq: int, delta: str) -> bytes:
        return orjson.dumps({"part": self.name, "seq": seq, "delta": delta})[:-1]


class Writer:
    """A log and its one writer."""

    def __init__(self) -> None:
        self.log = ResponseLog()
        self.parts = [Part("0"), Part("1")]
        self.written: list[Event] = []

    def say(self, text: str, part: int = 0) -> None:
        self._append(Event("delta", part=self.parts[part], delta=text))

    def begin(self) -> None:
        """An event without text."""
        fields = orjson.dumps({"part": "begin", "seq": self.log.next, "delta": ""})
        self._append(Event("begin", {}, wire=fields[:-1]))

    def end(self) -> None:
        fields = orjson.dumps({"part": "end", "seq": self.log.next, "delta": ""})
        self._append(Event("end", {}, wire=fields[:-1]), terminal=True)

    def _append(self, event: Event, *, terminal: bool = False) -> None:
        self.log.append(event, terminal=terminal)
        self.written.append(event)


class Socket:
    """A transport: it records every write, and its buffer drains when the test says so."""

    def __init__(
        self,
        *,
        budget: int = 64 * 1024,
        high_water: int | None = None,
        patience: float = 60.0,
        max_lag: int = 1 << 40,
    ) -> None:
        self.outbox = Outbox(
            self.write,
            asyncio.get_running_loop(),
            patience=patience,
            max_lag=max_lag,
            on_slow=self._slow,
            budget=budget,
        )
        self.closed_at: float | None = None
        self.writes: list[bytes] = []
        self.ends: list[str] = []
        self._high_water = high_water
        self._buffered = 0

    def _slow(self) -> None:
        assert self.closed_at is None, "told twice"
        self.closed_at = asyncio.get_running_loop().time()
        self.outbox.close()

    def write(self, data: bytes) -> None:
        assert self.closed_at is None, "written to a reader that was given up"
        assert not self.outbox.paused, "written to a full socket"
        assert data, "nothing to write"
        self.writes.append(data)
        self._buffered += len(data)
        if self._high_water is not None and self._buffered > self._high_water:
            self.outbox.pause()

    def drain(self) -> None:
        self._buffered = 0
        self.outbox.resume()

    def follow(self, name: str, log: ResponseLog, cursor: int = -1) -> Subscription:
        """Read a log; every event becomes a line that begins with the reader's name."""

        def render(event: Event) -> bytes:
            return b"%b %b}\n" % (name.encode(), event.wire)

        def ended() -> None:
            if cursor < log.last:
                assert self.had(name, -1)[-1]["part"] == "end", "before its terminal event"
            self.ends.append(name)

        return self.outbox.subscribe(log, render, cursor=cursor, on_end=ended)

    def had(self, name: str, write: int | None = None) -> list[dict[str, Any]]:
        """The events that a reader was sent, in all writes or in one."""
        sent = b"".join(self.writes if write is None else self.writes[write : write + 1 or None])
        lines = [line.partition(b" ") for line in sent.splitlines()]
        return [orjson.loads(event) for reader, _, event in lines if reader == name.encode()]

    def text(self, name: str) -> str:
        return "".join(event["delta"] for event in self.had(name))


def story(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Part and text of each run of deltas."""
    runs = groupby(events, key=lambda event: event[0])
    return [(part, "".join(text for _, text in run)) for part, run in runs]


def written(writer: Writer, after: int) -> list[tuple[str, str]]:
    """What a reader that starts after a cursor should be told."""
    events = [event for event in writer.written if event.seq > after]
    return story([(e.part.name if isinstance(e.part, Part) else "end", e.delta) for e in events])


# Any traffic.

texts = st.text("abc", max_size=3)
steps = traces(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 2), st.integers(0, 1), texts),
        st.tuples(st.just("end"), st.integers(0, 2)),
        st.tuples(st.just("follow"), st.integers(0, 2), st.integers(-1, 20)),
        st.tuples(st.just("unfollow"), st.integers(0, 5)),
        st.sampled_from([("pause",), ("drain",), ("turn",), ("turn",)]),
    ),
    60,
)


@given(steps, st.integers(0, 1000), st.none() | st.integers(0, 300))
@virtual
async def test_every_reader_gets_exactly_its_text_whatever_the_socket_does(
    trace: list[tuple[Any, ...]], budget: int, high_water: int | None
) -> None:
    """Any readers, from any cursor, through any pauses: each gets exactly what follows its cursor,
    in order, once, then its end, once; nothing is written to a full socket; one write per turn."""
    socket = Socket(budget=budget, high_water=high_water)
    writers = [Writer() for _ in range(3)]
    readers: dict[str, tuple[Writer, int, Subscription]] = {}
    left: dict[str, list[dict[str, Any]]] = {}

    def follow(writer: Writer, cursor: int) -> None:
        name = f"reader-{len(readers)}"
        readers[name] = (writer, cursor, socket.follow(name, writer.log, cursor))

    async def one_turn() -> None:
        before = len(socket.writes)
        await turn()
        assert len(socket.writes) <= before + 1, "more than one write in a turn"

    for step in trace:
        match step:
            case ("say", log, part, text) if not writers[log].log.sealed:
                writers[log].say(text, part)
            case ("end", log) if not writers[log].log.sealed:
                writers[log].end()
            case ("follow", log, cursor):
                follow(writers[log], min(cursor, writers[log].log.last))
            case ("unfollow", index) if index < len(readers):
                name = f"reader-{index}"
                if name not in socket.ends and name not in left:
                    socket.outbox.unsubscribe(readers[name][2])
                    left[name] = socket.had(name)
            case ("pause",):
                socket.outbox.pause()
            case ("drain",):
                socket.drain()
            case ("turn",):
                await one_turn()
    for writer in writers:
        follow(writer, -1)
        if not writer.log.sealed:
            writer.end()
    for _ in range(sum(len(writer.written) for writer in writers) + 1):
        socket.drain()
        await one_turn()

    assert len(socket.outbox) == 0
    assert sorted(socket.ends) == sorted(name for name in readers if name not in left)
    for name, (writer, cursor, _) in readers.items():
        had = socket.had(name)
        numbers = [event["seq"] for event in had]
        assert numbers == sorted(set(numbers))
        assert all(number > cursor for number in numbers)
        told = story([(event["part"], event["delta"]) for event in had])
        if name in left:
            assert had == left[name], "sent to a reader that has left"
        else:
            assert told == written(writer, cursor)
    for writer in writers:
        assert writer.log.readers == 0


# One write per turn.


@given(st.integers(1, 20), st.integers(1, 5))
@virtual
async def test_one_write_per_turn_however_many_logs_grew(logs: int, deltas: int) -> None:
    """All that grew in a turn of the loop leaves in one write, each lane's bytes in order."""
    socket = Socket()
    writers = [Writer() for _ in range(logs)]
    for number, writer in enumerate(writers):
        socket.follow(f"lane-{number}", writer.log)
    await turn()
    assert socket.writes == [], "nothing grew yet"
    for delta in range(deltas):
        for writer in writers:
            writer.say(f"{delta};")
    assert socket.writes == [], "on the writer's stack"
    await turn()
    assert len(socket.writes) == 1
    for number in range(logs):
        assert socket.text(f"lane-{number}") == "".join(f"{n};" for n in range(deltas))
        assert len(socket.had(f"lane-{number}")) == deltas, "merged without need"
    await turn()
    assert len(socket.writes) == 1


@virtual
async def test_each_turn_with_news_is_a_write() -> None:
    """Nothing is held back for later company."""
    socket, writer = Socket(), Writer()
    socket.follow("lane", writer.log)
    for number in range(3):
        writer.say(str(number))
        await turn()
        assert socket.text("lane") == "012"[: number + 1]
    assert len(socket.writes) == 3


# A slow reader.


@virtual
async def test_a_full_socket_merges_what_its_readers_missed() -> None:
    """While the socket is full, nothing is written; when it drains, each reader gets what it
    missed as few events, then single ones again."""
    socket = Socket()
    writer, other = Writer(), Writer()
    socket.follow("lane", writer.log)
    socket.follow("other", other.log)
    writer.say("first")
    await turn()
    socket.outbox.pause()
    assert socket.outbox.paused
    for number in range(100):
        writer.say(f"{number},")
        other.say(f"{number};")
        await turn()
    assert len(socket.writes) == 1
    socket.drain()
    await turn()
    assert len(socket.writes) == 2
    missed = "".join(f"{number}," for number in range(100))
    assert socket.had("lane", 1) == [{"part": "0", "seq": 100, "delta": missed}]
    assert [event["seq"] for event in socket.had("other", 1)] == [99]
    writer.say("a")
    writer.say("b")
    await turn()
    assert [event["delta"] for event in socket.had("lane", 2)] == ["a", "b"]


@virtual
async def test_a_reader_that_comes_while_the_socket_is_full_is_behind_as_well() -> None:
    """A lane that begins on a full socket misses turns from its beginning."""
    socket, writer = Socket(), Writer()
    socket.outbox.pause()
    socket.follow("lane", writer.log)
    for _ in range(100):
        writer.say("x")
    socket.drain()
    await turn()
    assert socket.had("lane") == [{"part": "0", "seq": 99, "delta": "x" * 100}]


@virtual
async def test_a_write_may_fill_the_socket() -> None:
    """Transports pause their protocol from within ``write``; what is left waits for the drain."""
    socket, writer = Socket(budget=1, high_water=0), Writer()
    socket.follow("lane", writer.log)
    writer.say("a")
    writer.say("b")
    writer.end()
    for writes in range(1, 4):
        await turn()
        await turn()
        assert len(socket.writes) == writes
        assert socket.outbox.paused
        socket.drain()
    assert socket.text("lane") == "ab"
    assert socket.ends == ["lane"]


@virtual
async def test_a_socket_that_fills_before_the_flush_is_not_written_to() -> None:
    """A flush that was asked for before the pause waits for the drain."""
    socket, writer = Socket(), Writer()
    socket.follow("lane", writer.log)
    writer.say("x")
    socket.outbox.pause()
    await turn()
    assert socket.writes == []
    socket.drain()
    socket.drain()
    await turn()
    assert socket.text("lane") == "x"


@virtual
async def test_a_short_pause_needs_no_second_flush() -> None:
    """A pause that is over before the flush leaves one flush, not two."""
    socket, writer = Socket(), Writer()
    socket.follow("lane", writer.log)
    writer.say("x")
    socket.outbox.pause()
    socket.drain()
    await turn()
    await turn()
    assert len(socket.writes) == 1


# Fairness.


@given(st.integers(0, 2000))
@virtual
async def test_a_long_catch_up_delays_a_live_lane_by_one_turn_at_most(budget: int) -> None:
    """Whoever is far behind writes no more than its budget in a turn; a live lane's next event
    leaves in the next turn, all the way."""
    socket = Socket(budget=budget)
    old, live = Writer(), Writer()
    for number in range(50):
        old.say(f"{number};")
    old.end()
    largest = max(len(event.wire) + 200 for event in old.written)
    socket.follow("live", live.log)
    socket.follow("old", old.log)
    turns = 0
    while "old" not in socket.ends:
        live.say("x")
        await turn()
        turns += 1
        assert socket.text("live") == "x" * turns
        news = socket.had("old", -1)
        assert len(news) > 0
        assert sum(old.written[event["seq"]].size for event in news) <= budget + largest
    assert socket.text("old") == "".join(f"{number};" for number in range(50))
    assert turns >= old.log.size // (budget + largest)


@virtual
async def test_who_has_more_goes_to_the_back() -> None:
    """Readers with much to catch up on take turns: after each turn all have had as much."""
    socket = Socket(budget=1)
    writers = [Writer() for _ in range(4)]
    for number, writer in enumerate(writers):
        for _ in range(10):
            writer.say("x")
        socket.follow(f"lane-{number}", writer.log)
    for turns in range(1, 11):
        await turn()
        assert [socket.text(f"lane-{number}") for number in range(4)] == ["x" * turns] * 4
    assert len(socket.writes) == 10


# Ends.


@virtual
async def test_the_end_comes_once_after_the_terminal_event_was_written() -> None:
    """``on_end`` is called in the turn of the terminal event, after the write."""
    socket, writer = Socket(), Writer()
    socket.follow("lane", writer.log)
    writer.say("x")
    writer.end()
    assert socket.ends == []
    await turn()
    assert [event["part"] for event in socket.had("lane", 0)] == ["0", "end"]
    await turn()
    assert socket.ends == ["lane"]
    assert len(socket.outbox) == 0


@virtual
async def test_who_waits_for_the_first_text_is_told_when_it_was_written() -> None:
    """Once, after the write that has it; what comes before any text is none."""
    socket, writer = Socket(), Writer()
    told: list[int] = []
    writer.begin()
    socket.outbox.subscribe(
        writer.log,
        lambda event: event.wire + b"}\n",
        on_end=lambda: None,
        on_text=lambda: told.append(len(socket.writes)),
    )
    await turn()
    assert (len(socket.writes), told) == (1, [])
    for text in "ab":
        writer.say(text)
        await turn()
    writer.end()
    await turn()
    assert (len(socket.writes), told) == (4, [2])


@virtual
async def test_who_reads_no_text_is_not_told_of_any() -> None:
    """Neither of a response without text, nor after it has stopped reading."""
    socket, writer, other = Socket(), Writer(), Writer()
    told: list[str] = []
    for one in (writer, other):
        socket.outbox.subscribe(
            one.log,
            lambda event: event.wire + b"}\n",
            on_end=lambda: None,
            on_text=lambda: told.append("text"),
        )
    other.say("a")
    writer.end()
    socket.outbox.close()
    await turn()
    assert told == []


@pytest.mark.parametrize("beyond", [0, 1000])
@virtual
async def test_who_has_had_the_terminal_event_is_told_of_the_end(beyond: int) -> None:
    """Resuming after the last event is the end at once, without a write: nobody waits for more."""
    socket, writer = Socket(), Writer()
    writer.end()
    ends: list[str] = []
    socket.outbox.subscribe(
        writer.log,
        lambda event: event.wire,
        cursor=writer.log.last + beyond,
        on_end=lambda: ends.append("lane"),
    )
    await turn()
    await turn()
    assert ends == ["lane"]
    assert socket.writes == []
    assert writer.log.readers == 0


@virtual
async def test_a_cursor_before_its_time_waits_for_the_log() -> None:
    """A cursor beyond an open log's end gets what comes after it, and nothing before."""
    socket, writer = Socket(), Writer()
    socket.follow("lane", writer.log, cursor=1)
    for text in "abc":
        writer.say(text)
        await turn()
    assert socket.text("lane") == "c"


@virtual
async def test_an_end_may_start_the_next_response() -> None:
    """A lane's next response is subscribed from ``on_end``, and its news leave in the next turn."""
    socket, first, second = Socket(), Writer(), Writer()
    second.say("two")

    def next_one() -> None:
        socket.follow("second", second.log)

    socket.outbox.subscribe(first.log, lambda event: event.wire + b"}\n", on_end=next_one)
    first.end()
    await turn()
    assert socket.text("second") == ""
    await turn()
    assert socket.text("second") == "two"


@pytest.mark.parametrize("stop", ["unsubscribe", "close"])
@virtual
async def test_an_end_may_stop_another_that_ends_in_the_same_turn(stop: str) -> None:
    """Who was unsubscribed is not told of its end, even if both ended in one turn."""
    socket = Socket()
    writers = [Writer(), Writer()]
    ends: list[int] = []
    subscriptions: list[Subscription] = []

    def ender(number: int) -> Callable[[], None]:
        def ended() -> None:
            ends.append(number)
            if stop == "close":
                socket.outbox.close()
            else:
                socket.outbox.unsubscribe(subscriptions[1 - number])

        return ended

    for number, writer in enumerate(writers):
        subscriptions.append(
            socket.outbox.subscribe(
                writer.log, lambda event: event.wire + b"}\n", on_end=ender(number)
            )
        )
        writer.end()
    await turn()
    assert ends == [0]
    assert len(socket.outbox) == 0


@virtual
async def test_nothing_comes_after_unsubscribe() -> None:
    """A reader that has left gets neither news nor an end, though its news were on their way."""
    socket, writer = Socket(), Writer()
    subscription = socket.follow("lane", writer.log)
    writer.say("x")
    socket.outbox.unsubscribe(subscription)
    writer.end()
    await turn()
    assert (socket.writes, socket.ends, writer.log.readers) == ([], [], 0)
    socket.outbox.unsubscribe(subscription)


@virtual
async def test_nothing_comes_after_close() -> None:
    """A closed outbox has let go of all logs, and writes nothing, though a flush was asked for."""
    socket, writers = Socket(), [Writer(), Writer()]
    for number, writer in enumerate(writers):
        socket.follow(f"lane-{number}", writer.log)
        writer.say("x")
    socket.outbox.close()
    assert len(socket.outbox) == 0
    for writer in writers:
        assert writer.log.readers == 0
        writer.end()
    socket.drain()
    socket.follow("late", writers[0].log)
    await turn()
    assert (socket.writes, socket.ends) == ([], [])


# A reader that is too far behind.


reader_steps = traces(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 1), st.integers(1, 400)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 3.0, 10.0])),
        st.tuples(st.just("follow"), st.integers(0, 1)),
        st.sampled_from([("drain",), ("drain",), ("turn",), ("pause",)]),
    ),
    60,
)


@given(reader_steps, st.integers(0, 500), st.integers(0, 1000), st.sampled_from([0.5, 4.0, 20.0]))
@virtual
async def test_only_who_is_behind_for_its_whole_patience_is_closed(
    trace: list[tuple[Any, ...]], high_water: int, budget: int, patience: float
) -> None:
    """Whatever a reader does: it is closed when it has been behind, from a pause until it had all
    there was, for as long as its patience is; not earlier, not later, and nobody else is."""
    loop = asyncio.get_running_loop()
    socket = Socket(budget=budget, high_water=high_water, patience=patience)
    writers = [Writer(), Writer()]
    readers: list[Subscription] = []
    since: float | None = None

    def follow(number: int) -> None:
        readers.append(socket.follow(f"reader-{len(readers)}", writers[number].log))

    def look() -> None:
        """Keep the rule's own account of since when the reader is behind."""
        nonlocal since
        has_all = all(reader.cursor >= reader.log.last for reader in readers)
        if socket.outbox.paused:
            since = loop.time() if since is None else since
        elif has_all:
            since = None

    follow(0)
    for step in trace:
        match step:
            case ("say", writer, length):
                writers[writer].say("x" * length)
            case ("wait", seconds):
                # Nothing changes meanwhile but for the flushes.
                for _ in range(round(seconds / 0.5)):
                    for _ in range(100):
                        await turn()
                        look()
                    await asyncio.sleep(0.5)
                    await turn()
                    if since is not None and loop.time() - since >= patience:
                        assert socket.closed_at == since + patience
                        return
            case ("follow", number) if len(readers) < 5:
                follow(number)
            case ("drain",):
                socket.drain()
            case ("turn",):
                await turn()
            case ("pause",):
                socket.outbox.pause()
        look()
        assert socket.closed_at is None
    # From here on it does not read at all.
    socket.outbox.pause()
    look()
    assert since is not None
    await asyncio.sleep(patience)
    await turn()
    assert socket.closed_at == since + patience
    assert len(socket.outbox) == 0


@virtual
async def test_who_falls_behind_by_too_much_is_closed_at_the_next_look() -> None:
    """The logs of all that it reads count together."""
    socket, writers = Socket(max_lag=10_000), [Writer(), Writer()]
    for number, writer in enumerate(writers):
        socket.follow(f"lane-{number}", writer.log)
    socket.outbox.pause()
    for writer in writers:
        for _ in range(20):
            writer.say("x" * 40)
    await asyncio.sleep(2 * CHECK)
    assert socket.outbox.lag == 40 * 240
    assert socket.closed_at is None
    for _ in range(5):
        writers[0].say("x" * 40)
    await asyncio.sleep(CHECK)
    assert socket.closed_at == 3 * CHECK


@virtual
async def test_what_was_there_before_it_came_is_no_lag() -> None:
    """Who reads an old log on a full socket has only its patience to go by."""
    socket, writer = Socket(max_lag=1000, patience=10.0), Writer()
    for _ in range(100):
        writer.say("x" * 100)
    socket.follow("lane", writer.log)
    socket.outbox.pause()
    await asyncio.sleep(9)
    assert (socket.outbox.lag, socket.closed_at) == (0, None)
    await asyncio.sleep(1.5)
    assert socket.closed_at == 10.0


@virtual
async def test_who_has_had_a_part_of_it_is_still_behind() -> None:
    """A drain that is too short to catch up in does not begin its patience anew."""
    socket, writer = Socket(budget=1, patience=10.0), Writer()
    socket.follow("lane", writer.log)
    writer.say("a")
    socket.outbox.pause()
    writer.say("b", part=1)
    writer.say("c")
    await asyncio.sleep(6)
    socket.drain()
    await turn()
    assert socket.text("lane") == "a"
    socket.outbox.pause()
    await asyncio.sleep(6)
    assert socket.closed_at == 10.0


@virtual
async def test_nobody_is_timed_who_is_not_behind() -> None:
    """No timer runs before the first pause, after the last event was had, or after the close."""
    socket, writer = Socket(), Writer()
    socket.follow("lane", writer.log)
    writer.say("x")
    await turn()
    assert timers() == 0
    socket.outbox.pause()
    socket.outbox.pause()
    assert timers() == 1
    socket.drain()
    assert timers() == 0, "it had all there was"
    socket.outbox.pause()
    writer.say("y")
    socket.drain()
    assert timers() == 1, "it is behind until it has had it"
    await turn()
    assert timers() == 0
    socket.outbox.pause()
    socket.outbox.close()
    socket.outbox.pause()
    assert timers() == 0


def timers() -> int:
    """How many timers run on the loop."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not timer.cancelled() for timer in scheduled)
