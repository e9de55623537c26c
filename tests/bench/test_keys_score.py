"""What a run of typists comes to, on runs made by hand."""

import pytest

from hub.bench.keys_score import HEAD, RACE, Lane, State, Times, row, score
from hub.bench.keys_truth import Record
from hub.bench.keystrokes import Place

BEFORE, MISSING, BEHIND = "class A:\n    x = 1\n", "def one(self):\n", "def two(self):\n"


def lane(*states: State) -> Lane:
    made = Lane("a", Place(BEFORE + MISSING + BEHIND, len(BEFORE), len(BEFORE + MISSING)))
    made.states = [State(0, "", 0.0), *states]
    made.keys = len(states)
    return made


def record(typed: str, *tokens: str, at: float, said: int | None = None) -> Record:
    """It says a token each 0.1 s; ``said``: how many, before it is cut off 0.01 s later."""
    count = len(tokens) if said is None else said
    times = [at + 0.1 * (number + 1) for number in range(count)]
    one = Record(BEFORE + typed, BEHIND, streamed=True, tokens=[*tokens], arrived=at)
    one.begun, one.said = at, times
    one.ended = times[-1] if said is None else at + 0.1 * count + 0.01
    return one


def test_fresh_reused_and_local_texts_are_told_apart() -> None:
    """Fresh: the oracle was asked for that very state. Local: nobody was asked."""
    typist = lane(
        State(1, "d", 1.0, asked=1.0, shown=1.2, answer="ef one"),
        State(2, "de", 2.0, asked=2.0, shown=2.004, answer="f one"),
        State(3, "def", 3.0, shown=3.0),
        State(4, "def~", 4.0, asked=4.0),
    )
    found = score([typist], [record("d", "ef", " one", at=1.0), record("def~", "~", at=4.0)], 0.008)
    assert found.fresh_ms.count == found.reused_ms.count == 1
    assert found.fresh_ms.p50 == pytest.approx(200)
    assert found.reused_ms.p50 == pytest.approx(4)
    assert found.local == pytest.approx(1 / 3)
    assert found.useful_per_key == 0.75
    assert (found.requests_per_key, found.tokens_per_key) == (0.5, 0.75)
    assert found.tokens_per_useful == 1
    assert found.wasted == pytest.approx(1 / 3)
    assert found.cpu_ms_per_key == pytest.approx(2)
    assert found.flawless
    assert row("here", found).count("|") == HEAD.splitlines()[0].count("|")


def test_the_lag_counts_from_the_request_that_disagrees() -> None:
    """Not from one that agrees, and not to the end of a request that nobody superseded."""
    typist = lane(
        State(1, "d", 1.0, asked=1.0),
        State(2, "de", 1.05, asked=1.05),
        State(3, "de~", 1.25, asked=1.25),
    )
    found = score([typist], [record("d", "ef", " one", "(", at=1.0, said=2)])
    # Two tokens are said at 1.1 and 1.2; it was cut off at 1.21, before anybody disagreed.
    assert found.lag_ms.count == 0
    assert found.cancelled == 1
    found = score([typist], [record("d", "ef", " one", "(", at=1.0)])
    assert found.lag_ms.count == 1
    assert found.lag_ms.p50 == pytest.approx(50)


def test_what_has_not_been_said_may_yet_agree() -> None:
    """The two part when the oracle says another character than was typed, not before."""
    typist = lane(State(1, "d", 1.0, asked=1.0), State(2, "d~", 1.02, asked=1.02))
    found = score([typist], [record("d", "ef", " one", at=1.0, said=1)])
    assert found.lag_ms.p50 == pytest.approx(10)


def test_a_deletion_supersedes_at_once() -> None:
    typist = lane(State(1, "d", 1.0, asked=1.0), State(2, "", 1.02, asked=1.02))
    found = score([typist], [record("d", "ef", " one", at=1.0, said=1)])
    assert found.lag_ms.p50 == pytest.approx(90)


def test_text_for_an_older_state_is_stale_once_a_newer_one_was_answered() -> None:
    """Before that it may have crossed the newer request on its way."""
    old, new = State(1, "d", 1.0, asked=1.0), State(2, "de", 2.0, asked=2.0)
    typist = lane(old)
    assert typist.received(old, "ef", 1.5)
    typist.states.append(new)
    assert not typist.received(old, " one", 2.0 + RACE / 2)
    assert typist.stale == 0
    assert typist.received(new, "f", 2.0 + RACE / 2)
    assert not typist.received(old, "(", 2.0 + RACE / 2)
    assert typist.stale == 1
    assert score([typist], []).stale == 1


def test_text_for_an_older_state_is_stale_after_a_while() -> None:
    """A newer request that is not answered yet has been known for long enough, too."""
    old = State(1, "d", 1.0, asked=1.0)
    typist = lane(old, State(2, "d~", 2.0, asked=2.0))
    assert not typist.received(old, "ef", 2.0 + 2 * RACE)
    assert typist.stale == 1


def test_text_that_the_oracle_did_not_say_there_is_wrong() -> None:
    typist = lane(State(1, "de", 1.0, asked=1.0, answer="ef one"))
    found = score([typist], [record("d", "ef", " one", at=0.9)])
    assert found.wrong == 1
    assert not found.flawless


def test_a_record_of_another_place_is_not_a_lanes() -> None:
    one = record("d", "ef", at=1.0)
    one.behind = "def three(self):\n"
    assert lane().typed_of(one) is None
    one.behind, one.before = BEHIND, "elsewhere"
    assert lane().typed_of(one) is None


def test_times_without_samples() -> None:
    assert Times.of([]).count == 0
    assert Times.of([0.001, 0.003]).p50 == pytest.approx(2)
