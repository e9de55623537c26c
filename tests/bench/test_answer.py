"""One response: its times, and that no wrong character goes unseen."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hub.bench.answer import Answer, Window, chat_event, http_error, responses_event
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
    chat_event(answer, {"choices": [], "usage": {}}, 5.0)
    answer.end(6.0)
    assert (answer.ttft, answer.error, answer.wrong) == (4.0, None, False)
    broken = new()
    chat_event(broken, {"error": {"type": "server_error"}}, 1.0)
    broken.end(2.0)
    assert broken.error == "server_error"


def test_errors_over_http_tell_status_and_code() -> None:
    assert http_error(429, {"error": {"code": "rate_limit_exceeded"}}) == "429_rate_limit_exceeded"
    assert http_error(502, None) == "502"
    assert http_error(500, {"error": "text"}) == "500"
