"""How many places a class leaves free for the better ones."""

from math import exp, factorial

from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.demand import HALF, MOST, RISK, Demand
from hub.dispatch.terms import Class


def beyond(mean: float, number: int) -> float:
    """How often a Poisson variable exceeds a number."""
    return 1 - sum(exp(-mean) * mean**k / factorial(k) for k in range(number + 1))


@given(st.integers(0, 60), st.integers(0, 200), st.integers(1, 256))
def test_as_many_places_as_are_likely_to_be_wanted_before_the_next_gets_free(
    arrivals: int, ends: int, size: int
) -> None:
    """One at least, a quarter of the window at most, and no more than the risk asks for."""
    demand = Demand()
    for _ in range(arrivals):
        demand.take(Class.COMPLETION, 0.0)
    for _ in range(ends):
        demand.give_back(0.0)
    mean, most = arrivals / (ends + 4), max(1, size // MOST)
    spare = demand.spare(Class.CHAT, size, 0.0)
    assert 1 <= spare <= most
    assert spare == most or beyond(mean, spare) <= RISK + 1e-9
    assert spare == 1 or beyond(mean, spare - 1) > RISK - 1e-9


@given(st.lists(st.sampled_from(Class), max_size=60))
def test_only_better_classes_count(taken: list[Class]) -> None:
    with_all, with_better = Demand(), Demand()
    for rank in taken:
        with_all.take(rank, 0.0)
        if rank < Class.BACKGROUND:
            with_better.take(rank, 0.0)
    here, there = (one.spare(Class.BACKGROUND, 64, 0.0) for one in (with_all, with_better))
    assert here == there


def test_what_was_long_ago_counts_for_nothing() -> None:
    demand = Demand()
    for _ in range(60):
        demand.take(Class.COMPLETION, 0.0)
    assert demand.spare(Class.CHAT, 64, 0.0) == 16
    assert demand.spare(Class.CHAT, 64, 20 * HALF) == 1
    # A clock that goes back changes nothing.
    assert demand.spare(Class.CHAT, 64, 0.0) == 1
