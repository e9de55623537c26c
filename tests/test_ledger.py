"""The ledger: what happened when, and that the steps make the whole."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.flight import Watch
from hub.ledger import LONGEST, MARKS, Ledger


class Clock:
    """Tells what it was set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def note(ledger: Ledger, name: str) -> None:
    if name == "dispatched":
        ledger.sent("gpu1", 3, "full")
    elif name in ("first_written", "written"):
        ledger.wrote(name)
    else:
        ledger.mark(name)


def run(steps: Sequence[tuple[str, float]]) -> Ledger:
    """A ledger whose marks came so many seconds after one another."""
    clock = Clock()
    ledger = Ledger(clock)
    for name, seconds in steps:
        clock.now += seconds
        note(ledger, name)
    return ledger


WHOLE = [(name, 0.001 * place) for place, name in enumerate(MARKS) if place]


def test_what_it_tells() -> None:
    ledger = run(WHOLE)
    assert ledger.told("chat") == {
        "class": "chat",
        "upstream": "gpu1",
        "batch_size": 3,
        "reason": "full",
        "attempts": 1,
        "ledger_ms": {
            "received": 0.0,
            "queued": 1.0,
            "dispatched": 3.0,
            "connected": 6.0,
            "first_byte": 10.0,
            "first_token": 15.0,
            "first_written": 21.0,
            "last_token": 28.0,
            "ended": 36.0,
            "written": 45.0,
        },
    }
    timing = "queue;dur=3.000, upstream;dur=33.000, ttft;dur=15.000, total;dur=36.000"
    assert ledger.server_timing() == timing


def test_what_did_not_happen_is_absent() -> None:
    """One that was cancelled while it waited, for example."""
    ledger = run([("queued", 0.5), ("ended", 1.0)])
    assert ledger.milliseconds() == {"received": 0.0, "queued": 500.0, "ended": 1500.0}
    assert ledger.server_timing() == "total;dur=1500.000"
    assert ledger.between("received", "first_token") is None
    told = ledger.told("chat")
    assert (told["upstream"], told["batch_size"], told["attempts"]) == (None, None, 0)


def test_the_last_attempt_is_told() -> None:
    """The first one's times go, so that nothing comes before what it follows from."""
    clock = Clock()
    ledger = Ledger(clock)
    ledger.mark("queued")
    ledger.sent("gpu1", 2, "idle")
    clock.now += 1
    ledger.mark("connected")
    clock.now += 1
    ledger.sent("gpu2", 1, "room")
    assert ledger.milliseconds() == {"received": 0.0, "queued": 0.0, "dispatched": 2000.0}
    assert (ledger.upstream, ledger.attempts, ledger.reason) == ("gpu2", 2, "room")


def test_the_first_time_counts_and_nothing_after_the_end() -> None:
    """An array goes on when one of its members has left."""
    ledger = run([("queued", 1.0), ("queued", 1.0), ("ended", 1.0), ("first_token", 1.0)])
    assert ledger.milliseconds() == {"received": 0.0, "queued": 1000.0, "ended": 3000.0}


def test_a_time_that_is_none_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="no time of a response: lunch"):
        Ledger(Clock()).mark("lunch")


def test_what_readers_were_written_is_noted_once_and_only_what_there_is() -> None:
    """The first reader counts, and not one that reads what an earlier process has made."""
    ledger = run([("queued", 1.0), ("first_written", 1.0), ("written", 1.0)])
    assert [*ledger.milliseconds()] == ["received", "queued"]
    ledger = run([("first_token", 1.0), ("ended", 1.0), ("first_written", 1.0)])
    assert ledger.milliseconds()["first_written"] == 3000.0, "it was late"
    assert [ledger.wrote("written"), ledger.wrote("written")] == [True, False]
    assert not ledger.wrote("first_written")


def test_pauses_are_those_of_the_answer() -> None:
    """What comes before the first token is no pause, nor what comes after the last one."""
    clock = Clock()
    ledger = Ledger(clock)
    for name in ("dispatched", "first_token", "last_token"):
        clock.now += 1
        ledger.pause(0.5)
        note(ledger, name)
    clock.now += 1
    ledger.pause(0.5)
    assert ledger.told("chat")["pauses_ms"] == {
        "count": 1,
        "total": 500.0,
        "longest": [(2500.0, 500.0)],
    }


def test_the_longest_pauses_are_kept_and_all_are_counted() -> None:
    """However many there are, they take no more memory."""
    clock = Clock()
    ledger = Ledger(clock)
    ledger.mark("first_token")
    lengths = [1 + number % 37 for number in range(100)]
    for length in lengths:
        clock.now += length
        ledger.pause(length)
    told = ledger.told("chat")["pauses_ms"]
    assert (told["count"], told["total"]) == (100, sum(lengths) * 1000)
    kept = [length / 1000 for _, length in told["longest"]]
    assert sorted(kept) == sorted(lengths)[-LONGEST:]
    assert told["longest"] == sorted(told["longest"]), "in their order"


def test_what_the_model_server_says_of_its_time() -> None:
    ledger = run(WHOLE)
    assert "engine_ms" not in ledger.told("chat")
    ledger.timings(12.5, 80)
    assert ledger.told("chat")["engine_ms"] == {"first_token": 12.5, "last_token": 92.5}


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3000)), max_size=2 * LONGEST),
    st.integers(0, 1000),
)
def test_pauses_lie_between_the_first_token_and_the_last(
    pauses: list[tuple[int, int]], rest: int
) -> None:
    """They do not overlap, and are no longer than that together, however coarse the clock was by
    which they were measured."""
    clock = Clock()
    ledger = Ledger(clock)
    note(ledger, "dispatched")
    ledger.mark("first_token")
    for passed, measured in pauses:
        clock.now += passed / 1000
        ledger.pause(measured / 1000)
    clock.now += rest / 1000
    for name in ("last_token", "ended"):
        ledger.mark(name)
    times = ledger.milliseconds()
    told = ledger.told("chat").get("pauses_ms", {"count": 0, "total": 0.0, "longest": []})
    assert told["count"] == len(pauses)
    assert told["total"] <= times["last_token"] - times["first_token"] + 0.1
    at = times["first_token"]
    for begin, length in told["longest"]:
        assert begin >= at - 0.01
        at = begin + length
    assert at <= times["last_token"] + 0.01


@given(
    st.sets(st.sampled_from(MARKS[1:-2])),
    st.lists(st.integers(0, 10**6), min_size=len(MARKS), max_size=len(MARKS)),
)
def test_hop_by_hop_it_adds_up_to_the_total(happened: set[str], steps: list[int]) -> None:
    """Whatever is missing between, the times are in order and the steps make the whole."""
    if "first_token" not in happened:
        happened = happened - {"first_written"}
    names = [name for name in MARKS[1:-1] if name in happened or name == "ended"]
    ledger = run([(name, step / 1000) for name, step in zip(names, steps, strict=False)])
    times = [*ledger.milliseconds().values()]
    assert [*ledger.milliseconds()] == ["received", *names]
    hops = [later - earlier for earlier, later in pairwise(times)]
    assert all(hop >= 0 for hop in hops)
    total = ledger.between("received", "ended")
    assert total is not None
    assert sum(hops) == pytest.approx(total * 1000, abs=0.01)
    parts = [
        seconds
        for first, last in zip(["received", *names], names, strict=False)
        if (seconds := ledger.between(first, last)) is not None
    ]
    assert sum(parts) == pytest.approx(total)


class Silent:
    """A sink that takes everything."""

    def text(self, *said: object) -> None: ...
    def reasoning(self, *said: object) -> None: ...
    def refusal(self, *said: object) -> None: ...
    def tool_call(self, *said: object) -> None: ...
    def usage(self, *said: object) -> None: ...
    def finish(self, *said: object) -> None: ...


def test_a_sink_is_watched_for_its_first_token_and_its_end() -> None:
    ledger = Ledger(Clock())
    sink = Silent()
    watch = Watch(sink, lambda: None, ledger)
    for _ in range(3):
        watch.text("a")
    watch.finish("stop")
    assert [*ledger.milliseconds()] == ["received", "first_token", "last_token"]
    assert watch.text == sink.text, "a token costs nothing more"


def test_an_empty_answer_has_no_token() -> None:
    ledger = Ledger(Clock())
    firsts: list[None] = []
    watch = Watch(Silent(), lambda: firsts.append(None), ledger)
    watch.finish("stop")
    assert ([*ledger.milliseconds()], len(firsts)) == (["received"], 1)
