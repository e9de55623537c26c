"""The window's one rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.window import Window
from tests.traces import traces


@given(st.integers(1, 5), traces(st.booleans(), 50))
def test_a_window_is_never_below_zero_or_above_its_size(size: int, steps: list[bool]) -> None:
    """What is reserved lies between 0 and the size; a step beyond either end is a defect, and
    changes nothing."""
    window = Window(size)
    reserved = 0
    for take in steps:
        if take and reserved == size:
            with pytest.raises(AssertionError, match="beyond the window"):
                window.take()
        elif take:
            window.take()
            reserved += 1
        elif reserved == 0:
            with pytest.raises(AssertionError, match="given back twice"):
                window.give_back()
        else:
            window.give_back()
            reserved -= 1
        assert window.in_flight == reserved
        assert window.room == size - reserved


def test_a_window_holds_at_least_one() -> None:
    """An upstream that may hold nothing would never do anything."""
    with pytest.raises(AssertionError):
        Window(0)
