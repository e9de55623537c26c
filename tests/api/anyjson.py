"""Any JSON at any place of a request."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, TypeVar

from hypothesis import strategies as st

from hub.errors import HubError

T = TypeVar("T")
Path = tuple[str | int, ...]

_words = st.sampled_from(
    ["", "type", "text", "message", "function", "user", "role", "content", "name", "auto"]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _words
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_words | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Any JSON that a request can hold, with a liking for words that mean something."""


def paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value but its root."""
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, below in inside:
        yield (*here, key)
        yield from paths(below, (*here, key))


def changed(body: Any, path: Path, value: Any) -> Any:
    """A copy with another value at one place."""
    copy = deepcopy(body)
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def attempt(parse: Callable[[Any], T], given: Any) -> T | HubError:
    """What a parser makes of something: its result or its error, and nothing else."""
    try:
        return parse(given)
    except HubError as error:
        return error
