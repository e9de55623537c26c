"""Whatever a schema asks for within what is understood, the value made for it is valid."""

import random
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import Json
from hub.engines.sim_schema import value

WORDS = ("Paris", "weather", "tomorrow", "café")


def make(schema: Any, seed: int = 0) -> Any:
    made = value(schema, random.Random(seed), WORDS)
    orjson.dumps(made)
    return made


def bounds(low: str, high: str, numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Json]:
    """No bound, one, or both in the right order."""
    return st.tuples(st.none() | numbers, st.none() | st.integers(0, 20)).map(
        lambda pair: {
            key: bound
            for key, bound in (
                (low, pair[0]),
                (high, None if pair[1] is None else (pair[0] or 0) + pair[1]),
            )
            if bound is not None
        }
    )


strings = bounds("minLength", "maxLength", st.integers(0, 60)).map(
    lambda b: {"type": "string", **b}
)
integers = st.one_of(
    bounds("minimum", "maximum", st.integers(-1000, 1000)),
    st.integers(-50, 50).map(lambda low: {"exclusiveMinimum": low, "exclusiveMaximum": low + 2}),
    st.integers(-50, 50).map(lambda high: {"exclusiveMaximum": high}),
    st.tuples(st.integers(-50, 50), st.integers(1, 9)).map(
        lambda pair: {"minimum": pair[0], "multipleOf": pair[1]}
    ),
).map(lambda b: {"type": "integer", **b})
numbers = st.one_of(
    bounds("minimum", "maximum", st.integers(-1000, 1000)),
    st.integers(-50, 50).map(lambda low: {"exclusiveMinimum": low, "exclusiveMaximum": low + 1}),
    st.sampled_from([0.1, 0.5, 3]).map(lambda step: {"minimum": 0.2, "multipleOf": step}),
).map(lambda b: {"type": "number", **b})
constants = st.one_of(
    st.lists(st.text(max_size=5) | st.integers(-9, 9), min_size=1, max_size=4).map(
        lambda options: {"enum": options}
    ),
    (st.none() | st.booleans() | st.text(max_size=5)).map(lambda const: {"const": const}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["null", "integer"]}, {}]),
)


def nested(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    objects = st.tuples(
        st.dictionaries(st.text(max_size=4), inner, max_size=4), st.sets(st.integers(0, 3))
    ).map(
        lambda pair: {
            "type": "object",
            "properties": pair[0],
            "required": [name for i, name in enumerate(pair[0]) if i in pair[1]],
            "additionalProperties": False,
        }
    )
    arrays = st.tuples(inner, bounds("minItems", "maxItems", st.integers(0, 3))).map(
        lambda pair: {"type": "array", "items": pair[0], **pair[1]}
    )
    unions = st.tuples(inner, inner).map(lambda pair: {"anyOf": list(pair)})
    both = inner.map(lambda one: {"allOf": [one, {"title": "the same again"}]})
    return objects | arrays | unions | both


schemas = st.recursive(strings | integers | numbers | constants, nested, max_leaves=12)


@given(schemas, st.integers(0, 99))
def test_values_are_valid(schema: Json, seed: int) -> None:
    jsonschema.validate(make(schema, seed), schema, jsonschema.Draft202012Validator)


@given(schemas, st.integers(0, 99))
def test_values_depend_on_the_seed_alone(schema: Json, seed: int) -> None:
    assert make(schema, seed) == make(schema, seed)


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$defs": {"day": {"enum": ["mon", "tue"]}, "a/b": {"type": "integer", "minimum": 7}},
            "type": "object",
            "properties": {"day": {"$ref": "#/$defs/day"}, "n": {"$ref": "#/$defs/a~1b"}},
            "required": ["day", "n"],
        },
        {
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "minLength": 1},
                        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    },
                    "required": ["name", "next", "children"],
                }
            },
            "$ref": "#/$defs/node",
        },
        {
            "allOf": [
                {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"a": {"minimum": 5}, "b": {"const": 1}}, "required": ["b"]},
            ],
            "type": "object",
        },
        {"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 4]}]},
        {"allOf": [{"type": "integer", "minimum": 3, "maximum": 9}, {"minimum": 5, "maximum": 5}]},
        {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"const": 1}, "uniqueItems": True},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"const": "x"}], "items": False},
        {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 3},
        {"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 1},
        {"type": "object", "required": ["undescribed"]},
        {"properties": {"a": {"type": "boolean"}}, "required": ["a"]},
        {"items": {"type": "null"}, "minItems": 1},
        {"minimum": 3, "maximum": 3},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "unheard-of"},
        True,
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_what_people_write(schema: Any, seed: int) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(
        make(schema, seed), schema, jsonschema.Draft202012Validator, format_checker=checker
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nowhere/at/all"},
        {"$ref": "https://example.com/schema"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {
            "type": "object",
            "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
            "required": ["left", "right"],
        },
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 10**9, "items": {"const": 1}, "uniqueItems": True},
        {"type": "object", "minProperties": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": 9, "maximum": 1},
        {"type": "integer", "multipleOf": 0, "minimum": "x"},
        {"enum": [], "type": "hub"},
        {"anyOf": "x", "required": 7, "properties": 3, "type": "object"},
        {"pattern": "^[a-z]+$"},
        False,
        7,
    ],
)
def test_what_cannot_be_satisfied_still_ends(schema: Any) -> None:
    assert len(orjson.dumps(make(schema))) < 20_000


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "properties",
                        "items",
                        "anyOf",
                        "allOf",
                        "$ref",
                        "enum",
                        "required",
                        "minItems",
                        "minimum",
                        "multipleOf",
                        "prefixItems",
                        "maxLength",
                    ]
                ),
                x,
            )
        ),
    )
)
def test_nonsense_is_survived(schema: Any) -> None:
    value(schema, random.Random(0), ())
