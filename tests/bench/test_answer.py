"""One response: its times, and that no wrong character goes unseen."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hub.bench.answer import (
    Answer,
    Window,
    chat_event,
    http_error,
    response_object,
    responses_event,
)
from hub.bench.text import Vocabulary

WORDS = Vocabulary()
positions = st.integers(0, 10**6)


def new(expected: str = "abc", tokens: int = 3, window: Window | None = None) -> Answer:
    return Answer(expected, seed=1, tokens=tokens, window=window or Window())


def read(expected: str, pieces: Sequence[str]) -> Answer:
    """An answer whose text came in these pieces."""
    answer = new(expected)
    for piece in pieces:
        answer.text(piece, 1.0)
    answer.end(2.0)
    return answer


def pieces_of(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


texts = st.builds(WORDS.answer, st.integers(0, 10**6), st.integers(2, 40))
cuts = st.lists(positions, max_size=20)


@given(texts, cuts)
def test_the_right_text_is_right_in_any_pieces(text: str, places: list[int]) -> None:
    answer = read(text, ["", *pieces_of(text, places), ""])
    assert not answer.wrong
    assert answer.received == len(text)
    assert answer.differences() == (0, 0)


@given(texts, cuts, positions, st.integers(1, 9))
def test_lost_characters_are_found_and_counted(
    text: str, places: list[int], at: int, size: int
) -> None:
    at %= len(text)
    size = min(size, len(text) - at)
    answer = read(text, pieces_of(text[:at] + text[at + size :], places))
    assert answer.wrong
    assert answer.differences() == (size, 0)


@given(texts, cuts, positions, st.integers(1, 9))
def test_repeated_characters_are_found_and_counted(
    text: str, places: list[int], at: int, size: int
) -> None:
    at %= len(text)
    size = min(size, len(text) - at)
    answer = read(text, pieces_of(text[: at + size] + text[at:], places))
    assert answer.wrong
    assert answer.differences() == (0, size)


@given(texts, cuts, positions, positions)
def test_characters_that_changed_places_are_found(
    text: str, places: list[int], one: int, other: int
) -> None:
    one, other = sorted((one % len(text), other % len(text)))
    assume(text[one] != text[other])
    swapped = [*text]
    swapped[one], swapped[other] = swapped[other], swapped[one]
    answer = read(text, pieces_of("".join(swapped), places))
    assert answer.wrong
    assert answer.differences() == (0, 0)


@given(texts, cuts, positions, st.characters())
def test_another_character_is_found(text: str, places: list[int], at: int, other: str) -> None:
    at %= len(text)
    assume(text[at] != other)
    answer = read(text, pieces_of(text[:at] + other + text[at + 1 :], places))
    assert answer.wrong
    assert answer.differences() == (1, 1)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 30))
def test_another_answers_text_is_found(seed: int, further: int, tokens: int) -> None:
    assume(WORDS.start(seed) != WORDS.start(seed + further))
    assert read(WORDS.answer(seed, tokens), [WORDS.answer(seed + further, tokens)]).wrong


def unknown(*, streamed: bool = True) -> Answer:
    """An answer whose text is not known beforehand."""
    return Answer(None, seed=1, tokens=None, window=Window(), streamed=streamed)


@given(texts, cuts)
def test_a_text_that_is_not_known_is_right_if_it_is_the_one_that_is_told_at_the_end(
    text: str, places: list[int]
) -> None:
    answer = unknown()
    for piece in pieces_of(text, places):
        answer.text(piece, 1.0)
    answer.told(text)
    answer.end(2.0)
    assert not answer.wrong
    assert (answer.differences(), answer.error) == ((0, 0), None)
    assert answer.tokens == answer.frames == len(pieces_of(text, places))


@given(texts, cuts, positions, st.integers(1, 9))
def test_what_was_lost_or_repeated_of_an_unknown_text_is_found(
    text: str, places: list[int], at: int, size: int
) -> None:
    at %= len(text)
    size = min(size, len(text) - at)
    for came, counts in (
        (text[:at] + text[at + size :], (size, 0)),
        (text[: at + size] + text[at:], (0, size)),
    ):
        answer = unknown()
        for piece in pieces_of(came, places):
            answer.text(piece, 1.0)
        answer.told(text)
        answer.end(2.0)
        assert answer.wrong
        assert answer.differences() == counts


def test_an_unknown_text_that_nobody_tells_is_not_wrong() -> None:
    answer = unknown()
    answer.text("ab", 1.0)
    answer.end(2.0)
    assert not answer.wrong
    assert answer.differences() == (0, 0)


@given(texts, cuts)
def test_polls_add_what_they_show_that_was_not_there_before(text: str, places: list[int]) -> None:
    window = Window()
    window.open = True
    for answer in (new(text, 9, window), unknown(streamed=False)):
        pieces = pieces_of(text, places)
        for number in range(len(pieces) + 1):
            seen = "".join(pieces[:number])
            running = {"id": "resp_1", "status": "in_progress", "output": whole(seen)}
            assert not response_object(answer, running, float(number))
        ended = {"id": "resp_1", "status": "completed", "output": whole(text)}
        assert response_object(answer, {**ended, "usage": {"output_tokens": 9}}, 99.0)
        assert not answer.wrong
        assert (answer.id, answer.tokens, answer.frames) == ("resp_1", 9, len(pieces))
        assert (answer.ttft, answer.error) == (1.0, None)


def test_an_answer_that_comes_at_once_has_no_time_per_token() -> None:
    answer = unknown(streamed=False)
    response = {"id": "resp_1", "status": "completed", "output": whole("abc")}
    told = {"usage": {"output_tokens": 3}, "hub": {"ledger_ms": {"received": 0.0}}}
    assert response_object(answer, {**response, **told}, 2.0)
    assert answer.ttft == answer.e2e == 2.0
    assert answer.tpot is answer.itl is answer.gap is None
    assert answer.ledger_ms == {"received": 0.0}


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_response_object_that_did_not_end_well_has_failed(status: str) -> None:
    answer = unknown(streamed=False)
    error = {"code": status} if status == "failed" else None
    assert response_object(answer, {"id": "resp_1", "status": status, "error": error}, 1.0)
    assert answer.error == status


def test_a_difference_says_where_and_what() -> None:
    answer = read("one two three", ["one ", "too", " three"])
    assert answer.difference == "seed 1, character 4: 'two three' expected, 'too' came"


def test_what_a_failed_or_unfinished_response_did_not_say_is_not_lost() -> None:
    for answer in (new(), new()):
        answer.text("a", 1.0)
    failed, cut = new(), new()
    failed.text("a", 1.0)
    failed.end(2.0, "code")
    cut.text("a", 1.0)
    for answer in (failed, cut):
        assert not answer.wrong
        assert answer.differences() == (0, 0)
        assert answer.e2e is answer.tpot is None


def test_times_are_those_of_the_definitions() -> None:
    window = Window()
    answer = new("abcdef", 6, window)
    answer.begun = 10.0
    answer.text("", 11.0)
    assert answer.ttft is None
    answer.text("a", 12.0)
    answer.text("b", 13.0)
    window.open = True
    answer.text("cd", 13.5)
    answer.text("e", 13.5)
    window.open = False
    answer.text("f", 15.0)
    answer.end(17.0)
    assert answer.ttft == 2.0
    assert [*window.gaps] == [0.5, 0.0]
    assert answer.e2e == 7.0
    assert answer.tpot == 1.0
    assert answer.frames == 5
    assert answer.itl == 0.75
    assert answer.gap == 1.5


def test_a_single_token_has_no_time_per_token() -> None:
    answer = read("a", ["a"])
    assert answer.e2e is not None
    answer.tokens = 1
    assert answer.tpot is None


def test_sequence_numbers_increase() -> None:
    for numbers, error in (
        ([0, 1, 5, 6], None),
        ([0, 0], "sequence_number"),
        ([3, 2], "sequence_number"),
        ([None], "sequence_number"),
    ):
        answer = new()
        for number in numbers:
            answer.numbered(number)
        assert answer.error == error


def responses(*events: dict[str, Any]) -> Answer:
    """An answer that read these events of the Responses protocol; numbers are added."""
    answer = new()
    ended = [
        responses_event(answer, {"sequence_number": number, **event}, float(number))
        for number, event in enumerate(events)
    ]
    assert ended.index(True) == len(events) - 1
    return answer


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


def whole(text: str) -> list[dict[str, Any]]:
    return [{"type": "reasoning"}, {"type": "message", "content": [{"text": text}]}]


def ended(kind: str, **response: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": response}


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (ended("completed", output=whole("abc")), None),
        (ended("completed", output=whole("abcd")), "whole_text_differs"),
        (
            ended(
                "incomplete",
                output=whole("abc"),
                incomplete_details={"reason": "max_output_tokens"},
            ),
            None,
        ),
        (ended("incomplete", incomplete_details={"reason": "filter"}), "incomplete_filter"),
        (ended("incomplete"), "incomplete_unknown"),
        (ended("failed", error={"code": "upstream_error"}), "upstream_error"),
        (ended("failed", error=None), "unknown"),
        ({"type": "error", "error": {"code": "rate_limit_exceeded"}}, "rate_limit_exceeded"),
        ({"type": "error", "code": "server_error"}, "server_error"),
    ],
)
def test_how_responses_end(last: dict[str, Any], error: str | None) -> None:
    answer = responses({"type": "response.created"}, delta("ab"), delta("c"), last)
    assert answer.error == error
    assert answer.ttft == 1.0
    assert answer.ended == 3.0
    assert not answer.wrong


def test_chunks_of_chat_completions_are_read() -> None:
    answer = new()
    for choice in (
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"content": "ab"}},
        {"delta": {"content": None}},
        {"delta": {"content": "c"}},
        {"delta": {}, "finish_reason": "stop"},
    ):
        chat_event(answer, {"choices": [choice]}, 4.0)
    chat_event(answer, {"choices": [], "usage": {"completion_tokens": 2}}, 5.0)
    answer.end(6.0)
    told = unknown()
    chat_event(told, {"id": "chat_1", "choices": [], "usage": {"completion_tokens": 2}}, 5.0)
    assert (told.id, told.tokens) == ("chat_1", 2)
    assert (answer.ttft, answer.error, answer.wrong) == (4.0, None, False)
    broken = new()
    chat_event(broken, {"error": {"type": "server_error"}}, 1.0)
    broken.end(2.0)
    assert broken.error == "server_error"


def test_errors_over_http_tell_status_and_code() -> None:
    assert http_error(429, {"error": {"code": "rate_limit_exceeded"}}) == "429_rate_limit_exceeded"
    assert http_error(502, None) == "502"
    assert http_error(500, {"error": "text"}) == "500"
