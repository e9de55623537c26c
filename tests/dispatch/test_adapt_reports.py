"""A server that tells of its queue is believed, and waited for."""

from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.adapt import FIRST, UNREPORTED, Adaptive
from hub.dispatch.window import Window
from hub.engines.base import Load


def limited_round(adaptive: Adaptive, now: float, requests: int = 40) -> float:
    """A second and more of requests, one after the other, while somebody waits for room."""
    for _ in range(requests):
        adaptive.held_back()
        adaptive.first_token(now, now - 0.05, 100)
        now += 0.06
    return now


@given(st.integers(0, 5))
def test_a_window_does_not_grow_before_the_server_has_told_again(rounds: int) -> None:
    """Once a server has told how many wait there, a round without such news changes nothing."""
    adaptive = Adaptive(Window(FIRST))
    adaptive.load(0.0, Load(waiting=0))
    now = limited_round(adaptive, 1.0)
    grown = adaptive.window.size
    for _ in range(rounds):
        now = limited_round(adaptive, now)
        assert adaptive.window.size == grown
    adaptive.load(now, Load(waiting=grown))
    limited_round(adaptive, now)
    assert adaptive.window.size < grown
    assert adaptive.changes["queue"] == 1


def test_a_server_that_tells_no_more_is_judged_at_last() -> None:
    """It may have been replaced by one that does not tell."""
    adaptive = Adaptive(Window(FIRST))
    adaptive.load(0.0, Load(waiting=0))
    now = limited_round(adaptive, 1.0)
    grown = adaptive.window.size
    limited_round(adaptive, now, 2 * UNREPORTED)
    assert adaptive.window.size > grown
