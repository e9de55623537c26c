"""Traces of keys: they give the text, the same ones every time, at the times that are published."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.bench.keys_corpus import places
from hub.bench.keystrokes import (
    READING,
    WORTH,
    Reader,
    alike,
    arrivals,
    keys,
    place,
)
from hub.bench.stats import percentile

TEXTS = st.text(alphabet="ab_Z9 (\n=,:", max_size=60)
SEEDS = st.integers(0, 1000)
SOURCE = "import os\n\n\ndef one():\n    return os\n\n\ndef two():\n    return one\n"


@given(text=TEXTS, seed=SEEDS)
@settings(max_examples=50)
def test_the_keys_give_the_text(text: str, seed: int) -> None:
    """Applied one after the other, typos and backspaces included, the keys leave what was typed."""
    typed, right = "", ""
    for key in keys(text, random.Random(seed)):
        typed = key.apply(typed)
        assert key.gap > 0
        if key.right:
            right = typed
            assert text.startswith(right)
    assert typed == text


@given(text=TEXTS, seed=SEEDS)
@settings(max_examples=20)
def test_the_same_seed_gives_the_same_keys(text: str, seed: int) -> None:
    assert [*keys(text, random.Random(seed))] == [*keys(text, random.Random(seed))]


def test_a_new_line_is_indented_without_a_key() -> None:
    """The editor does that."""
    assert [key.insert for key in keys("a\n    b", random.Random(0))] == ["a", "\n    ", "b"]


def test_gaps_are_spread_as_published() -> None:
    """p10, p50, p90 and p99 are 96, 209, 483 and 2161 ms, within a tenth."""
    rng = random.Random(1)
    gaps = sorted(
        key.gap * 1e3 for one in places(30, 1500, rng) for key in keys(one.missing, rng, "normal")
    )
    found = [percentile(gaps, share) for share in (0.1, 0.5, 0.9, 0.99)]
    assert found == [pytest.approx(ms, rel=0.1) for ms in (96, 209, 483, 2161)]
    assert sum(gap < 200 for gap in gaps) / len(gaps) == pytest.approx(0.47, abs=0.03)


@pytest.mark.parametrize(("pace", "faster"), [("slow", "normal"), ("normal", "fast")])
def test_paces_differ(pace: str, faster: str) -> None:
    """The same keys in less time."""
    slow, fast = ([*keys("word " * 20, random.Random(0), one)] for one in (pace, faster))
    assert [key.insert for key in slow] == [key.insert for key in fast]
    assert sum(key.gap for key in slow) > sum(key.gap for key in fast)


@given(seed=SEEDS)
@settings(max_examples=20)
def test_a_place_begins_with_a_function_and_ends_with_a_line(seed: int) -> None:
    found = place(SOURCE, 10, random.Random(seed))
    assert found.before + found.missing + found.behind == SOURCE
    assert found.missing.startswith("def ")
    assert found.missing.endswith("\n")
    assert len(found.missing) >= 10


def test_a_source_without_functions_has_no_place() -> None:
    with pytest.raises(ValueError, match="no function"):
        place("a = 1\n", 2, random.Random(0))


def test_places_differ() -> None:
    """No two users' lanes have the same text behind the cursor."""
    found = places(20, 500, random.Random(0))
    assert len({one.behind for one in found}) == 20


@given(shown=st.text("ab \n", max_size=12), missing=st.text("ab \n", max_size=12), seed=SEEDS)
@settings(max_examples=100)
def test_only_what_is_correct_is_accepted(shown: str, missing: str, seed: int) -> None:
    """Whoever accepts takes the beginning of what would have been typed, or nothing."""
    taken = Reader(random.Random(seed)).accepts(shown, missing, READING)
    assert missing.startswith(taken)
    assert shown.startswith(taken)
    assert not taken or len(taken) >= WORTH


def test_acceptance_takes_time_and_a_long_enough_text() -> None:
    """About three in ten are accepted, of those that are worth it and were read."""
    reader = Reader(random.Random(0))
    took = [reader.accepts("return a", "return a\n", READING) for _ in range(1000)]
    assert {*took} == {"", "return a"}
    assert took.count("") == pytest.approx(700, abs=50)
    assert not any(reader.accepts("return a", "return a\n", READING / 2) for _ in range(100))
    assert not any(reader.accepts("retu", "return a\n", READING) for _ in range(100))


def test_a_word_that_goes_wrong_is_not_taken() -> None:
    reader = Reader(random.Random(0))
    took = {reader.accepts("return value", "return valid", READING) for _ in range(50)}
    assert took == {"", "return "}


def test_users_arrive_one_after_the_other() -> None:
    times = arrivals(5, 1.0, random.Random(0))
    assert times == sorted(times)
    assert times[0] == 0.0
    assert arrivals(3, 0.0, random.Random(0)) == [0.0, 0.0, 0.0]


def test_alike() -> None:
    assert alike("abc", "abd") == 2
    assert alike("abc", "ab") == 2
    assert alike("", "a") == 0
