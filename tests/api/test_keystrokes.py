"""The messages of completion lanes: a text, and what is typed into it."""

from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.early_stop import EarlyStop
from hub.api.keystrokes import (
    MAX_FILES,
    MAX_INSERT,
    MAX_PREFIX,
    MAX_VERSION,
    accepted_of,
    apply_type,
    parse_asked,
    typed,
    version_of,
)
from hub.api.requests import ContextFile, Generation, Json
from hub.errors import HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.speech import no_deadline

FULL: Json = {
    "type": "completion.create",
    "stream_id": "a",
    "version": 17,
    "prefix": "def add(a, b):\n    r",
    "suffix": "\n\n",
    "model": "m",
    "max_tokens": 64,
    "temperature": 0.2,
    "stop": ["\n\n"],
    "files": [{"name": "x.py", "text": "x = 1\n"}],
    "single_line": True,
    "indent": 4,
    "budget_ms": 250,
    "kind": "speculative",
}
PLAIN: Json = {"type": "completion.create", "version": 1, "prefix": "abc", "suffix": ""}


def test_what_a_create_asks() -> None:
    asked = parse_asked(FULL)
    assert (asked.version, asked.kind, asked.prefix) == (17, "speculative", FULL["prefix"])
    assert asked.request.generation == Generation(
        model="m",
        messages=(),
        prompt="def add(a, b):\n    r",
        suffix="\n\n",
        files=[ContextFile("x.py", "x = 1\n")],
        max_tokens=64,
        stop=["\n\n"],
        extra={"temperature": 0.2},
    )
    assert asked.request.early_stop == EarlyStop(
        single_line=True, indent=4, budget=0.25, suffix="\n\n"
    )
    assert (asked.request.stream, asked.request.store) == (True, False)


def test_what_a_create_asks_if_it_says_no_more() -> None:
    asked = parse_asked(PLAIN)
    generation = asked.request.generation
    assert (generation.max_tokens, generation.suffix, generation.files) == (128, "", [])
    assert (asked.kind, asked.request.early_stop) == ("foreground", EarlyStop())


def test_without_a_suffix_there_is_no_gap() -> None:
    assert parse_asked({**PLAIN, "suffix": None}).request.generation.suffix is None


def test_a_warm_up_says_nothing_and_what_is_typed_then_does() -> None:
    before = parse_asked({**PLAIN, "kind": "warmup", "max_tokens": 7})
    assert (before.kind, before.request.generation.max_tokens) == ("warmup", 0)
    after = typed(before, {"version": 2, "insert": "d"})
    assert (after.kind, after.request.generation.max_tokens) == ("foreground", 7)


@pytest.mark.parametrize(
    ("body", "prefix"),
    [
        ({"insert": "d"}, "ab\U0001f600d"),
        ({"insert": "", "delete": 1}, "ab"),
        ({"insert": "x", "delete": 3}, "x"),
        ({"insert": "d", "delete": None}, "ab\U0001f600d"),
    ],
)
def test_characters_are_code_points(body: Json, prefix: str) -> None:
    assert apply_type("ab\U0001f600", body) == prefix


def test_all_but_the_prefix_is_as_it_was() -> None:
    before = parse_asked(FULL)
    after = typed(before, {"version": 18, "insert": "e"})
    generation = replace(before.request.generation, prompt="def add(a, b):\n    re")
    assert after.request == replace(before.request, generation=generation, ahead=False)
    assert (after.version, after.kind) == (18, "foreground")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"prefix": None}, "missing_required_parameter", "prefix"),
        ({"prefix": 5}, "invalid_type", "prefix"),
        ({"prefix": "x" * (MAX_PREFIX + 1)}, "invalid_value", "prefix"),
        ({"suffix": 5}, "invalid_type", "suffix"),
        ({"version": None}, "missing_required_parameter", "version"),
        ({"version": 0}, "invalid_value", "version"),
        ({"version": MAX_VERSION + 1}, "invalid_value", "version"),
        ({"version": True}, "invalid_type", "version"),
        ({"version": 1.5}, "invalid_type", "version"),
        ({"max_tokens": -1}, "invalid_value", "max_tokens"),
        ({"kind": "other"}, "invalid_value", "kind"),
        ({"files": [{"text": "x"}]}, "missing_required_parameter", "files[0].name"),
        ({"files": [{"name": "x"}]}, "missing_required_parameter", "files[0].text"),
        ({"files": [{"name": "", "text": ""}] * (MAX_FILES + 1)}, "invalid_value", "files"),
        ({"indent": -1}, "invalid_value", "indent"),
        ({"budget_ms": "x"}, "invalid_type", "budget_ms"),
        ({"single_line": 1}, "invalid_type", "single_line"),
        ({"temperature": 9}, "invalid_value", "temperature"),
    ],
)
def test_what_is_refused(body: Json, code: str, param: str) -> None:
    error = attempt(parse_asked, {**PLAIN, **body})
    assert isinstance(error, HubError)
    assert (error.code, error.param) == (code, param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"version": None}, "missing_required_parameter", "version"),
        ({"insert": None}, "missing_required_parameter", "insert"),
        ({"insert": 5}, "invalid_type", "insert"),
        ({"insert": "x" * (MAX_INSERT + 1)}, "invalid_value", "insert"),
        ({"delete": 4}, "invalid_value", "delete"),
        ({"delete": -1}, "invalid_value", "delete"),
        ({"delete": "1"}, "invalid_type", "delete"),
    ],
)
def test_what_cannot_be_typed(body: Json, code: str, param: str) -> None:
    error = attempt(partial(typed, parse_asked(PLAIN)), {"version": 2, "insert": "d", **body})
    assert isinstance(error, HubError)
    assert (error.code, error.param) == (code, param)


def test_a_text_does_not_grow_without_bound() -> None:
    """Not even by many small messages."""
    full = "x" * MAX_PREFIX
    assert apply_type(full, {"insert": "y", "delete": 1}) == full[1:] + "y"
    error = attempt(partial(apply_type, full), {"insert": "y"})
    assert isinstance(error, HubError)
    assert (error.code, error.param) == ("invalid_value", "insert")


def test_nothing_is_typed_into_a_text_that_is_not_known() -> None:
    error = attempt(partial(typed, None), {"version": 2, "insert": "d"})
    assert isinstance(error, HubError)
    assert (error.code, error.param) == ("invalid_value", "stream_id")


def test_what_the_user_took() -> None:
    assert accepted_of({"version": 1, "characters": 12}) == 12
    for body, code in (
        ({}, "missing_required_parameter"),
        ({"characters": -1}, "invalid_value"),
        ({"characters": "x"}, "invalid_type"),
    ):
        error = attempt(accepted_of, body)
        assert isinstance(error, HubError)
        assert (error.code, error.param) == (code, "characters")


def test_a_version_is_known_before_all_else_is_understood() -> None:
    """So that an error can say which one it is about."""
    assert version_of({"version": MAX_VERSION, "prefix": 5}) == MAX_VERSION


@settings(no_deadline, max_examples=200)
@given(st.sampled_from([path for path in paths(FULL) if path]), values)
def test_any_json_at_any_field_is_a_request_or_a_typed_error(path: Path, value: Any) -> None:
    asked = attempt(parse_asked, changed(FULL, path, value))
    if isinstance(asked, HubError):
        assert asked.status == 400
        return
    assert orjson.dumps([asked.prefix, dict(asked.request.generation.extra)])


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=8))
def test_an_editor_and_hub_agree_on_the_text(keys: list[tuple[str, int]]) -> None:
    """Whatever is typed and deleted, every version has the text that the editor has."""
    asked, text = parse_asked(PLAIN), "abc"
    for version, (insert, delete) in enumerate(keys, 2):
        delete = min(delete, len(text))
        text = text[: len(text) - delete] + insert
        asked = typed(asked, {"version": version, "insert": insert, "delete": delete})
        assert (asked.version, asked.prefix) == (version, text)
