"""Every cell of the table at the top of ``breaker.py``."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.breaker import FAILURES, FIRST_PAUSE, MAX_PAUSE, Breaker, State
from tests.traces import traces

Event = Literal["success", "failure", "unreachable", "answered", "silent"]
EVENTS: list[Event] = ["success", "failure", "unreachable", "answered", "silent"]


def breaker_in(state: State, failures: int = 0) -> Breaker:
    """A breaker in some state, after so many failures in a row."""
    breaker = Breaker()
    if state != "closed":
        breaker.failure(0, unreachable=True)
    if state == "half_open":
        breaker.answered()
    for _ in range(failures):
        breaker.failure(0)
    assert breaker.state == state
    return breaker


def tell(breaker: Breaker, event: Event, now: float = 0.0) -> None:
    match event:
        case "success":
            breaker.success()
        case "failure":
            breaker.failure(now)
        case "unreachable":
            breaker.failure(now, unreachable=True)
        case "answered":
            breaker.answered()
        case "silent":
            breaker.silent(now)


@pytest.mark.parametrize(
    ("state", "failures", "event", "then"),
    [
        ("closed", 0, "success", "closed"),
        ("closed", 0, "failure", "closed"),
        ("closed", 1, "failure", "closed"),
        ("closed", 2, "failure", "open"),
        ("closed", 0, "unreachable", "open"),
        ("closed", 0, "answered", "closed"),
        ("closed", 0, "silent", "closed"),
        ("open", 0, "success", "open"),
        ("open", 0, "failure", "open"),
        ("open", 0, "unreachable", "open"),
        ("open", 0, "answered", "half_open"),
        ("open", 0, "silent", "open"),
        ("half_open", 0, "success", "closed"),
        ("half_open", 0, "failure", "open"),
        ("half_open", 0, "unreachable", "open"),
        ("half_open", 0, "answered", "half_open"),
        ("half_open", 0, "silent", "half_open"),
    ],
)
def test_the_table(state: State, failures: int, event: Event, then: State) -> None:
    """Each event in each state leads where the table says."""
    breaker = breaker_in(state, failures)
    tell(breaker, event)
    assert breaker.state == then


@pytest.mark.parametrize("event", ["success", "failure", "unreachable"])
def test_the_last_words_of_earlier_requests_change_nothing(event: Event) -> None:
    """While it is open, how requests from before end neither closes it nor prolongs its pause."""
    breaker = breaker_in("open")
    before = dict(vars(breaker))
    tell(breaker, event, now=0.5)
    assert vars(breaker) == before


def test_only_failures_in_a_row_open_it() -> None:
    """A success between them starts the count again."""
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.failure(0)
        breaker.success()
    assert (breaker.state, breaker.opened) == ("closed", 0)


@pytest.mark.parametrize(("state", "most"), [("closed", None), ("open", 0), ("half_open", 1)])
def test_how_many_requests_it_lets_through(state: State, most: int | None) -> None:
    """Closed any number, open none, half-open one at a time."""
    assert breaker_in(state).most == most


@pytest.mark.parametrize("trial", [False, True])
def test_the_pause_doubles_up_to_the_maximum(trial: bool) -> None:
    """Also if the server answers questions each time, but no request."""
    breaker = breaker_in("open")
    pauses = [breaker.until]
    for _ in range(6):
        now = breaker.until
        if trial:
            breaker.answered()
            breaker.failure(now)
        else:
            breaker.silent(now)
        pauses.append(breaker.until - now)
    assert pauses == [1, 2, 4, 8, 10, 10, 10]
    assert breaker.opened == 7


def test_a_success_makes_the_next_pause_short_again() -> None:
    """Once it has closed, it begins anew: with the first pause, after three failures."""
    breaker = breaker_in("open")
    for _ in range(3):
        breaker.silent(0)
    breaker.answered()
    breaker.success()
    for now in (100, 101, 102):
        assert breaker.state == "closed"
        breaker.failure(now)
    assert (breaker.state, breaker.until) == ("open", 102 + FIRST_PAUSE)


@given(traces(st.tuples(st.sampled_from(EVENTS), st.floats(0, 5)), 50))
def test_its_pause_is_within_bounds_and_only_an_answer_ends_it(
    steps: list[tuple[Event, float]],
) -> None:
    """Whatever happens: it opens for 1 to 10 seconds, each opening is counted, and nothing but an
    answer after its pause leads out of open."""
    breaker = Breaker()
    now = 0.0
    for event, later in steps:
        now += later
        state, opened, until = breaker.state, breaker.opened, breaker.until
        tell(breaker, event, now)
        if breaker.opened > opened:
            assert breaker.opened == opened + 1
            assert breaker.state == "open"
            assert FIRST_PAUSE - 1e-9 <= breaker.until - now <= MAX_PAUSE + 1e-9
        else:
            assert breaker.until == until
            assert (breaker.state == "open") == (state == "open" and event != "answered")
