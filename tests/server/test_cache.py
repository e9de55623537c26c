"""The rules of remembering and forgetting."""

from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import Json
from hub.server.cache import ResponseCache
from tests.traces import traces

MAX_ENTRIES, MAX_BYTES = 4, 100

lanes = st.sampled_from([None, "a", "b"])
steps = traces(
    st.one_of(
        st.tuples(st.just("put"), lanes, st.integers(0, 120)),
        st.tuples(st.just("get"), st.none(), st.integers(0, 5)),
        st.tuples(st.just("failed"), lanes, st.integers(0, 5)),
    ),
    60,
)


def history(number: int) -> list[Json]:
    return [{"type": "message", "number": number}]


@given(steps)
def test_the_least_recently_used_go_first_and_bounds_hold(
    trace: list[tuple[str, str | None, int]],
) -> None:
    """The cache holds the most recently used entries that fit its number and its bytes, and the
    newest always; a failure evicts its parent on the parent's own lane only."""
    cache = ResponseCache(MAX_ENTRIES, MAX_BYTES)
    held: list[tuple[int, str | None, int]] = []
    """Number, lane and size, the least recently used first."""
    made = 0
    for step, lane, argument in trace:
        number = made - argument  # one of the newest
        known = [entry for entry in held if entry[0] == number]
        match step:
            case "put":
                cache.put(f"resp_{made}", lane, history(made), argument)
                held.append((made, lane, argument))
                made += 1
                while len(held) > 1 and (
                    len(held) > MAX_ENTRIES or sum(size for *_, size in held) > MAX_BYTES
                ):
                    held.pop(0)
            case "get":
                found = cache.get(f"resp_{number}")
                assert found == (history(number) if known else None)
                held = [entry for entry in held if entry not in known] + known
            case _:
                cache.failed(f"resp_{number}", lane)
                held = [entry for entry in held if entry[:2] != (number, lane)]
        assert len(cache) == len(held) <= MAX_ENTRIES
    for number, *_ in held:
        assert cache.get(f"resp_{number}") == history(number)


def test_one_that_is_larger_than_all_bounds_can_be_continued() -> None:
    """The newest stays, whatever its size, until the next one comes."""
    cache = ResponseCache(MAX_ENTRIES, MAX_BYTES)
    cache.put("small", None, history(0), 1)
    cache.put("large", None, history(1), 10 * MAX_BYTES)
    assert cache.get("small") is None
    assert cache.get("large") == history(1)
    cache.put("next", None, history(2), 1)
    assert cache.get("large") is None
    assert len(cache) == 1


def test_a_fork_that_fails_keeps_its_parent() -> None:
    """Only a continuation on the parent's own lane evicts it."""
    cache = ResponseCache()
    cache.put("parent", "a", history(0), 1)
    cache.failed("parent", "b")
    cache.failed("parent", None)
    assert cache.get("parent") == history(0)
    cache.failed("parent", "a")
    assert cache.get("parent") is None
    cache.failed("parent", "a")


def test_a_response_that_is_read_again_is_the_newest() -> None:
    cache = ResponseCache(max_entries=2)
    for id in ("one", "two", "one", "three"):
        cache.put(id, "a", history(1), 1)
    assert cache.get("two") is None
    assert cache.get("one") == cache.get("three") == history(1)
    assert len(cache) == 2
