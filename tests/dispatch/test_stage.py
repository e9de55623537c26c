"""Gathering at an upstream that cannot batch by itself."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.stage import Stage
from tests.traces import traces


def test_a_full_batch_leaves_at_once() -> None:
    """Of the size, all together, in the order in which they came."""
    stage = Stage[str](3, 10.0)
    for item in "abc":
        assert stage.take(0.0) is None
        stage.put(item, 0.0)
    assert len(stage) == 3
    assert stage.take(0.0) == ("full", ["a", "b", "c"])
    assert len(stage) == 0
    assert stage.take(100.0) is None


def test_the_first_waits_for_others_so_long_and_no_longer() -> None:
    """The time counts from the first that is there; one that was taken out does not count."""
    stage = Stage[str](3, 10.0)
    assert stage.due == inf
    stage.put("a", 0.0)
    stage.put("b", 4.0)
    assert stage.due == 10.0
    assert stage.remove("a")
    assert not stage.remove("a")
    assert stage.due == 14.0
    assert stage.take(13.9) is None
    assert stage.take(14.0) == ("timer", ["b"])
    assert stage.due == inf


def test_an_interval_of_0_gathers_nothing() -> None:
    """What came leaves when it is asked for."""
    stage = Stage[str](3, 0.0)
    stage.put("a", 5.0)
    assert stage.take(5.0) == ("timer", ["a"])


def test_those_who_leave_the_stage_are_handed_out() -> None:
    """They do not leave from here afterwards."""
    stage = Stage[str](2, 1.0)
    stage.put("a", 0.0)
    stage.put("b", 0.0)
    assert stage.clear() == ["a", "b"]
    assert stage.clear() == []
    assert stage.take(10.0) is None


def test_a_batch_has_at_least_one() -> None:
    """An upstream that takes none at a time would never do anything."""
    with pytest.raises(AssertionError):
        Stage[str](0, 1.0)


steps = st.tuples(st.sampled_from(["put", "put", "remove", "wait"]), st.floats(0, 3))


@given(st.integers(1, 4), st.sampled_from([0.0, 1.0, 5.0]), traces(steps, 50))
def test_everybody_leaves_once_and_in_time(
    size: int, interval: float, trace: list[tuple[str, float]]
) -> None:
    """Asked whenever something came or was due, it never holds a whole batch, nobody waits longer
    than the interval, and everybody leaves once, or is taken out."""
    stage = Stage[int](size, interval)
    since: dict[int, float] = {}
    now = 0.0

    def ask() -> None:
        taken = stage.take(now)
        assert (taken is None) == (
            not since or (len(since) < size and now < min(since.values()) + interval)
        )
        if taken is not None:
            reason, members = taken
            assert members == [*since]
            assert (reason == "full") == (len(members) >= size)
            since.clear()

    for number, (step, later) in enumerate(trace):
        while stage.due <= now + later:
            later -= stage.due - now
            now = stage.due
            ask()
        now += later
        if step == "put":
            stage.put(number, now)
            since[number] = now
            ask()
        elif step == "remove" and since:
            item = next(iter(since))
            assert stage.remove(item)
            del since[item]
        assert len(stage) == len(since) < size
        assert all(now < start + interval for start in since.values())
