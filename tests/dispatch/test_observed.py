"""What the dispatcher counts."""

from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.observed import WAITS, ClassStatistics, Counts, Waits
from hub.dispatch.queue import ClassQueue
from hub.dispatch.terms import Rules, Terms, Ticket

_numbers = count()


def ticket(tenant: str = "") -> Ticket:
    return Ticket(Terms(tenant=tenant), "m", 1, 1, number=next(_numbers))


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (0.0009, 0),
        (0.001, 0),
        (0.0011, 1),
        (1.0, 6),
        (2.0, 7),
        (100.0, len(WAITS) - 1),
        (100.1, len(WAITS)),
        (1e9, len(WAITS)),
    ],
)
def test_a_wait_is_counted_up_to_its_bound(seconds: float, bucket: int) -> None:
    """A bound belongs to its bucket; beyond the last there is one bucket more."""
    waits = Waits()
    waits.note(seconds)
    assert [at for at, count in enumerate(waits.buckets) if count] == [bucket]


@given(st.lists(st.floats(0, 1000) | st.sampled_from(WAITS), max_size=50))
def test_every_wait_is_in_one_bucket(seconds: list[float]) -> None:
    """The buckets below a bound hold as many as waited no longer, as Prometheus counts them."""
    waits = Waits()
    for one in seconds:
        waits.note(one)
    assert waits.count == sum(waits.buckets) == len(seconds)
    assert waits.sum == pytest.approx(sum(seconds))
    assert waits.most == max(seconds, default=0.0)
    for at, bound in enumerate((*WAITS, inf)):
        assert sum(waits.buckets[: at + 1]) == sum(one <= bound for one in seconds)


def test_the_bounds_rise() -> None:
    """Else a wait would be looked for in the wrong place."""
    assert [*WAITS] == sorted({*WAITS})


def test_the_statistics_of_a_class() -> None:
    """They tell of who waits now and who has waited, and do not change afterwards."""
    queue, waits = ClassQueue(Rules()), Waits()
    for tenant in ("p", "p", "q"):
        queue.put(ticket(tenant), again=False)
    queue.fair.charge("p", 30.0)
    waits.note(0.5)
    waits.note(2.0)
    told = ClassStatistics.of(queue, waits)
    waits.note(2.0)
    assert (told.queued, told.tenants, told.fairness_spread) == (3, 2, 30.0)
    assert (told.dispatched, told.wait_seconds, told.longest_wait) == (2, 2.5, 2.0)
    assert sum(told.waits) == 2


def test_the_statistics_of_all() -> None:
    """Batches by reason and by size, the sizes in order; what waits is summed over the classes."""
    counts = Counts()
    for reason, size in [("idle", 10), ("room", 2), ("room", 2)]:
        counts.batch(reason, size)
    counts.shed["too_late"] += 1
    counts.cancelled["queued"] += 1
    counts.retried["upstream_error"] += 1
    counts.arrays += 1
    queue = ClassQueue(Rules())
    queue.put(ticket(), again=False)
    one = ClassStatistics.of(queue, Waits())
    told = counts.statistics(4, {"chat": one, "background": one}, {})
    counts.batch("idle", 1)
    assert (told.queued, told.in_flight) == (2, 4)
    assert told.dispatched == {"idle": 1, "room": 2}
    assert [*told.batches.items()] == [("2", 2), ("10", 1)]
    assert (told.shed, told.cancelled) == ({"too_late": 1}, {"queued": 1})
    assert (told.retried, told.arrays) == ({"upstream_error": 1}, 1)
