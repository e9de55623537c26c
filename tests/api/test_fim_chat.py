"""Filling in the middle in Mistral's words: what is asked, and the answer."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from hub.api.chat import completion
from hub.api.early_stop import EarlyStop
from hub.api.fim_chat import FimStream, fim_completion, parse_fim
from hub.api.recorder import Recorder
from hub.api.requests import Generation, Json
from hub.api.sse import SseParser
from hub.errors import HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.speech import Call, ends, no_deadline, play, recorder, speeches

FULL: Json = {
    "model": "codestral-latest",
    "prompt": "def",
    "suffix": "return a+b",
    "temperature": 0.7,
    "top_p": 1,
    "max_tokens": 1024,
    "min_tokens": 0,
    "stream": False,
    "random_seed": 1337,
    "stop": "string",
}
"""The example of Mistral's reference."""


# What is asked.


def test_what_the_reference_asks() -> None:
    request = parse_fim(FULL)
    assert request.generation == Generation(
        model="codestral-latest",
        messages=(),
        prompt="def",
        suffix="return a+b",
        max_tokens=1024,
        stop=["string"],
        extra={"temperature": 0.7, "top_p": 1, "min_tokens": 0, "seed": 1337},
    )
    assert request.early_stop == EarlyStop(suffix="return a+b")
    assert (request.stream, request.store, request.include_usage) == (False, False, False)


@pytest.mark.parametrize(
    ("body", "generation"),
    [
        ({}, {}),
        ({"suffix": ""}, {"suffix": ""}),
        ({"suffix": None, "max_tokens": None, "random_seed": None, "stop": None}, {}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"top_k": 5, "metadata": {"a": 1}}, {"extra": {"top_k": 5}}),
    ],
)
def test_what_the_engine_is_asked(body: Json, generation: Json) -> None:
    nothing = Generation(model="", messages=(), prompt="def", stop=[])
    assert parse_fim({"prompt": "def", **body}).generation == replace(nothing, **generation)


def test_without_a_suffix_there_is_no_gap() -> None:
    """ "When suffix is not provided, the model will simply execute completion starting with
    prompt.\""""
    assert parse_fim({"prompt": "def"}).early_stop is None
    assert parse_fim({"prompt": "def", "single_line": True}).early_stop == EarlyStop(True)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"prompt": ["x"]}, "invalid_type", "prompt"),
        ({"suffix": 5}, "invalid_type", "suffix"),
        ({"max_tokens": -1}, "invalid_value", "max_tokens"),
        ({"min_tokens": "x"}, "invalid_type", "min_tokens"),
        ({"random_seed": "x"}, "invalid_type", "random_seed"),
        ({"stop": 5}, "invalid_type", "stop"),
    ],
)
def test_what_is_refused(body: Json, code: str, param: str) -> None:
    error = attempt(parse_fim, {"prompt": "def", **body})
    assert isinstance(error, HubError)
    assert (error.code, error.param) == (code, param)


@pytest.mark.parametrize("body", [None, [], "Hi", 5])
def test_the_body_is_an_object(body: Any) -> None:
    error = attempt(parse_fim, body)
    assert isinstance(error, HubError)
    assert error.code == "invalid_type"


@settings(no_deadline, max_examples=100)
@given(st.sampled_from(list(paths(FULL))), values)
def test_any_json_at_any_field_is_a_request_or_a_typed_error(path: Path, value: Any) -> None:
    asked = attempt(parse_fim, changed(FULL, path, value))
    if isinstance(asked, HubError):
        assert asked.status == 400
        return
    assert asked.generation.prompt is not None
    assert orjson.dumps(dict(asked.generation.extra))


# The answer.

CANCELLED: list[Call] = [("text", "half"), ("cancel",)]


def answered(*calls: Call) -> Recorder:
    made = recorder(parse_fim({**FULL, "stream": True}))
    play(made, *calls)
    return made


def stream(said: Recorder, *, superseded: bool = False) -> list[Any]:
    blocks = FimStream(said, superseded=lambda: superseded)
    payloads = SseParser().feed(b"".join(blocks.render(event) for event in said.log.read(-1)))
    *chunks, done = payloads
    assert done == b"[DONE]"
    return [orjson.loads(chunk) for chunk in chunks]


def test_the_text_is_in_the_deltas() -> None:
    said = answered(("text", "a"), ("text", "b"), ("finish", "stop"), ("complete", 2.0))
    chunks = stream(said)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "a", "b", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    answer = fim_completion(said)
    assert answer["choices"][0]["message"]["content"] == "ab"


def test_who_was_superseded_gets_an_empty_text_whatever_was_said() -> None:
    answer = fim_completion(answered(*CANCELLED), superseded=True)
    ChatCompletion.model_validate(answer)
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


def test_a_stream_that_was_superseded_ends_without_an_error() -> None:
    *_, last = stream(answered(*CANCELLED), superseded=True)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert "error" in stream(answered(*CANCELLED))[-1]
    failed: Call = ("fail", HubError("upstream_error", "It broke."))
    assert "error" in stream(answered(failed), superseded=True)[-1]


@settings(no_deadline, max_examples=30)
@given(speeches(), ends)
def test_it_is_a_chat_completion_in_all_else(said: list[Call], end: list[Call]) -> None:
    made = answered(*said, *end)
    answer, other = attempt(fim_completion, made), attempt(completion, made)
    assert isinstance(answer, HubError) == isinstance(other, HubError)
    assert isinstance(answer, HubError) or answer == other
