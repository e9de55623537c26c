"""The window's rules: what is reserved lies between 0 and what it may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.window import Window
from tests.traces import traces

SHARES = st.floats(0, 1, exclude_max=True)


@given(
    st.integers(1, 5),
    st.none() | st.integers(1, 100),
    traces(st.none() | st.integers(0, 60), 50),
)
def test_what_is_reserved_lies_between_zero_and_the_size_and_the_budget(
    size: int, budget: int | None, steps: list[int | None]
) -> None:
    """Never below 0 nor above the size, and above the budget only alone; a step beyond any of these
    is a defect, and changes nothing."""
    window = Window(size, budget)
    held: list[int] = []
    for need in steps:
        if need is None and held:
            window.give_back(held.pop(0))
        elif need is None:
            with pytest.raises(AssertionError, match="given back twice"):
                window.give_back()
        elif not window.room():
            with pytest.raises(AssertionError, match="beyond the window"):
                window.take(need)
        elif not window.fits(need):
            with pytest.raises(AssertionError, match="beyond the budget"):
                window.take(need)
        else:
            window.take(need)
            held.append(need)
        assert (window.in_flight, window.tokens) == (len(held), sum(held))
        assert window.in_flight + window.room() == size
        assert budget is None or len(held) <= 1 or window.tokens <= budget


@given(st.integers(1, 1024), SHARES, st.integers(0, 1024))
def test_a_share_is_at_least_one_place_and_leaves_one_if_there_are_two(
    size: int, share: float, held: int
) -> None:
    """Who may fill only a share can always have one place of an empty window, and leaves one for
    others if there are two; whole or not, there is never less than no room."""
    window = Window(size)
    assert 1 <= window.room(share) <= max(1, size - 1)
    for _ in range(min(size, held)):
        window.take()
    assert 0 <= window.room(share) <= window.room(1.0) == size - window.in_flight


@given(st.integers(1, 64), SHARES, SHARES)
def test_a_larger_share_has_no_less_room(size: int, one: float, other: float) -> None:
    """Room rises with the share."""
    window = Window(size)
    assert window.room(min(one, other)) <= window.room(max(one, other)) <= window.room()


@given(st.integers(1, 9), st.integers(1, 9), SHARES)
def test_a_window_that_shrinks_below_what_it_holds_has_no_room(
    before: int, after: int, share: float
) -> None:
    """What is reserved stays reserved when the size changes; room is what is left, or none."""
    window = Window(before)
    for _ in range(before):
        window.take()
    window.size = after
    assert window.in_flight == before
    assert window.room() == max(0, after - before)
    assert window.room(share) <= window.room()


@given(st.integers(1, 100), st.integers(0, 10**9))
def test_alone_a_request_of_any_size_fits(budget: int, need: int) -> None:
    """The upstream knows better than hub whether it can do it; beside it nothing is let through
    that is beyond the budget."""
    window = Window(2, budget)
    assert window.fits(need)
    window.take(need)
    assert not window.fits(max(1, budget - need + 1))


def test_no_budget_is_no_limit() -> None:
    """Without a budget only the number of requests counts."""
    window = Window(2)
    window.take(10**9)
    assert window.fits(10**9)


def test_more_tokens_than_were_taken_cannot_be_given_back() -> None:
    """What is given back was taken."""
    window = Window(2, 10)
    window.take(3)
    with pytest.raises(AssertionError, match="more given back"):
        window.give_back(4)
    assert (window.in_flight, window.tokens) == (1, 3)


def test_a_window_holds_at_least_one() -> None:
    """An upstream that may hold nothing would never do anything."""
    with pytest.raises(AssertionError):
        Window(0)
