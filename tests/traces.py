"""Long random traces for property tests."""

from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


def traces(step: st.SearchStrategy[T], longest: int) -> st.SearchStrategy[list[T]]:
    """Lists of steps, of all lengths alike; ``st.lists`` alone makes five steps on average."""
    return st.integers(0, longest).flatmap(
        lambda length: st.lists(step, min_size=length, max_size=length)
    )
