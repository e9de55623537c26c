"""Chat Completions streams: what servers send, what the sink is told."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import Generation, Usage
from hub.engines.chat_wire import MAX_TOOL_CALLS, ChunkReader, model_names, request_body
from hub.engines.stream_wire import MAX_TOKENS
from hub.errors import HubError
from tests.engines.recording import RecordingSink

DONE = b"[DONE]"


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> bytes:
    return orjson.dumps(
        {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}
    )


STOP = chunk({}, "stop")


def run(*payloads: bytes) -> list[tuple[Any, ...]]:
    """The sink's calls for a whole stream."""
    sink = RecordingSink()
    reader = ChunkReader(sink)
    for payload in payloads:
        reader.feed(payload)
    reader.end()
    return sink.calls


def code_of(*payloads: bytes) -> str:
    with pytest.raises(HubError) as raised:
        run(*payloads)
    return raised.value.code


# The request.


def test_the_least_request() -> None:
    generation = Generation(model="ignored", messages=({"role": "user", "content": "Hi"},))
    assert request_body(generation, "m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_field_of_a_request() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    generation = Generation(
        model="",
        messages=({"role": "assistant", "content": "Once"},),
        tools=(tool,),
        tool_choice="required",
        response_format={"type": "json_object"},
        max_tokens=0,
        stop=("\n",),
        top_logprobs=0,
        continues=True,
        extra={"temperature": 0.5, "stream": False, "model": "other", "max_tokens": 9},
    )
    assert request_body(generation, "m") == {
        "temperature": 0.5,
        "model": "m",
        "messages": [{"role": "assistant", "content": "Once"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 0,
        "stop": ["\n"],
        "tools": [tool],
        "tool_choice": "required",
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 0,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


# The stream.


def test_a_plain_stream() -> None:
    assert run(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        STOP,
        orjson.dumps(
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 2,
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 1},
                },
            }
        ),
        DONE,
    ) == [
        ("text", "Hel"),
        ("text", "lo"),
        ("usage", Usage(9, 2, 4, 1)),
        ("finish", "stop"),
    ]


@pytest.mark.parametrize("payload", [b"null", b"", b" ", b"{}", b'{"choices":null}', chunk(None)])
def test_what_says_nothing(payload: bytes) -> None:
    assert run(payload, chunk({"content": "x"}), payload, STOP) == [
        ("text", "x"),
        ("finish", "stop"),
    ]


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"role": "assistant", "content": "x"},
        {"role": None, "content": "x", "reasoning_content": None, "tool_calls": None},
        {"content": "x", "reasoning": "", "tool_calls": [], "refusal": None},
    ],
)
def test_spellings_of_a_token(delta: Any) -> None:
    assert run(chunk(delta), STOP) == [("text", "x"), ("finish", "stop")]


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "r"},
        {"reasoning": "r"},
        {"reasoning_content": "r", "reasoning": "r"},
        {"reasoning_content": "", "reasoning": "r"},
        {"reasoning_content": "r", "content": None},
    ],
)
def test_spellings_of_reasoning(delta: Any) -> None:
    assert run(chunk(delta), STOP) == [("reasoning", "r"), ("finish", "stop")]


def test_reasoning_comes_before_the_text_of_its_chunk() -> None:
    assert run(chunk({"content": "c", "reasoning": "r"}, "length")) == [
        ("reasoning", "r"),
        ("text", "c"),
        ("finish", "length"),
    ]


def test_a_refusal() -> None:
    assert run(chunk({"refusal": "No."}), STOP) == [("refusal", "No."), ("finish", "stop")]


def test_only_choice_0_counts() -> None:
    other = orjson.dumps({"choices": [{"index": 1, "delta": {"content": "y"}}]})
    both = orjson.dumps(
        {"choices": [{"index": 1, "delta": {"content": "y"}}, {"delta": {"content": "x"}}]}
    )
    assert run(other, both, STOP) == [("text", "x"), ("finish", "stop")]


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        *((one, one) for one in ("stop", "length", "tool_calls", "content_filter")),
        ("function_call", "tool_calls"),
        ("max_tokens", "length"),
        ("eos_token", "stop"),
    ],
)
def test_finish_reasons(reason: str, meaning: str) -> None:
    assert run(chunk({}, reason)) == [("finish", meaning)]


def test_the_first_finish_reason_counts() -> None:
    assert run(chunk({}, "length"), STOP, chunk({}, "")) == [("finish", "length")]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("abort", "upstream_incomplete_stream"),
        ("error", "upstream_error"),
        ("insufficient_system_resource", "upstream_overloaded"),
    ],
)
def test_finish_reasons_that_are_failures(reason: str, code: str) -> None:
    assert code_of(chunk({"content": "x"}), chunk({}, reason)) == code


# Tool calls.


def call(**fields: Any) -> bytes:
    return chunk({"tool_calls": [fields]})


def test_tool_calls_by_index() -> None:
    assert run(
        call(index=0, id="a", type="function", function={"name": "f", "arguments": ""}),
        call(index=0, function={"arguments": '{"x"'}),
        call(index=1, id="b", function={"name": "g", "arguments": "{"}),
        call(index=1, id=None, function={"name": None, "arguments": "}"}),
        call(index=0, function={"arguments": ":1}"}),
        call(index=0, function={"arguments": ""}),
        chunk({}, "tool_calls"),
    ) == [
        ("tool_call", 0, "a", "f", ""),
        ("tool_call", 0, None, None, '{"x"'),
        ("tool_call", 1, "b", "g", "{"),
        ("tool_call", 1, None, None, "}"),
        ("tool_call", 0, None, None, ":1}"),
        ("finish", "tool_calls"),
    ]


def test_id_and_name_are_told_once() -> None:
    piece = call(index=0, id="a", function={"name": "f", "arguments": "1"})
    assert run(piece, piece, STOP)[:2] == [
        ("tool_call", 0, "a", "f", "1"),
        ("tool_call", 0, None, None, "1"),
    ]


def test_tool_calls_without_an_index() -> None:
    f = {"function": {"name": "f", "arguments": "1"}}
    g = {"function": {"name": "g", "arguments": "2"}}
    rest = {"function": {"arguments": "3"}}
    opened = [("tool_call", 0, None, "f", "1"), ("tool_call", 1, None, "g", "2")]
    assert run(chunk({"tool_calls": [f, g]}), STOP)[:-1] == opened
    assert run(call(**f), call(**g), call(**rest), STOP)[:-1] == [
        *opened,
        ("tool_call", 1, None, None, "3"),
    ]


def test_tool_calls_without_an_index_but_with_ids() -> None:
    function = {"name": "f", "arguments": "1"}
    assert run(
        call(id="a", function=function),
        call(id="b", function=function),
        call(id="a", function=function),
        STOP,
    )[:-1] == [
        ("tool_call", 0, "a", "f", "1"),
        ("tool_call", 1, "b", "f", "1"),
        ("tool_call", 0, None, None, "1"),
    ]


def test_arguments_as_an_object() -> None:
    assert run(call(index=0, function={"name": "f", "arguments": {"x": "é"}}), STOP)[0] == (
        *("tool_call", 0, None, "f"),
        '{"x":"é"}',
    )


def test_the_legacy_function_call() -> None:
    assert run(
        chunk({"function_call": {"name": "f", "arguments": "{"}}),
        chunk({"function_call": {"arguments": "}"}}),
        chunk({}, "function_call"),
    ) == [
        ("tool_call", 0, None, "f", "{"),
        ("tool_call", 0, None, None, "}"),
        ("finish", "tool_calls"),
    ]


# Log probabilities.


def test_logprobs_come_with_their_text() -> None:
    top = {"token": "y", "logprob": -2, "bytes": None}
    sent = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": [top], "id": 7}
    kept = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": [top]}
    assert run(chunk({"content": "x"}, logprobs={"content": [sent]}), STOP)[0] == (
        *("text", "x"),
        [kept],
    )


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_no_logprobs(logprobs: Any) -> None:
    assert run(chunk({"content": "x"}, logprobs=logprobs), STOP)[0] == ("text", "x")


def test_logprobs_without_text_are_dropped() -> None:
    entry = {"token": "x", "logprob": -0.5}
    assert run(chunk({"content": ""}, logprobs={"content": [entry]}), STOP) == [("finish", "stop")]


# Usage.


def test_the_last_usage_counts() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": None, "prompt_tokens_details": None}
    first = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 5}})
    last = orjson.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage})
    null = orjson.dumps({"choices": [], "usage": None})
    assert run(first, last, null) == [("usage", Usage(1)), ("finish", "stop")]


# Whole messages.


def test_a_whole_message() -> None:
    message = {
        "role": "assistant",
        "content": "c",
        "reasoning_content": "r",
        "tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": "1"}},
            {"id": "b", "function": {"name": "g", "arguments": "2"}},
        ],
    }
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    assert run(orjson.dumps(body)) == [
        ("reasoning", "r"),
        ("text", "c"),
        ("tool_call", 0, "a", "f", "1"),
        ("tool_call", 1, "b", "g", "2"),
        ("usage", Usage(1, 2)),
        ("finish", "tool_calls"),
    ]


def test_a_whole_message_without_a_reason_is_whole() -> None:
    assert run(b'{"choices":[{"message":{"content":"c"}}]}') == [("text", "c"), ("finish", "stop")]


# The end.


def test_done_and_finished() -> None:
    reader = ChunkReader(RecordingSink())
    assert (reader.done, reader.finished) == (False, False)
    reader.feed(STOP)
    assert (reader.done, reader.finished) == (False, True)
    reader.feed(b" [DONE] ")
    assert (reader.done, reader.finished) == (True, True)
    reader.feed(b"whatever")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (chunk({"content": "x"}), "stop"),
        (chunk({"reasoning": "x"}), "stop"),
        (chunk({"refusal": "x"}), "stop"),
        (call(function={"name": "f"}), "tool_calls"),
    ],
)
def test_done_after_something_is_an_end(payload: bytes, reason: str) -> None:
    assert run(payload, DONE)[-1] == ("finish", reason)


@pytest.mark.parametrize("payloads", [[], [DONE], [chunk({"content": "x"})], [b"null", DONE]])
def test_ends_that_are_none(payloads: list[bytes]) -> None:
    assert code_of(*payloads) == "upstream_incomplete_stream"


def test_an_error_event() -> None:
    failed = b'{"error":{"message":"boom","type":"server_error","code":500}}'
    assert code_of(chunk({"content": "x"}), failed) == "upstream_error"
    assert code_of(b'{"object":"error","message":"boom"}') == "upstream_error"
    assert code_of(b'{"error":"slow down","choices":[{}]}') == "upstream_error"


# Lies.

DEEP = b'{"a":' * 400 + b"1" + b"}" * 400


@pytest.mark.parametrize(
    "payload",
    [
        *(b"{", b"[DONE", b"\xff", b'"text"', b"[]", b"7", b"true", b"[" * 2000),
        *(
            b'{"choices":{"a":1}}',
            b'{"choices":[7]}',
            b'{"choices":[{"index":"0"}]}',
            b'{"choices":"x"}',
            b'{"usage":7}',
        ),
        *(chunk(7), chunk([]), chunk(""), chunk("x"), chunk({}, 7), chunk({}, ["stop"])),
        *(chunk({"content": 7}), chunk({"content": ["x"]}), chunk({"content": True})),
        *(chunk({"reasoning": {"x": 1}}), chunk({"refusal": 7}), chunk({"function_call": "f"})),
        *(chunk({"tool_calls": {"a": 1}}), chunk({"tool_calls": [None]}), call(), call(index=0)),
        *(call(function="f"), call(function={"name": 7}), call(id=7, function={"name": "f"})),
        call(function={"name": "f", "arguments": [1]}),
        call(function={"name": "f", "arguments": True}),
        *(call(index=i, function={"name": "f"}) for i in (-1, "0", 0.0, True, MAX_TOOL_CALLS)),
        b'{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":%b}}]}}]}' % DEEP,
        *(
            chunk({"content": "x"}, logprobs=logprobs)
            for logprobs in (
                *(7, [1], {"content": {"a": 1}}, {"content": [7]}, {"content": [{"token": 1}]}),
                {"content": [{"token": "x"}]},
                {"content": [{"token": "x", "logprob": True}]},
                {"content": [{"token": "x", "logprob": 0, "bytes": "x"}]},
                {"content": [{"token": "x", "logprob": 0, "bytes": [256]}]},
                {"content": [{"token": "x", "logprob": 0, "top_logprobs": [7]}]},
            )
        ),
        b'{"choices":[{"delta":{"content":"x"},"logprobs":{"content":[{"token":"x","logprob":1e999}]}}]}',
        b'{"choices":[{"message":7}]}',
        *(
            orjson.dumps({"usage": usage})
            for usage in (
                *({"prompt_tokens": "1"}, {"prompt_tokens": -1}, {"prompt_tokens": 1.5}),
                *({"completion_tokens": True}, {"completion_tokens": MAX_TOKENS}),
                *({"prompt_tokens_details": 7}, {"prompt_tokens_details": {"cached_tokens": "1"}}),
            )
        ),
    ],
)
def test_lies_are_typed_errors(payload: bytes) -> None:
    assert code_of(payload, STOP) == "upstream_protocol_error"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def either(*values: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, sometimes anything."""
    right = st.sampled_from(values) if values else st.fixed_dictionaries({}, optional=fields)
    return st.one_of(right, right, right, json_values)


functions = either(name=either("f", ""), arguments=either("{", {"a": 1}))
calls = either(index=either(0, 1, None), id=either("a", "b", None), function=functions)
tokens = either(token=either("x"), logprob=either(-1, -0.5), bytes=either([1], None))
deltas = either(
    role=either("assistant"),
    content=either("x", "", None),
    reasoning=either("r", None),
    reasoning_content=either("r", None),
    refusal=either("no", None),
    tool_calls=st.lists(calls, max_size=2),
    function_call=functions,
)
choices = either(
    index=either(0, 0, 1, None),
    delta=deltas,
    message=deltas,
    logprobs=either(content=st.lists(tokens, max_size=2)),
    finish_reason=either("stop", "abort", None),
)
counts = either(0, 5, None)
chunks = either(
    choices=st.lists(choices, max_size=2),
    usage=either(prompt_tokens=counts, prompt_tokens_details=either(cached_tokens=counts)),
    error=either(None, "boom"),
    object=either("chat.completion.chunk", "error"),
)


def fits_orjson(value: Any) -> bytes | None:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None


payloads = chunks.map(fits_orjson).filter(lambda one: one is not None) | st.just(DONE)


@given(st.lists(payloads | st.binary(max_size=8), max_size=6))
def test_any_stream_gives_calls_or_a_typed_error(stream: list[bytes]) -> None:
    sink = RecordingSink()
    reader = ChunkReader(sink)
    failed = False
    try:
        for payload in stream:
            reader.feed(payload)
        reader.end()
    except HubError:
        failed = True
    assert failed is not sink.ended
    # Whatever was passed on can be written again.
    for name, *arguments in sink.calls:
        if name != "usage":
            orjson.dumps(arguments)


# The list of models.


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"object":"list","data":[{"id":"a","object":"model"},{"id":"b"}]}', ["a", "b"]),
        (b'{"models":[{"name":"a"}],"data":[{"id":"a"}]}', ["a"]),  # llama.cpp
        (b'{"object":"list","data":null}', []),  # Ollama without a model
        (b'[{"id":"a"}]', ["a"]),  # Together
        (b"{}", []),
        (b'{"data":[{"id":"a"},{"id":"a"},{"id":""}]}', ["a"]),
        # LM Studio
        (b'{"data":[{"id":"text-embedding-nomic"},{"id":"q"}]}', ["q", "text-embedding-nomic"]),
    ],
)
def test_model_names(body: bytes, names: list[str]) -> None:
    assert model_names(body) == names


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"7", b"null", b'{"data":7}', b'{"data":["a"]}', b'{"data":[{}]}']
)
def test_lists_that_are_none(body: bytes) -> None:
    with pytest.raises(HubError) as raised:
        model_names(body)
    assert raised.value.code == "upstream_protocol_error"
