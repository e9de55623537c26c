"""Typed reading of a request, and the pieces that every dialect shares."""

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest

from hub.api.chat import parse_chat
from hub.api.completions import parse_completions
from hub.api.infill import parse_infill
from hub.api.prompt import completed
from hub.api.requests import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    Fields,
    Usage,
    check_containers,
    check_depth,
    estimate_tokens,
    json_type,
    memory_of,
    sampling,
)
from hub.api.responses import parse_create
from hub.errors import HubError

READERS: list[tuple[str, Callable[[Fields], Any], list[Any], list[Any]]] = [
    ("a string", lambda f: f.text("x"), ["", "a"], [1, True, [], {}]),
    ("a boolean", lambda f: f.flag("x", True), [True, False], [0, 1, "true", [], {}]),
    ("an integer", lambda f: f.integer("x", 1), [1, 2**64 - 1], [1.0, True, "1", [], {}]),
    ("a number", lambda f: f.number("x", -1, 1), [-1, 0.5, 1], [True, "1", [], {}]),
    ("an object", lambda f: f.object("x"), [{}, {"a": 1}], [1, "{}", [], False]),
    ("an array", lambda f: f.array("x"), [[], [1]], [1, "[]", {}, False]),
    ("an array", lambda f: f.objects("x"), [[], [{}, {"a": 1}]], [1, "[]", {}, False]),
    ("a string", lambda f: f.choice("x", ("a", "b")), ["a", "b"], [1, [], {}]),
]


def refused(read: Callable[[], Any]) -> HubError:
    with pytest.raises(HubError) as raised:
        read()
    return raised.value


@pytest.mark.parametrize(("kind", "read", "right", "wrong"), READERS)
def test_types(
    kind: str, read: Callable[[Fields], Any], right: list[Any], wrong: list[Any]
) -> None:
    for value in right:
        assert read(Fields({"x": value})) == value
    for value in wrong:
        error = refused(partial(read, Fields({"x": value}, "outer.")))
        assert (error.code, error.param) == ("invalid_type", "outer.x")
        assert error.message == f"'outer.x' must be {kind}, but it is {json_type(value)}."
    assert read(Fields({"x": None})) == read(Fields({})), "null counts as absent"


def test_what_is_absent() -> None:
    fields = Fields({})
    assert fields.raw("x") is None
    assert fields.text("x") is None
    assert fields.flag("x", True) is True
    assert fields.flag("x", False) is False
    assert fields.integer("x", 1) is None
    assert fields.number("x", 0, 1) is None
    assert fields.object("x") is None
    assert fields.array("x") is None
    assert fields.objects("x") == []
    assert fields.choice("x", ("a",)) is None


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (lambda f: f.integer("x", 1), 0, "'x' must be at least 1, but it is 0."),
        (lambda f: f.integer("x", 1, 5), 0, "'x' must be between 1 and 5, but it is 0."),
        (lambda f: f.integer("x", 1, 5), 6, "'x' must be between 1 and 5, but it is 6."),
        (
            lambda f: f.number("x", 0.0, 2.0),
            -0.1,
            "'x' must be between 0.0 and 2.0, but it is -0.1.",
        ),
        (lambda f: f.number("x", 0.0, 2.0), 3, "'x' must be between 0.0 and 2.0, but it is 3."),
        (lambda f: f.choice("x", ("a", "b")), "c", "'x' must be one of 'a', 'b', but it is 'c'."),
        (
            lambda f: f.choice("x", ("a",)),
            "c" * 99,
            f"'x' must be one of 'a', but it is '{'c' * 64}'.",
        ),
    ],
)
def test_ranges(read: Callable[[Fields], Any], value: Any, message: str) -> None:
    error = refused(lambda: read(Fields({"x": value})))
    assert (error.code, error.param, error.message) == ("invalid_value", "x", message)


def test_an_object_of_an_array_is_named_by_its_place() -> None:
    error = refused(lambda: Fields({"x": [{}, 1]}, "outer.").objects("x"))
    assert (error.code, error.param) == ("invalid_type", "outer.x[1]")


def test_what_is_missing_is_named() -> None:
    error = Fields({}, "outer.").missing("x")
    assert (error.code, error.param) == ("missing_required_parameter", "outer.x")
    assert error.message == "'outer.x' is required."


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "an integer"),
        (1.0, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_json_type(value: Any, name: str) -> None:
    assert json_type(value) == name


def test_sampling_gives_what_was_given() -> None:
    assert sampling(Fields({"temperature": None, "seed": 1})) == {}
    given = {"temperature": 2, "top_p": 0, "presence_penalty": -2.0, "frequency_penalty": 2}
    assert sampling(Fields(given)) == given
    for name, value in [("temperature", 2.1), ("top_p", 1.1), ("presence_penalty", -2.1)]:
        assert refused(partial(sampling, Fields({name: value}))).param == name


# Depth.


def nested(depth: int, *, array: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if array else {"a": value}
    return value


@pytest.mark.parametrize("array", [True, False])
def test_depth(array: bool) -> None:
    check_depth(nested(MAX_DEPTH, array=array))
    error = refused(lambda: check_depth(nested(MAX_DEPTH + 1, array=array)))
    assert error.code == "invalid_value"
    # Far beyond Python's own limit.
    refused(lambda: check_depth(nested(100_000, array=array)))
    refused(lambda: check_depth([1, {"a": 1}, {"b": ["x", nested(MAX_DEPTH, array=array)]}]))


def test_a_request_has_only_so_many_objects_and_arrays() -> None:
    """Items, messages, parts, tools, wherever they are: each costs many times its bytes."""
    check_depth({"input": [{}] * (MAX_CONTAINERS - 2)})
    flat: list[Any] = [{}] * MAX_CONTAINERS
    nested_once: list[Any] = [[[]] * (MAX_CONTAINERS // 2)] * 2
    for many in (flat, nested_once):
        error = refused(partial(check_depth, many))
        assert error.code == "invalid_value"
        assert str(MAX_CONTAINERS) in error.message


def test_the_deepest_request_can_be_written_inside_an_event() -> None:
    deepest = nested(MAX_DEPTH, array=False)
    assert orjson.dumps({"response": {"tools": [{"parameters": deepest}]}})


# Counting.


def test_usage() -> None:
    usage = Usage(input_tokens=5, output_tokens=3, cached_tokens=4, reasoning_tokens=2)
    assert usage.responses() == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 8,
    }
    assert usage.chat() == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([], 0),
        ([{"role": "user", "content": "12345678"}], 6),
        ([{"content": "1234"}, {"content": "1234"}], 10),
        ([{"content": [{"type": "text", "text": "1234"}, {"type": "text", "text": "1234"}]}], 6),
        ([{"content": [{"type": "image_url", "image_url": {}}, {"text": 5}, "1234"]}], 4),
        ([{"content": None}, {}, {"content": 5}], 12),
    ],
)
def test_estimate_tokens(messages: list[Any], tokens: int) -> None:
    assert estimate_tokens(messages) == tokens


def test_what_a_request_holds_is_rather_more_than_fewer() -> None:
    """Small objects take far more in memory than in the bytes that they come in."""
    tracemalloc.start()
    try:
        items = b",".join([b'{"role":"user","content":"a"}'] * 3000)
        asked = completed(parse_create(orjson.loads(b'{"input":[' + items + b"]}")))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 2 < memory_of(asked) < taken * 3
    text = completed(parse_create({"input": "x" * 100_000}))
    assert 100_000 < memory_of(text) < 250_000


def test_every_dialect_is_weighed() -> None:
    """Wherever a text stands in a request, it counts."""
    text = "x" * 10_000
    chat = parse_chat({"messages": [{"role": "user", "content": text}]})
    (raw,) = parse_completions({"prompt": text})
    (infill,) = parse_infill({"input_prefix": text, "input_suffix": ""}).requests
    for asked in (chat, raw, infill):
        assert memory_of(asked) > 10_000


@pytest.mark.parametrize(
    "allowed",
    [
        b"[" + b",".join([b"{}"] * (MAX_CONTAINERS - 1)) + b"]",
        b'["' + b"[{" * MAX_CONTAINERS + b'", [] ]',
        b'["' + b'\\"[' * (MAX_CONTAINERS + 1) + b'"]',
        b"[]",
        b'"' * MAX_CONTAINERS,
        b"[" * 10 + b'"\\' * 3,
    ],
)
def test_brackets_are_counted_before_json_is_read_but_not_those_in_strings(allowed: bytes) -> None:
    """Whatever the bytes are: it may be no JSON at all."""
    check_containers(allowed)
    one_more = b"[" * (MAX_CONTAINERS + 1) + allowed
    assert refused(lambda: check_containers(one_more)).code == "invalid_value"


def test_what_is_counted_before_is_what_is_counted_after() -> None:
    """The check of what was read and that of the bytes agree."""
    most: list[Any] = [{}] * (MAX_CONTAINERS - 1)
    check_depth(most)
    check_containers(orjson.dumps(most))
    refused(lambda: check_depth([*most, []]))
    refused(lambda: check_containers(orjson.dumps([*most, []])))
