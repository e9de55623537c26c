"""What is kept of a response, and which are good enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.bench.answer import Answer, Window
from hub.bench.record import LIMITS, Record, met, parse_limits


def record(error: str | None = None, *, ended: bool = True) -> Record:
    """Began at 12 s, 2 s into the run: TTFT 500 ms, E2E 2 s, three tokens in two frames."""
    answer = Answer("abc", seed=1, tokens=3, window=Window())
    answer.id = "resp_1"
    answer.begun = 12.0
    answer.text("a", 12.5)
    answer.text("bc", 13.5)
    if ended:
        answer.end(14.0, error)
    return Record.of(answer, zero=10.0)


def test_a_record_has_what_happened_to_one_response_in_milliseconds() -> None:
    assert record().json() == {
        "id": "resp_1",
        "begun_s": 2.0,
        "ttft_ms": 500.0,
        "e2e_ms": 2000.0,
        "tpot_ms": 750.0,
        "itl_ms": 1000.0,
        "gap_ms": 1000.0,
        "tokens": 3,
        "frames": 2,
        "polls": 0,
        "error": None,
        "ledger_ms": None,
    }


def test_what_failed_or_was_cut_off_says_so_and_is_never_good() -> None:
    for one, error in ((record("busy"), "busy"), (record(ended=False), "cut")):
        assert one.error == error
        assert one.e2e_ms is None
        assert not one.meets({})
    assert record().meets({})


@given(st.dictionaries(st.sampled_from([*LIMITS]), st.floats(1, 5000)))
def test_a_response_is_good_if_it_is_within_every_limit(limits: dict[str, float]) -> None:
    times = {"ttft": 500.0, "tpot": 750.0, "itl": 1000.0, "e2el": 2000.0}
    good = all(times[name] <= limit for name, limit in limits.items())
    assert record().meets(limits) is good
    assert met([record(), record("busy"), record()], limits) == 2 * good


def test_what_a_response_cannot_have_is_within_the_limit() -> None:
    answer = Answer("a", seed=1, tokens=1, window=Window())
    answer.text("a", 1.0)
    answer.end(1.0)
    assert Record.of(answer, 0.0).meets({"tpot": 1.0, "itl": 1.0})


def test_limits_are_read() -> None:
    assert parse_limits("ttft:200, e2el:5e3") == {"ttft": 200.0, "e2el": 5000.0}


@pytest.mark.parametrize("text", ["", "ttft", "ttft:", "ttft:x", "ttft:0", "ttft:nan", "e2e:5"])
def test_limits_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_limits(text)
