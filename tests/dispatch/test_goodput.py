"""What is known of the speed at each number side by side, and what follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.goodput import BETTER, ENOUGH, FEW, FORGET, SEEN, WEIGHT, Goodput
from tests.traces import traces

SIZES = st.integers(1, 2 * FEW)
NOTES = traces(
    st.tuples(st.floats(0, 600), SIZES, st.floats(0, 5), st.floats(0, 9), st.integers(1, 500)), 60
)
"""Requests: the seconds since the last one, how many ran side by side, the seconds to the first
token and from there, the tokens."""
Note = tuple[float, int, float, float, int]


def noted(notes: list[Note]) -> tuple[Goodput, float]:
    """What is known after these requests, and when the last one was."""
    goodput, now = Goodput(), 0.0
    for pause, size, first, rest, tokens in notes:
        now += pause
        goodput.began(now, size, first)
        goodput.ended(now, size, rest, tokens)
    return goodput, now


def known(speeds: dict[int, float]) -> Goodput:
    """Numbers side by side of which the total tokens per second are known at time 0."""
    notes = [(0.0, size, 0.0, 10 * size / speed, 10) for size, speed in speeds.items()]
    return noted(SEEN * notes)[0]


@given(SIZES, st.integers(0, SEEN + 2), st.integers(0, SEEN + 2))
def test_a_speed_is_believed_from_the_eighth_request_on(size: int, begun: int, ended: int) -> None:
    """Fewer say nothing; nor do any beside which more than 8 ran."""
    goodput = Goodput()
    for _ in range(begun):
        goodput.began(1.0, size, 0.1)
    for _ in range(ended):
        goodput.ended(1.0, size, 1.0, 10)
    assert (goodput.of(1.0, size) is None) == (min(begun, ended) < SEEN or size > FEW)


@given(
    st.integers(1, FEW),
    st.lists(
        st.tuples(st.floats(0.01, 5), st.floats(0.01, 5), st.integers(1, 99)),
        min_size=SEEN,
        max_size=10,
    ),
)
def test_the_speed_is_what_so_many_places_make(
    size: int, requests: list[tuple[float, float, int]]
) -> None:
    """Little's law: of a few requests, their number side by side times the tokens of all by the
    seconds of all, those to the first token included."""
    goodput, now = noted([(0.0, size, *one) for one in requests])
    seconds = sum(first + rest for first, rest, _ in requests)
    tokens = sum(tokens for _, _, tokens in requests)
    assert goodput.of(now, size) == pytest.approx(size * tokens / seconds)


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.integers(0, 100))
def test_the_speed_follows_what_changes(before: float, after: float, requests: int) -> None:
    """After some tens of requests what was before counts little; no single one counts much."""
    goodput, now = noted([(0.0, 1, 0.0, before, 10)] * 20 + [(0.0, 1, 0.0, after, 10)] * requests)
    speed = goodput.of(now, 1)
    assert speed is not None
    left = (1 - WEIGHT) ** requests
    assert 10 / speed == pytest.approx(after + (before - after) * left)


def test_a_burst_of_tokens_is_no_speed() -> None:
    """A server, or the network, holds an answer back and then gives it whole: its first token is
    late and the rest takes no time. The whole takes as long as ever."""
    usual, held_back = (1.0, 1, 0.1, 0.9, 90), (1.0, 1, 1.0, 0.0, 90)
    for notes in ([usual, held_back] * 9, [held_back] * 9):
        goodput, now = noted(notes)
        assert goodput.of(now, 1) == pytest.approx(90.0)
    assert noted([(1.0, 1, 0.0, 0.0, 90)] * 9)[0].of(9.0, 1) is None


@given(st.integers(1, FEW), st.floats(0, 2 * FORGET))
def test_a_speed_is_forgotten_after_half_an_hour(size: int, later: float) -> None:
    """What was seen so long ago counts no more, and must then be seen eight times again, of which
    the old ones are no part."""
    goodput = known({size: 100.0})
    assert (goodput.of(later, size) is None) == (later > FORGET)
    for _ in range(SEEN):
        assert goodput.of(2 * FORGET, size) is None
        goodput.began(2 * FORGET, size, 0.0)
        goodput.ended(2 * FORGET, size, 10 * size / 50, 10)
    assert goodput.of(2 * FORGET, size) == pytest.approx(50.0)


@given(st.integers(1, FEW), st.integers(1, FEW))
def test_one_number_can_be_forgotten(one: int, other: int) -> None:
    """It is to be seen anew; the others stay."""
    goodput = known({one: 100.0, other: 100.0})
    goodput.forget(one)
    goodput.forget(one)
    assert goodput.of(0.0, one) is None
    assert (goodput.of(0.0, other) is None) == (one == other)


@given(NOTES, SIZES)
def test_a_smaller_number_is_preferred_only_if_it_makes_a_tenth_more(
    notes: list[Note], size: int
) -> None:
    """The number preferred is at most half as large, known, clearly better than here, and the best
    of those; beyond 8 none ever is."""
    goodput, now = noted(notes)
    here, better = goodput.of(now, size), goodput.better_below(now, size)
    speeds = [goodput.of(now, one) or 0.0 for one in range(1, size // 2 + 1)]
    if here is None:
        assert better is None
    elif better is None:
        assert all(speed <= BETTER * here for speed in speeds)
    else:
        assert 1 <= better <= size / 2
        assert size <= FEW
        assert goodput.of(now, better) == max(speeds) > BETTER * here


@given(NOTES, SIZES, st.integers(1, 64), SIZES)
def test_growing_passes_what_is_known_to_make_less_and_nothing_else(
    notes: list[Note], size: int, step: int, most: int
) -> None:
    """The next number is above, at most the most, not known to make less than here, and all between
    a plain step and it are; there is none only if all up to the most are known to make less."""

    def worse(number: int) -> bool:
        here, there = goodput.of(now, size), goodput.of(now, number)
        return here is not None and there is not None and there < here

    goodput, now = noted(notes)
    found = goodput.next_above(now, size, step, most)
    plain = min(size + step, most)
    if found is None:
        assert most <= size or all(worse(number) for number in range(plain, most + 1))
    else:
        assert size < found <= most
        assert plain <= found
        assert not worse(found)
        assert all(worse(number) for number in range(plain, found))


@given(st.floats(0.1, 3), st.integers(1, SEEN - 1), st.integers(1, FEW))
def test_a_number_is_hopeless_after_three_requests_that_make_clearly_less(
    speed: float, requests: int, before: int
) -> None:
    """By a third, and only against what is known; so an experiment need not go to its end."""
    goodput = Goodput() if before == 1 else known({before: 100.0})
    for _ in range(requests):
        goodput.began(0.0, 1, 0.0)
        goodput.ended(0.0, 1, 1.0, 0)
    assert goodput.hopeless(0.0, 1, before) == (requests >= ENOUGH and before > 1)
    for _ in range(40):
        goodput.ended(0.0, 1, 0.01 / speed, 1)
        goodput.began(0.0, 1, 0.0)
    assert goodput.of(0.0, 1) is not None
    assert goodput.hopeless(0.0, 1, 1) is False


def test_growing_passes_the_valley() -> None:
    """On a CPU that makes 83 tokens/s alone, less with 2 to 4 and more with 5, one goes to five;
    and nowhere if there is no more room than for four."""
    goodput = known({1: 83.0, 2: 62.0, 3: 60.0, 4: 60.0})
    assert goodput.next_above(0.0, 1, 1, 16) == 5
    assert goodput.next_above(0.0, 1, 1, 4) is None
    assert goodput.next_above(FORGET + 1, 1, 1, 4) == 2


@given(NOTES)
def test_the_memory_is_bounded(notes: list[Note]) -> None:
    """Eight numbers are remembered, whatever is seen."""
    goodput, _ = noted(notes)
    assert {*goodput._seen} <= {*range(1, FEW + 1)}
