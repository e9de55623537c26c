"""Completions streams: what servers send, what the sink is told."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import Generation, Usage
from hub.engines.text_wire import TextReader, text_body
from hub.errors import HubError
from tests.engines.recording import RecordingSink

DONE = b"[DONE]"


def chunk(text: Any = None, finish: Any = None, **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more})


STOP = chunk("", "stop")


def run(*payloads: bytes) -> list[tuple[Any, ...]]:
    """The sink's calls for a whole stream."""
    sink = RecordingSink()
    reader = TextReader(sink)
    for payload in payloads:
        reader.feed(payload)
    reader.end()
    return sink.calls


def code_of(*payloads: bytes) -> str:
    with pytest.raises(HubError) as raised:
        run(*payloads)
    return raised.value.code


def test_the_request() -> None:
    generation = Generation(
        model="ignored",
        messages=(),
        prompt="Once",
        max_tokens=5,
        stop=("\n",),
        extra={"temperature": 0.5, "prompt": "other"},
    )
    assert text_body(generation, "m") == {
        "temperature": 0.5,
        "model": "m",
        "prompt": "Once",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "stop": ["\n"],
    }
    assert text_body(Generation("", (), prompt=""), "m")["prompt"] == ""


def test_vllms_stream() -> None:
    """The usage in a chunk of its own."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    assert run(
        chunk("Hel", usage=None),
        chunk("lo", usage=None),
        chunk("", "length", usage=None),
        orjson.dumps({"choices": [], "usage": usage}),
        DONE,
    ) == [("text", "Hel"), ("text", "lo"), ("usage", Usage(9, 2)), ("finish", "length")]


def test_llama_cpps_stream() -> None:
    """The usage in the last chunk, and what was cached in its timings."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    timings = {"cache_n": 4, "prompt_n": 5, "prompt_ms": 1.5, "predicted_n": 1}
    assert run(
        b"null",
        chunk("x"),
        chunk("", "stop", usage=usage, timings=timings),
        DONE,
    ) == [("text", "x"), ("usage", Usage(9, 1, 4)), ("finish", "stop")]


def test_a_server_that_ignores_stream() -> None:
    assert run(chunk("Hello", "stop", usage={"prompt_tokens": 1, "completion_tokens": 2})) == [
        ("text", "Hello"),
        ("usage", Usage(1, 2)),
        ("finish", "stop"),
    ]


@pytest.mark.parametrize("payload", [b"null", b"", b"{}", b'{"choices":null}', chunk(None)])
def test_what_says_nothing(payload: bytes) -> None:
    assert run(payload, chunk("x"), payload, STOP) == [("text", "x"), ("finish", "stop")]


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("max_tokens", "length"),
        ("eos_token", "stop"),
    ],
)
def test_finish_reasons(reason: str, meaning: str) -> None:
    assert run(chunk("", reason)) == [("finish", meaning)]


def test_the_first_finish_reason_counts() -> None:
    assert run(chunk("", "length"), STOP) == [("finish", "length")]


@pytest.mark.parametrize(
    ("reason", "code"), [("abort", "upstream_incomplete_stream"), ("error", "upstream_error")]
)
def test_finish_reasons_that_are_failures(reason: str, code: str) -> None:
    assert code_of(chunk("x"), chunk("", reason)) == code


def test_done_after_something_is_an_end() -> None:
    assert run(chunk("x"), DONE) == [("text", "x"), ("finish", "stop")]


@pytest.mark.parametrize("payloads", [[], [DONE], [chunk("x")], [b"null", DONE]])
def test_ends_that_are_none(payloads: list[bytes]) -> None:
    assert code_of(*payloads) == "upstream_incomplete_stream"


@pytest.mark.parametrize(
    "payload",
    [
        *(chunk(7), chunk(["x"]), chunk({"a": 1}), chunk(True), chunk("", 7), chunk("", ["stop"])),
        *(b"{", b"[]", b'{"choices":{"a":1}}', b'{"choices":[7]}', b'{"usage":7}'),
    ],
)
def test_lies_are_typed_errors(payload: bytes) -> None:
    assert code_of(payload, STOP) == "upstream_protocol_error"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def mostly(*values: Any) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, sometimes anything."""
    right = st.sampled_from(values)
    return st.one_of(right, right, right, json_values)


choices = st.fixed_dictionaries(
    {},
    optional={
        "index": mostly(0, 0, 1, None),
        "text": mostly("x", "y", "", None),
        "finish_reason": mostly("stop", "abort", None, None),
    },
)
chunks = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices | json_values, max_size=2) | json_values,
        "usage": mostly({"prompt_tokens": 3}, {"completion_tokens": -1}, None),
        "timings": mostly({"cache_n": 1}),
        "error": mostly(None, None, "boom"),
        "object": mostly("text_completion", "error"),
    },
)
payloads = chunks.map(orjson.dumps) | json_values.map(orjson.dumps) | st.just(DONE)


@given(st.lists(payloads | st.binary(max_size=8), max_size=6))
def test_any_stream_gives_calls_or_a_typed_error(stream: list[bytes]) -> None:
    sink = RecordingSink()
    reader = TextReader(sink)
    failed = False
    try:
        for payload in stream:
            reader.feed(payload)
        reader.end()
    except HubError:
        failed = True
    assert failed is not sink.ended
