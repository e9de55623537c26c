"""Chat Completions: what is asked, and the answer, streamed and whole."""

from dataclasses import replace
from itertools import cycle
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from hub.api.chat import PASSED_ON, ChatStream, completion, completion_id, parse_chat
from hub.api.recorder import Recorder
from hub.api.requests import Generation, Json, Usage, estimate_tokens
from hub.api.sse import SseParser
from hub.errors import HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.speech import REASONS, Call, ends, no_deadline, play, recorder, speeches

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FULL: Json = {
    "model": "m",
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "n"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ],
    "n": 1,
    "temperature": 0.5,
    "top_p": 0.5,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    "max_completion_tokens": 5,
    "max_tokens": 6,
    "stop": ["a", "b"],
    "logprobs": True,
    "top_logprobs": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    **dict.fromkeys(PASSED_ON, 1),
}


# What is asked.


@pytest.mark.parametrize(
    ("body", "generation"),
    [
        ({}, {}),
        ({"model": "m"}, {"model": "m"}),
        ({"n": 1}, {}),
        ({"temperature": 0, "top_p": 1}, {"extra": {"temperature": 0, "top_p": 1}}),
        ({"presence_penalty": 1}, {"extra": {"presence_penalty": 1}}),
        ({"frequency_penalty": 1}, {"extra": {"frequency_penalty": 1}}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 6}, {"max_tokens": 5}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": ""}, {"stop": []}),
        ({"logprobs": True}, {"top_logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"top_logprobs": 3}),
        ({"logprobs": False, "top_logprobs": 3}, {}),
        ({"response_format": {"type": "json_object"}},) * 2,
        ({"tools": [TOOL]},) * 2,
        ({"tools": [TOOL], "tool_choice": "required"},) * 2,
        ({"tools": [TOOL], "tool_choice": FULL["tool_choice"]},) * 2,
        # A model server refuses a choice without tools.
        ({"tools": [], "tool_choice": "auto"}, {}),
    ],
)
def test_what_the_engine_is_asked(body: Json, generation: Json) -> None:
    nothing = Generation(model="", messages=HI, tools=[], stop=[])
    assert parse_chat({"messages": HI, **body}).generation == replace(nothing, **generation)


def test_what_hub_goes_by() -> None:
    request = parse_chat({"messages": HI})
    assert (request.stream, request.background, request.store) == (False, False, False)
    assert not request.include_usage
    assert request.generate
    request = parse_chat(FULL)
    assert request.stream
    assert request.include_usage
    assert request.model == request.generation.model == "m"


@pytest.mark.parametrize("name", PASSED_ON)
def test_parameters_that_are_passed_on_as_they_are(name: str) -> None:
    for value in (0, "x", False, {"a": [1]}):
        assert parse_chat({"messages": HI, name: value}).generation.extra == {name: value}
    assert parse_chat({"messages": HI, name: None}).generation.extra == {}


UNKNOWN = st.text().filter(lambda name: name not in FULL) | st.sampled_from(
    ["id_slot", "n_predict"]
)


@given(UNKNOWN, values)
def test_unknown_parameters_are_ignored(name: str, value: Any) -> None:
    """A field that is not listed never reaches the model server."""
    assert parse_chat({**FULL, name: value}) == parse_chat(FULL)


def test_messages_are_kept_as_they_came_but_for_the_developer() -> None:
    developer, *rest = parse_chat(FULL).generation.messages
    assert developer == {"role": "system", "content": "Be brief."}
    assert rest == FULL["messages"][1:]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"n": 2}, "unsupported_value", "n"),
        ({"n": 0}, "invalid_value", "n"),
        ({"model": 5}, "invalid_type", "model"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_completion_tokens": "5"}, "invalid_type", "max_completion_tokens"),
        ({"stop": 5}, "invalid_type", "stop"),
        ({"stop": ["a", 5]}, "invalid_type", "stop"),
        ({"logprobs": 1}, "invalid_type", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"response_format": "json"}, "invalid_type", "response_format"),
        ({"tools": {}}, "invalid_type", "tools"),
        ({"tools": [TOOL, 5]}, "invalid_type", "tools[1]"),
        ({"tool_choice": 5}, "invalid_type", "tool_choice"),
        ({"stream": 1}, "invalid_type", "stream"),
        ({"stream_options": True}, "invalid_type", "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "invalid_type", "stream_options.include_usage"),
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"messages": []}, "missing_required_parameter", "messages"),
        ({"messages": "Hi"}, "invalid_type", "messages"),
        ({"messages": [*HI, "Hi"]}, "invalid_type", "messages[1]"),
        ({"messages": [{}]}, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "cat"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_type", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{}, "Hi"]}]},
            "invalid_type",
            "messages[0].content[1]",
        ),
    ],
)
def test_what_is_refused(body: Json, code: str, param: str) -> None:
    error = attempt(parse_chat, {"messages": HI, **body})
    assert isinstance(error, HubError)
    assert (error.code, error.param, error.status) == (code, param, 400)


@pytest.mark.parametrize("body", [None, [], "Hi", 5])
def test_the_body_is_an_object(body: Any) -> None:
    error = attempt(parse_chat, body)
    assert isinstance(error, HubError)
    assert error.code == "invalid_type"


@settings(no_deadline, max_examples=300)
@given(st.sampled_from(list(paths(FULL))), values)
def test_any_json_at_any_field_is_a_request_or_a_typed_error(path: Path, value: Any) -> None:
    """A body is a request that can be written and counted, or an error that names its field."""
    request = attempt(parse_chat, changed(FULL, path, value))
    if isinstance(request, HubError):
        assert request.status == 400
        assert request.param is not None
        assert request.param.split(".")[0].split("[")[0] in FULL
    else:
        assert orjson.dumps([*request.generation.messages, dict(request.generation.extra)])
        assert estimate_tokens(request.generation.messages) >= 0


# The answer.

PLAIN = parse_chat({"messages": HI, "stream": True})
WITH_USAGE = parse_chat({"messages": HI, "stream": True, "stream_options": {"include_usage": True}})


def stream(recorder: Recorder) -> list[Any]:
    """The stream's data, as a client parses it."""
    rendered = ChatStream(recorder)
    blocks = b"".join(rendered.render(event) for event in recorder.log.read(-1))
    *chunks, done = SseParser().feed(blocks)
    assert done == b"[DONE]"
    return [orjson.loads(chunk) for chunk in chunks]


def answered(*calls: Call, usage: bool = False) -> Recorder:
    said = recorder(WITH_USAGE if usage else PLAIN)
    play(said, *calls)
    return said


def deltas(recorder: Recorder) -> list[Json]:
    return [chunk["choices"][0]["delta"] for chunk in stream(recorder)]


ROLE = {"role": "assistant", "content": ""}
STOP: list[Call] = [("finish", "stop"), ("complete", 2.0)]


def test_a_stream_chunk_by_chunk() -> None:
    said = answered(
        ("reasoning", "hm"),
        ("text", "hi"),
        ("refusal", "No."),
        ("tool_call", 0, "call_1", "f", ""),
        ("tool_call", 0, None, None, '{"x":'),
        ("tool_call", 0, None, None, "1}"),
        ("tool_call", 7, "call_2", "g", "{}"),
        ("finish", "tool_calls"),
        ("complete", 2.0),
    )
    chunks = stream(said)
    assert [(chunk["choices"][0]["delta"]) for chunk in chunks] == [
        ROLE,
        {"reasoning_content": "hm"},
        {"content": "hi"},
        {"refusal": "No."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "g", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 9 + ["tool_calls"]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        assert chunk == {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_800_000_000,
            "model": "m",
            "choices": [{"index": 0, "logprobs": None, **chunk["choices"][0]}],
        }


def test_the_role_comes_with_the_first_news_and_never_before() -> None:
    said = answered(("text", "hi"), ("text", "!"))
    rendered = ChatStream(said)
    blocks = [rendered.render(event) for event in said.log.read(-1)]
    types = [event.type for event in said.log.read(-1)]
    first = types.index("response.output_text.delta")
    assert blocks[:first] == [b""] * first, "the role chunk would count as the first token"
    assert b'"role":"assistant"' in blocks[first]
    assert b'"content":"hi"' in blocks[first]
    assert b"role" not in blocks[first + 1]


@pytest.mark.parametrize("name", ["reasoning_text", "reasoning"])
def test_reasoning_is_told_by_either_name_of_its_events(name: str) -> None:
    said = recorder(PLAIN, reasoning_events=name)
    play(said, ("reasoning", "hm"), *STOP)
    assert deltas(said) == [ROLE, {"reasoning_content": "hm"}, {}]


def test_an_empty_answer() -> None:
    said = answered(*STOP)
    assert deltas(said) == [ROLE, {}]
    assert completion(said)["choices"][0]["message"]["content"] == ""


def test_log_probabilities_come_with_their_text() -> None:
    told = {"token": "hi", "logprob": -1.5, "bytes": [104, 105], "top_logprobs": []}
    said = answered(("text", "hi", [told]), ("text", "!"), *STOP)
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in stream(said)]
    assert logprobs == [None, {"content": [told], "refusal": None}, None, None]
    assert completion(said)["choices"][0]["logprobs"] == {"content": [told], "refusal": None}


def test_usage_comes_last_and_only_if_it_was_asked_for() -> None:
    calls: list[Call] = [("text", "hi"), ("finish", "stop"), ("usage", Usage(5, 3)), STOP[1]]
    *rest, last = stream(answered(*calls, usage=True))
    assert (last["choices"], last["usage"]) == ([], Usage(5, 3).chat())
    assert [chunk["usage"] for chunk in rest] == [None] * 3
    assert all("usage" not in chunk for chunk in stream(answered(*calls)))
    # A whole answer always has it, if the model server told it.
    assert completion(answered(*calls))["usage"] == Usage(5, 3).chat()
    assert "usage" not in completion(answered(*STOP))
    assert len(stream(answered(("text", "hi"), *STOP, usage=True))) == 3


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ([("fail", HubError("upstream_error", "It broke."))], "upstream_error"),
        ([("complete", 2.0)], "upstream_incomplete_stream"),
        ([("cancel",)], "shutting_down"),
    ],
)
def test_an_answer_that_is_not_whole_ends_with_an_error(end: list[Call], code: str) -> None:
    assert [chunk["error"]["code"] for chunk in stream(answered(*end))] == [code]
    cut = answered(("text", "half"), *end)
    role, half, error = stream(cut)
    assert role["choices"][0]["delta"] == ROLE
    assert half["choices"][0]["delta"] == {"content": "half"}
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["code"] == code
    with pytest.raises(HubError) as raised:
        completion(cut)
    assert raised.value.code == code


def test_a_whole_answer() -> None:
    said = answered(
        ("reasoning", "hm"),
        ("text", "hi"),
        ("tool_call", 0, "call_1", "f", "{}"),
        ("text", " there"),
        ("refusal", "N"),
        ("refusal", "o."),
        ("finish", "stop"),
        ("complete", 2.0),
    )
    assert completion_id(said) == "chatcmpl-1"
    assert completion(said) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "hi there",
                    "refusal": "No.",
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
    }


# Invariants.


def folded(chunks: list[Any]) -> Json:
    """What a client has of a stream: the message, its logprobs, the reason and the usage."""
    message: Json = {}
    logprobs: list[Json] = []
    reasons: list[str] = []
    usage: Json | None = None
    for position, chunk in enumerate(chunks):
        ChatCompletionChunk.model_validate(chunk)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            assert not reasons, "news after the finish reason"
            delta = choice["delta"]
            assert ("role" in delta) == (position == 0)
            for name in ("content", "refusal", "reasoning_content"):
                if name in delta:
                    message[name] = message.get(name, "") + delta[name]
            for piece in delta.get("tool_calls", ()):
                calls = message.setdefault("tool_calls", [])
                if "id" in piece:
                    assert piece["index"] == len(calls)
                    calls.append({key: piece[key] for key in ("id", "type", "function")})
                else:
                    assert piece["index"] == len(calls) - 1
                    calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
            logprobs += (choice["logprobs"] or {}).get("content", [])
            if choice["finish_reason"]:
                reasons.append(choice["finish_reason"])
    return {"message": message, "logprobs": logprobs, "reasons": reasons, "usage": usage}


@no_deadline
@given(
    speeches(),
    st.sampled_from(REASONS),
    st.booleans(),
    st.lists(st.none() | st.integers(1, 2000), min_size=1, max_size=8),
)
def test_streamed_and_whole_answers_say_the_same(
    speech: list[Call], reason: str, usage: bool, pace: list[int | None]
) -> None:
    """Chunks that a client reads at any pace add up to the answer that is not streamed."""
    said = answered(usage=usage)
    rendered, cursor, blocks = ChatStream(said), -1, b""

    def read(budget: int | None) -> None:
        nonlocal cursor, blocks
        for event in said.log.read(cursor, merge=True, budget=budget):
            blocks += rendered.render(event)
            cursor = event.seq

    calls = [*speech, ("finish", reason), ("complete", 2.0)]
    for call, budget in zip(calls, cycle(pace), strict=False):
        play(said, call)
        if budget is not None:
            read(budget)
    read(None)
    *chunks, done = SseParser().feed(blocks)
    assert done == b"[DONE]"
    streamed = folded([orjson.loads(chunk) for chunk in chunks])

    whole = completion(said)
    ChatCompletion.model_validate(whole)
    choice = whole["choices"][0]
    message = {key: value for key, value in choice["message"].items() if value is not None}
    assert {"role": "assistant", "content": "", **streamed["message"]} == {"content": "", **message}
    assert streamed["logprobs"] == (choice["logprobs"] or {"content": []})["content"]
    assert streamed["reasons"] == [choice["finish_reason"]]
    assert streamed["usage"] == (whole.get("usage") if usage else None)


@no_deadline
@given(speeches(), ends)
def test_every_stream_ends(speech: list[Call], end: list[Call]) -> None:
    """However a response ends, its stream ends with one finish reason or one error, then done."""
    chunks = stream(answered(*speech, *end))
    last = [
        chunk
        for chunk in chunks
        if "error" in chunk or any(choice["finish_reason"] for choice in chunk["choices"])
    ]
    assert last == chunks[-1:]
