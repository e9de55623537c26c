"""How long the queue takes to drain, by Little's law."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.estimate import LEAST_RETRY, MOST_RETRY, ServiceTime, drain_time, retry_after

seconds = st.floats(0.01, 1000)
upstreams = st.lists(st.tuples(st.integers(1, 256), st.none() | seconds), max_size=5)


def test_nothing_is_known_before_the_first_request() -> None:
    """There is no mean of nothing; the first request is the mean of itself."""
    service = ServiceTime()
    assert service.mean is None
    service.note(4.0)
    assert service.mean == 4.0
    service.note(14.0)
    assert service.mean == 5.0


@given(st.lists(seconds, min_size=1, max_size=50))
def test_the_mean_is_between_what_was_seen(seen: list[float]) -> None:
    """However requests vary, the mean is none that they never came near."""
    service = ServiceTime()
    for one in seen:
        service.note(one)
    assert service.mean is not None
    assert min(seen) * 0.999 <= service.mean <= max(seen) * 1.001


def test_the_mean_follows_what_changes() -> None:
    """After some tens of requests what was before counts little."""
    service = ServiceTime()
    service.note(100.0)
    for _ in range(50):
        service.note(1.0)
    assert service.mean == pytest.approx(1.0, abs=1.0)


@pytest.mark.parametrize(
    ("ahead", "upstreams", "wait"),
    [
        (0, [(1, 3.0)], 3.0),
        (7, [(4, 2.0)], 4.0),
        (7, [(4, 2.0), (2, 1.0)], 2.0),
        (7, [(4, 2.0), (2, None)], 4.0),
        (7, [(4, None)], None),
        (7, [(4, 0.0)], None),
        (7, [], None),
    ],
)
def test_how_long_it_takes(
    ahead: int, upstreams: list[tuple[int, float | None]], wait: float | None
) -> None:
    """Each full upstream ends as many per second as its window divided by its service time; where
    nothing was measured, nobody knows."""
    assert drain_time(ahead, upstreams) == wait


@given(st.integers(0, 1000), upstreams)
def test_more_ahead_takes_longer_and_more_upstreams_shorter(
    ahead: int, upstreams: list[tuple[int, float | None]]
) -> None:
    """There is an estimate exactly if anything was measured, and it goes the right way."""
    wait = drain_time(ahead, upstreams)
    measured = [mean for _, mean in upstreams if mean is not None]
    assert (wait is None) == (not measured)
    if wait is not None:
        longer, shorter = drain_time(ahead + 1, upstreams), drain_time(ahead, [*upstreams, (1, 1)])
        assert longer is not None
        assert shorter is not None
        assert 0 < shorter < wait < longer


@given(st.none() | st.floats(allow_nan=False))
def test_what_a_client_is_told_is_within_reason(estimate: float | None) -> None:
    """Whole seconds from 1 to 300, never less than the estimate within these bounds."""
    told = retry_after(estimate)
    assert told.is_integer()
    assert LEAST_RETRY <= told <= MOST_RETRY
    if estimate is not None and estimate <= MOST_RETRY:
        assert estimate <= told


@pytest.mark.parametrize(
    ("estimate", "told"), [(None, 1), (-3, 1), (0, 1), (1.2, 2), (299.5, 300), (inf, 300)]
)
def test_examples_of_what_a_client_is_told(estimate: float | None, told: int) -> None:
    """Rounded up: who comes back too early is refused again."""
    assert retry_after(estimate) == told
