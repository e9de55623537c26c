"""What a key may use: limits are kept, and what a refusal tells is true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import HubError
from hub.keys import MOST, Limits
from hub.quota import Quota
from tests.traces import traces

START = 1_800_000_000.0
clocks = st.sampled_from([0.0, 12345.678, START])
rates = st.integers(1, 300) | st.sampled_from([MOST])
pauses = st.sampled_from([0.0, 0.0, 0.1, 1.0, 7.3, 60.0, 3600.0]) | st.floats(0, 100)
costs = st.integers(0, 1000)


def refused(quota: Quota, now: float, concurrent: int = 0, waiting: int = 0) -> HubError:
    error = quota.admit(now, concurrent, waiting)
    assert error is not None
    return error


@given(rates, clocks, traces(pauses, 60))
def test_in_any_window_no_more_requests_than_the_rate_and_a_minutes_worth(
    rate: int, start: float, trace: list[float]
) -> None:
    """Whatever the pattern of requests, refused ones included."""
    quota, now = Quota(Limits(requests_per_minute=rate)), start
    admitted: list[float] = []
    for pause in trace:
        now += pause
        admitted.extend(now for _ in range(3) if quota.admit(now, 0, 0) is None)
    for first, begin in enumerate(admitted):
        for number, end in enumerate(admitted[first:], 1):
            assert number <= rate * (end - begin) / 60 + rate + 1e-3


@given(
    rates,
    rates,
    clocks,
    traces(st.tuples(pauses, st.none() | costs), 40),
)
def test_who_waits_as_long_as_told_is_admitted(
    requests: int, tokens: int, start: float, trace: list[tuple[float, int | None]]
) -> None:
    """If no other request of the key comes between, and nothing ends that costs."""
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    quota, now = Quota(limits), start
    for pause, cost in trace:
        now += pause
        if cost is not None:
            quota.spend_tokens(now, cost)
        elif (error := quota.admit(now, 0, 0)) is not None:
            assert error.code == "rate_limit_exceeded"
            assert error.retry_after is not None
            assert error.retry_after >= 1
            now += error.retry_after
            assert quota.admit(now, 0, 0) is None


@given(rates, traces(st.floats(allow_nan=False, allow_infinity=False), 30))
def test_a_clock_that_jumps_breaks_nothing(rate: int, times: list[float]) -> None:
    """Wherever it went, from then on a minute is a minute, and no more than its worth is there."""
    quota = Quota(Limits(requests_per_minute=rate, tokens_per_minute=rate))
    for now in times:
        quota.admit(now, 0, 0)
        quota.spend_tokens(now, 1)
    now = START
    admitted = sum(quota.admit(now, 0, 0) is None for _ in range(1000))
    assert admitted <= rate
    if admitted < 1000:
        now += refused(quota, now).retry_after or 0
        assert quota.admit(now, 0, 0) is None


def test_a_clock_that_stands_still_fills_nothing() -> None:
    """The minute's worth is all there is."""
    quota = Quota(Limits(requests_per_minute=5))
    assert [quota.admit(START, 0, 0) is None for _ in range(8)] == [True] * 5 + [False] * 3


def test_a_clock_that_is_set_back_neither_fills_nor_blocks() -> None:
    """A day earlier, the bucket is as full as it was, and fills on."""
    quota = Quota(Limits(requests_per_minute=60))
    assert all(quota.admit(START, 0, 0) is None for _ in range(60))
    assert refused(quota, START - 86400).retry_after == 2
    assert quota.admit(START - 86400 + 2, 0, 0) is None


def test_tokens_are_owed_and_then_waited_for() -> None:
    """Responses in hand may end below zero; the next request waits until that is made up for."""
    quota = Quota(Limits(tokens_per_minute=600))
    assert quota.admit(START, 0, 0) is None
    assert quota.admit(START, 1, 0) is None
    quota.spend_tokens(START, 500)
    assert quota.admit(START, 1, 0) is None
    quota.spend_tokens(START, 400)
    error = refused(quota, START)
    assert error.retry_after == 31
    assert error.message == (
        "This key has reached its limit of 600 tokens per minute. Try again in 31 s."
    )
    assert quota.admit(START + 31, 0, 0) is None


def test_a_refusal_costs_nothing() -> None:
    """Who asks too often is not kept out for longer."""
    quota = Quota(Limits(requests_per_minute=1))
    assert quota.admit(START, 0, 0) is None
    for second in range(60):
        assert refused(quota, START + second).retry_after == 61 - second
    assert quota.admit(START + 61, 0, 0) is None


def test_a_refusal_for_another_reason_takes_no_request() -> None:
    """Only what begins is counted."""
    quota = Quota(Limits(requests_per_minute=1, concurrent=1))
    refused(quota, START, concurrent=1)
    assert quota.admit(START, 0, 0) is None


@pytest.mark.parametrize(
    ("limits", "concurrent", "waiting", "limit"),
    [
        (Limits(concurrent=2), 2, 0, "2 responses at a time"),
        (Limits(concurrent=2), 9, 0, "2 responses at a time"),
        (Limits(queued=3), 0, 3, "3 waiting requests"),
        (Limits(concurrent=2, queued=3), 2, 2, "2 responses at a time"),
    ],
)
def test_what_is_in_hand_or_waits_is_bounded(
    limits: Limits, concurrent: int, waiting: int, limit: str
) -> None:
    """The one that would be too many is refused, with the limit that it met, and may come soon."""
    error = refused(Quota(limits), START, concurrent, waiting)
    assert limit in error.message
    assert (error.status, error.retry_after) == (429, 1.0)
    assert Quota(limits).admit(START, 1, 2) is None


def test_of_several_limits_the_longest_wait_is_told() -> None:
    """Coming back earlier would be in vain."""
    quota = Quota(Limits(requests_per_minute=1, tokens_per_minute=60, concurrent=1))
    quota.spend_tokens(START, 100)
    assert "60 tokens" in refused(quota, START, concurrent=1).message
    assert quota.admit(START + 42, 0, 0) is None
    assert "1 requests" in refused(quota, START + 42, concurrent=1).message


def test_without_limits_nothing_is_refused() -> None:
    """Whatever was used."""
    quota = Quota(Limits())
    quota.spend_tokens(START, 10**15)
    assert all(quota.admit(START, 10**6, 10**6) is None for _ in range(1000))
    assert quota.admit_socket(10**6) is None


def test_sockets_are_bounded() -> None:
    """The next one is told to come later."""
    quota = Quota(Limits(sockets=2))
    assert quota.admit_socket(1) is None
    error = quota.admit_socket(2)
    assert error is not None
    assert (error.code, error.retry_after) == ("rate_limit_exceeded", 1.0)
    assert "2 WebSockets at a time" in error.message


def test_one_that_asks_for_several_responses_counts_as_so_many_requests() -> None:
    quota = Quota(Limits(requests_per_minute=60, concurrent=4, queued=4))
    assert quota.admit(START, 0, 0, 4) is None
    for concurrent, waiting in ((1, 0), (0, 1)):
        error = quota.admit(START, concurrent, waiting, 4)
        assert error is not None
        assert error.code == "rate_limit_exceeded"
    for _ in range(14):
        assert quota.admit(START, 0, 0, 4) is None
    assert refused(quota, START).retry_after == 2
    assert quota.admit(START + 4.1, 0, 0, 4) is None


@pytest.mark.parametrize("limits", [Limits(concurrent=3), Limits(queued=3)])
def test_more_at_once_than_there_may_ever_be_is_refused_for_good(limits: Limits) -> None:
    error = Quota(limits).admit(START, 0, 0, 4)
    assert error is not None
    assert (error.code, error.retry_after) == ("invalid_value", None)


def test_more_than_a_minutes_worth_at_once_waits_for_a_full_minute_and_is_paid_off() -> None:
    quota = Quota(Limits(requests_per_minute=10))
    assert quota.admit(START, 0, 0, 30) is None
    assert refused(quota, START).retry_after == 127
