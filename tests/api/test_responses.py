"""Creates of the Responses API: what is honoured, echoed, refused and ignored."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.items import to_messages
from hub.api.requests import MAX_DEPTH, Generation, Json, Request, Usage
from hub.api.responses import parse_create, response_object
from hub.errors import HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.openapi import REQUIRED_OF_RESPONSE, check_response
from tests.api.speech import no_deadline

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
BARE = {"type": "function", "name": "bare"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

FULL: Json = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ],
    "instructions": "Be brief.",
    "previous_response_id": "resp_0",
    "max_output_tokens": 9,
    "max_tool_calls": 2,
    "temperature": 0.5,
    "top_p": 0.25,
    "presence_penalty": -1,
    "frequency_penalty": 1,
    "tools": [TOOL, BARE],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [BARE]},
    "parallel_tool_calls": False,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "n",
            "schema": SCHEMA,
            "strict": True,
            "description": "D.",
        },
        "verbosity": "low",
    },
    "reasoning": {"effort": "low", "summary": "auto"},
    "stream": True,
    "background": False,
    "store": True,
    "generate": True,
    "metadata": {"k": "v"},
    "top_logprobs": 3,
    "include": ["message.output_text.logprobs"],
    "truncation": "disabled",
    "stream_options": {"include_obfuscation": True},
    "service_tier": "flex",
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "prompt_cache_retention": "24h",
    "user": "u",
    "conversation": None,
    "prompt": None,
    "context_management": None,
}


def render(request: Request, **changes: Any) -> Json:
    given: Json = {"status": "completed", "created_at": 1, "completed_at": 2, "output": []}
    return response_object(request, **{"id": "resp_1", "model": "m", **given, **changes})


def understood(body: Json) -> Request:
    """What a body comes to, without the body itself, which is kept as it came."""
    request = parse_create(body)
    assert request.body == body
    return replace(request, body={})


def refused(body: Any) -> HubError:
    with pytest.raises(HubError) as raised:
        parse_create(body)
    return raised.value


# What reaches the engine.

CHAT_TOOL = {
    "type": "function",
    "function": {name: TOOL[name] for name in ("name", "description", "parameters", "strict")},
}
CHAT_BARE = {"type": "function", "function": {"name": "bare"}}


@pytest.mark.parametrize(
    ("body", "generation"),
    [
        ({}, {}),
        ({"model": "m"}, {"model": "m"}),
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"temperature": 0}, {"extra": {"temperature": 0}}),
        ({"top_p": 0.5, "presence_penalty": 2}, {"extra": {"top_p": 0.5, "presence_penalty": 2}}),
        ({"frequency_penalty": -2.0}, {"extra": {"frequency_penalty": -2.0}}),
        ({"reasoning": {"effort": "high"}}, {"extra": {"reasoning_effort": "high"}}),
        ({"reasoning": {"summary": "auto"}}, {}),
        ({"text": {"verbosity": "high"}}, {"extra": {"verbosity": "high"}}),
        # Log probabilities.
        ({"top_logprobs": 5}, {"top_logprobs": 5}),
        ({"top_logprobs": 0}, {}),
        ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 0}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
        # Text formats.
        ({"text": {"format": {"type": "text"}}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": False},
                }
            },
        ),
        (
            {"text": FULL["text"]},
            {
                "extra": {"verbosity": "low"},
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "n",
                        "schema": SCHEMA,
                        "strict": True,
                        "description": "D.",
                    },
                },
            },
        ),
        # Tools.
        ({"tools": [TOOL, BARE]}, {"tools": [CHAT_TOOL, CHAT_BARE]}),
        ({"tools": [{**BARE, "strict": None}]}, {"tools": [CHAT_BARE]}),
        ({"tools": [BARE], "tool_choice": "auto"}, {"tools": [CHAT_BARE], "tool_choice": "auto"}),
        ({"tools": [BARE], "tool_choice": "none"}, {"tools": [CHAT_BARE], "tool_choice": "none"}),
        (
            {"tools": [BARE], "tool_choice": "required"},
            {"tools": [CHAT_BARE], "tool_choice": "required"},
        ),
        (
            {"tools": [TOOL, BARE], "tool_choice": {"type": "function", "name": "bare"}},
            {
                "tools": [CHAT_TOOL, CHAT_BARE],
                "tool_choice": {"type": "function", "function": {"name": "bare"}},
            },
        ),
        (
            {
                "tools": [TOOL, BARE],
                "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [BARE]},
            },
            {"tools": [CHAT_BARE], "tool_choice": "required"},
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": []}}, {}),
        # A model server refuses a choice without tools.
        ({"tools": [], "tool_choice": "required"}, {}),
        (
            {"tools": [BARE], "parallel_tool_calls": False},
            {"tools": [CHAT_BARE], "extra": {"parallel_tool_calls": False}},
        ),
        ({"parallel_tool_calls": False}, {}),
    ],
)
def test_what_the_engine_is_asked(body: Json, generation: Json) -> None:
    nothing = Generation(model="", messages=(), tools=[])
    assert parse_create(body).generation == replace(nothing, **generation)


# What hub itself goes by.


def test_defaults() -> None:
    request = parse_create({"input": "Hi"})
    assert (request.stream, request.background, request.store) == (False, False, True)
    assert request.generate
    assert (request.instructions, request.previous_response_id) == (None, None)
    assert request.items == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    ]


def test_what_hub_goes_by() -> None:
    request = parse_create(FULL)
    assert request.model == request.generation.model == "m"
    assert request.stream
    assert request.instructions == "Be brief."
    assert request.previous_response_id == "resp_0"
    assert [item["type"] for item in request.items] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    assert not parse_create({"generate": False}).generate
    assert not parse_create({"store": False}).store
    assert parse_create({"background": True}).background


# What the response repeats.


def test_what_is_echoed_without_being_asked() -> None:
    assert dict(parse_create({}).echo) == {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "metadata": {},
        "user": None,
    }


@pytest.mark.parametrize(
    ("body", "echo"),
    [
        *(
            ({name: FULL[name]}, {name: FULL[name]})
            for name in (
                "instructions",
                "previous_response_id",
                "max_output_tokens",
                "max_tool_calls",
                "temperature",
                "top_p",
                "presence_penalty",
                "frequency_penalty",
                "parallel_tool_calls",
                "text",
                "reasoning",
                "metadata",
                "top_logprobs",
                "safety_identifier",
                "prompt_cache_key",
                "prompt_cache_retention",
                "user",
            )
        ),
        ({"store": False}, {"store": False}),
        ({"background": True}, {"background": True}),
        ({"truncation": "auto"}, {"truncation": "auto"}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"service_tier": "priority"}, {"service_tier": "default"}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"text": {"format": {"type": "json_object"}}},) * 2,
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {},
                        "strict": False,
                        "description": None,
                    }
                }
            },
        ),
        (
            {"tools": [TOOL, BARE]},
            {"tools": [TOOL, {**BARE, "description": None, "parameters": None, "strict": None}]},
        ),
        (
            {"tools": [BARE], "tool_choice": {"type": "function", "name": "bare", "more": 1}},
            {"tool_choice": {"type": "function", "name": "bare"}},
        ),
        (
            {"tools": [TOOL, BARE], "tool_choice": FULL["tool_choice"]},
            {"tool_choice": FULL["tool_choice"]},
        ),
    ],
)
def test_what_is_echoed(body: Json, echo: Json) -> None:
    told = parse_create(body).echo
    assert {name: told[name] for name in echo} == echo


# What is refused.


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        # What hub does not have.
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
        ({"context_management": []}, "unsupported_parameter", "context_management"),
        *(
            ({"tools": [BARE, {"type": kind}]}, "unsupported_value", "tools[1].type")
            for kind in ("web_search", "file_search", "mcp", "code_interpreter", "image_generation")
        ),
        ({"background": True, "store": False}, "invalid_value", "background"),
        # Types and ranges.
        ({"model": 5}, "invalid_type", "model"),
        ({"input": 5}, "invalid_type", "input"),
        ({"instructions": []}, "invalid_type", "instructions"),
        ({"previous_response_id": 5}, "invalid_type", "previous_response_id"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "invalid_type", "max_output_tokens"),
        ({"max_tool_calls": 0}, "invalid_value", "max_tool_calls"),
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"top_p": -0.1}, "invalid_value", "top_p"),
        ({"presence_penalty": 3}, "invalid_value", "presence_penalty"),
        ({"frequency_penalty": "1"}, "invalid_type", "frequency_penalty"),
        ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"include": "all"}, "invalid_type", "include"),
        ({"truncation": "middle"}, "invalid_value", "truncation"),
        ({"stream": "true"}, "invalid_type", "stream"),
        ({"store": 1}, "invalid_type", "store"),
        ({"background": "no"}, "invalid_type", "background"),
        ({"generate": 0}, "invalid_type", "generate"),
        ({"parallel_tool_calls": 1}, "invalid_type", "parallel_tool_calls"),
        ({"reasoning": "low"}, "invalid_type", "reasoning"),
        ({"reasoning": {"effort": "huge"}}, "invalid_value", "reasoning.effort"),
        ({"reasoning": {"summary": True}}, "invalid_type", "reasoning.summary"),
        ({"user": 5}, "invalid_type", "user"),
        ({"prompt_cache_key": {}}, "invalid_type", "prompt_cache_key"),
        ({"safety_identifier": 1}, "invalid_type", "safety_identifier"),
        # Metadata.
        ({"metadata": []}, "invalid_type", "metadata"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_value", "metadata"),
        ({"metadata": {"k" * 65: ""}}, "invalid_value", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata"),
        # Text formats.
        ({"text": "json"}, "invalid_type", "text"),
        ({"text": {"verbosity": "none"}}, "invalid_value", "text.verbosity"),
        ({"text": {"format": "json_object"}}, "invalid_type", "text.format"),
        ({"text": {"format": {}}}, "missing_required_parameter", "text.format.type"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "schema": {}}}},
            "missing_required_parameter",
            "text.format.name",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "missing_required_parameter",
            "text.format.schema",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": 1}}},
            "invalid_type",
            "text.format.strict",
        ),
        # Tools.
        ({"tools": {}}, "invalid_type", "tools"),
        ({"tools": [5]}, "invalid_type", "tools[0]"),
        ({"tools": [{}]}, "missing_required_parameter", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
        ({"tools": [{**BARE, "name": ""}]}, "missing_required_parameter", "tools[0].name"),
        ({"tools": [{**BARE, "parameters": []}]}, "invalid_type", "tools[0].parameters"),
        ({"tools": [{**BARE, "description": 5}]}, "invalid_type", "tools[0].description"),
        ({"tools": [{**BARE, "strict": "no"}]}, "invalid_type", "tools[0].strict"),
        # Choices.
        ({"tool_choice": 5}, "invalid_type", "tool_choice"),
        ({"tool_choice": "any"}, "invalid_value", "tool_choice"),
        ({"tool_choice": {}}, "missing_required_parameter", "tool_choice.type"),
        ({"tool_choice": {"type": "mcp"}}, "invalid_value", "tool_choice.type"),
        (
            {"tool_choice": {"type": "function"}},
            "missing_required_parameter",
            "tool_choice.name",
        ),
        (
            {"tools": [BARE], "tool_choice": {"type": "function", "name": "f"}},
            "invalid_value",
            "tool_choice.name",
        ),
        (
            {"tools": [BARE], "tool_choice": {"type": "allowed_tools", "mode": "some"}},
            "invalid_value",
            "tool_choice.mode",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": ["bare"]}},
            "invalid_type",
            "tool_choice.tools[0]",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}},
            "invalid_value",
            "tool_choice.tools[0].type",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"name": "bare"}]}},
            "missing_required_parameter",
            "tool_choice.tools[0].type",
        ),
        (
            # The word that Python has for what is missing is a name like any other.
            {
                "tools": [{"type": "function", "name": "None"}],
                "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function"}]},
            },
            "missing_required_parameter",
            "tool_choice.tools[0].name",
        ),
        (
            {"tools": [BARE], "tool_choice": {"type": "allowed_tools", "tools": [BARE, TOOL]}},
            "invalid_value",
            "tool_choice.tools[1].name",
        ),
    ],
)
def test_what_is_refused(body: Json, code: str, param: str) -> None:
    error = refused(body)
    assert (error.code, error.param, error.status) == (code, param, 400)
    assert f"'{param}'" in error.message or code == "unsupported_value"


@pytest.mark.parametrize("body", [None, [], "Hi", 5])
def test_the_body_is_an_object(body: Any) -> None:
    assert refused(body).code == "invalid_type"


def test_a_body_that_nests_too_deeply_is_refused() -> None:
    deep: Any = {}
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    assert refused({"tools": [{**BARE, "parameters": deep}]}).code == "invalid_value"


def test_limits_are_inclusive() -> None:
    metadata = {f"{n:064}": "v" * 512 for n in range(16)}
    body = {"metadata": metadata, "temperature": 2, "top_p": 0, "top_logprobs": 20}
    echo = parse_create({**body, "max_output_tokens": 1}).echo
    assert {name: echo[name] for name in body} == body


# Invariants.


@pytest.mark.parametrize("name", FULL)
def test_null_is_absent(name: str) -> None:
    # A choice among tools that are not there is an error of its own.
    body = FULL if name != "tools" else changed(FULL, ("tool_choice",), None)
    without = {key: value for key, value in body.items() if key != name}
    assert understood({**body, name: None}) == understood(without)


@pytest.mark.parametrize(
    "path",
    [
        ("tools", 0, "strict"),
        ("tools", 0, "description"),
        ("tools", 0, "parameters"),
        ("tool_choice", "mode"),
        ("text", "format"),
        ("text", "format", "strict"),
        ("text", "format", "description"),
        ("text", "verbosity"),
        ("reasoning", "effort"),
        ("reasoning", "summary"),
    ],
)
def test_null_is_absent_inside(path: Path) -> None:
    null = changed(FULL, path, None)
    absent = changed(FULL, path, None)
    place = absent
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    assert understood(null) == understood(absent)


@settings(no_deadline, max_examples=300)
@given(st.sampled_from(list(paths(FULL))), values)
def test_any_json_at_any_field_is_a_request_or_a_typed_error(path: Path, value: Any) -> None:
    """A create is a request that can be run and written, or an error that names its field."""
    request = attempt(parse_create, changed(FULL, path, value))
    if isinstance(request, HubError):
        assert request.status == 400
        assert request.param is not None
        assert request.param.split(".")[0].split("[")[0] in FULL
    else:
        check_response(render(request))
        assert orjson.loads(orjson.dumps(render(request)))["tools"] == request.echo["tools"]
        assert orjson.dumps(to_messages(request.items, request.instructions))
        assert orjson.dumps({**request.generation.extra, "tools": request.generation.tools})


@no_deadline
@given(st.dictionaries(st.sampled_from(sorted(FULL)), values))
def test_any_fields_are_a_request_or_a_typed_error(body: Json) -> None:
    """Any known fields with any JSON are a request or an error that names its field."""
    request = attempt(parse_create, body)
    if isinstance(request, HubError):
        assert request.status == 400
        assert request.param is not None
    else:
        check_response(render(request))


@no_deadline
@given(st.text().filter(lambda name: name not in FULL), values)
def test_unknown_fields_are_ignored(name: str, value: Any) -> None:
    """A field that hub does not know changes nothing, wherever it is."""
    more = {
        **{name: value},
        **FULL,
        "text": {**{name: value}, **FULL["text"]},
        "reasoning": {**{name: value}, **FULL["reasoning"]},
        "tools": [{**{name: value}, **tool} for tool in FULL["tools"]],
        "tool_choice": {**{name: value}, **FULL["tool_choice"]},
    }
    assert understood(more) == understood(FULL)


# The response object.


def test_a_response_has_every_key() -> None:
    response = render(parse_create({"input": "Hi"}), usage=Usage(3, 4))
    assert set(response) >= REQUIRED_OF_RESPONSE
    check_response(response)
    assert (response["object"], response["usage"]["total_tokens"]) == ("response", 7)
    for null in ("error", "incomplete_details", "instructions", "previous_response_id"):
        assert response[null] is None


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled", "incomplete"])
def test_only_a_completed_response_has_a_completion_time(status: str) -> None:
    request = parse_create({"input": "Hi"})
    assert render(request, status=status)["completed_at"] is None
    assert render(request)["completed_at"] == 2


def test_why_a_response_is_not_whole() -> None:
    request = parse_create({"input": "Hi"})
    failed = render(request, status="failed", error=HubError("server_error", "Oh.", param="x"))
    assert failed["error"] == {"code": "server_error", "message": "Oh."}
    check_response(failed)
    cut = render(request, status="incomplete", incomplete="max_output_tokens")
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
    check_response(cut)


def test_tool_calling_of_the_compliance_suite() -> None:
    request = parse_create(
        {
            "model": "m",
            "input": [{"type": "message", "role": "user", "content": "The weather in Paris?"}],
            "tools": [{name: TOOL[name] for name in ("type", "name", "description", "parameters")}],
        }
    )
    check_response(render(request))
    assert request.generation.tool_choice is None
    function = {name: TOOL[name] for name in ("name", "description", "parameters")}
    assert request.generation.tools == [{"type": "function", "function": function}]
