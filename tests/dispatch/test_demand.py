"""How many places a class leaves free for the better ones."""

from math import exp, factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.demand import HALF, MOST, Demand
from hub.dispatch.terms import Class

ARRIVALS = st.lists(st.tuples(st.floats(0, 5), st.sampled_from(Class)), max_size=60)


def beyond(mean: float, number: int) -> float:
    """How often a Poisson variable exceeds a number."""
    return 1 - sum(exp(-mean) * mean**k / factorial(k) for k in range(number + 1))


def seen(ends: list[float], arrivals: float, until: float) -> Demand:
    """So many completions a second, and ends at these times, up to a moment."""
    demand = Demand()
    steps = [(at, True) for at in ends]
    steps += [(number / arrivals, False) for number in range(int(until * arrivals))]
    for at, end in sorted(steps):
        if end:
            demand.give_back(at)
        else:
            demand.take(Class.COMPLETION, at)
    return demand


@given(ARRIVALS, st.lists(st.floats(0, 5), max_size=60), st.integers(1, 256))
def test_one_place_at_least_and_a_quarter_at_most(
    arrivals: list[tuple[float, Class]], ends: list[float], size: int
) -> None:
    demand = Demand()
    for at in sorted(ends):
        demand.give_back(at)
    for at, rank in sorted(arrivals):
        demand.take(rank, at)
    assert 1 <= demand.spare(Class.CHAT, size, 5.0) <= max(1, size // MOST)


def test_where_places_get_free_often_one_or_two_are_enough() -> None:
    """30 ends a second, 6 arrivals: 0.1 arrivals before the next end."""
    demand = seen([number / 30 for number in range(900)], 6.0, 30.0)
    assert beyond(0.1, 2) < 0.003
    assert demand.spare(Class.CHAT, 64, 30.0) <= 2


@pytest.mark.parametrize("together", [1, 16])
def test_ends_that_come_together_are_long_in_coming(together: int) -> None:
    """As many ends in the same time, one by one or in bursts: for bursts more places are kept."""
    ends = [4 * (number // together) * together / 16 for number in range(160)]
    demand = seen(ends, 2.0, 40.0)
    spare = demand.spare(Class.CHAT, 64, 40.0)
    assert spare <= 3 if together == 1 else spare >= 8


@given(st.lists(st.sampled_from(Class), max_size=60))
def test_only_better_classes_count(taken: list[Class]) -> None:
    with_all, with_better = Demand(), Demand()
    for one in (with_all, with_better):
        one.give_back(0.0)
    for rank in taken:
        with_all.take(rank, 0.0)
        if rank < Class.BACKGROUND:
            with_better.take(rank, 0.0)
    here, there = (one.spare(Class.BACKGROUND, 64, 2.0) for one in (with_all, with_better))
    assert here == there


def test_what_was_long_ago_counts_for_nothing() -> None:
    demand = seen([0.0, 4.0], 15.0, 4.0)
    assert demand.spare(Class.CHAT, 64, 4.0) == 16
    demand.give_back(4.0 + 20 * HALF)
    demand.give_back(4.1 + 20 * HALF)
    assert demand.spare(Class.CHAT, 64, 4.1 + 20 * HALF) == 1
