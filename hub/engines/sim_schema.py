"""A value that is valid against a JSON Schema: what the simulated model puts in a tool's arguments.

It understands ``type``, ``const``, ``enum``, ``$ref`` inside the schema, ``allOf``, the first
branch of ``anyOf`` and ``oneOf``, and the bounds of strings, numbers, arrays and objects: what
people write in tool definitions. It does not search: a keyword that it does not know (``pattern``,
``not``, ``if``) is not honoured, and a schema that no finite value satisfies gets ``null`` where
it gave up. It always ends, whatever the schema.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from hub.api.requests import Json

MAX_VALUES = 500
"""The most values that are made for one schema; the rest are ``null``."""
MAX_DEPTH = 48
SHALLOW = 4
"""Below this depth only what is required is made, so that recursive schemas come to an end."""
MAX_LENGTH = 4096
"""The longest string that is made, in characters."""
MAX_REPEATS = 200
"""How often an array of unique items is tried again after a repeated one."""

FORMATS: dict[str, str] = {
    "date": "2024-02-29",
    "time": "12:30:00Z",
    "date-time": "2024-02-29T12:30:00Z",
    "duration": "PT90S",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
}


def value(schema: Any, rng: random.Random, words: Sequence[str]) -> Any:
    """A value for ``schema``. Its free strings are made of ``words``."""
    return _Maker(schema, rng, words).make(schema, 0)


class _Maker:
    def __init__(self, root: Any, rng: random.Random, words: Sequence[str]) -> None:
        self._root = root
        self._rng = rng
        self._words = words or ("something",)
        self._left = MAX_VALUES

    def make(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            return None
        schema = self._flatten(schema, depth)
        if "const" in schema:
            return schema["const"]
        match schema.get("enum"):
            case [_, *_] as options:
                return self._rng.choice(options)
        match _type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._fraction(schema)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(schema)

    def _flatten(self, schema: Any, depth: int) -> Json:
        """The schema with its references and combinations replaced by what they stand for."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return {}
        flat = {
            key: given
            for key, given in schema.items()
            if key not in ("$ref", "allOf", "anyOf", "oneOf")
        }
        parts: list[Any] = []
        if isinstance(schema.get("$ref"), str):
            parts.append(self._resolve(schema["$ref"]))
        if isinstance(schema.get("allOf"), list):
            # At most a few: nested allOf would otherwise double at every level.
            parts.extend(schema["allOf"][:8])
        for key in ("anyOf", "oneOf"):
            match schema.get(key):
                case [first, *others]:
                    # A branch that does not lead back up ends the recursion sooner.
                    flat_ones = [o for o in (first, *others) if _is_leaf(o)]
                    parts.append(flat_ones[0] if depth > SHALLOW and flat_ones else first)
        for part in parts:
            self._left -= 1
            if self._left > 0:
                flat = _both(flat, self._flatten(part, depth + 1))
        return flat

    def _resolve(self, reference: str) -> Any:
        """What ``#/$defs/name`` points to; nothing for a reference to another document."""
        found = self._root
        for key in reference.removeprefix("#").split("/")[1:]:
            if not isinstance(found, dict):
                return {}
            found = found.get(key.replace("~1", "/").replace("~0", "~"))
        return found if reference.startswith("#") else {}

    def _object(self, schema: Json, depth: int) -> Json:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = [name for name in _list(schema.get("required")) if isinstance(name, str)]
        names = list(required)
        optional = [name for name in properties if name not in required]
        least = _number(schema, "minProperties", 0)
        most = _number(schema, "maxProperties", math.inf)
        for position, name in enumerate(optional):
            needed = len(names) + len(optional) - position <= least
            wanted = depth < SHALLOW and len(names) < most and self._rng.random() < 0.6
            if needed or wanted:
                names.append(name)
        further = schema.get("additionalProperties", {})
        while len(names) < least and self._left > 0:
            names.append(f"{self._rng.choice(self._words)}_{len(names)}")
            self._left -= 1
        return {name: self.make(properties.get(name, further), depth + 1) for name in names}

    def _array(self, schema: Json, depth: int) -> list[Any]:
        least = _number(schema, "minItems", 0)
        most = _number(schema, "maxItems", math.inf)
        wanted = self._rng.randint(1, 3) if depth < SHALLOW else 0
        first = _list(schema.get("prefixItems"))
        # Beyond the prefix nothing may stand if ``items`` is false.
        if schema.get("items") is False:
            most = min(most, len(first))
        goal = max(least, min(wanted, most))
        items: list[Any] = []
        repeats = 0
        while len(items) < goal and self._left > 0:
            left = self._left
            of = first[len(items)] if len(items) < len(first) else schema.get("items", {})
            item = self.make(of, depth + 1)
            # Python holds 1 and true for equal and JSON does not: at worst this is too careful.
            if schema.get("uniqueItems") and item in items:
                repeats += 1
                if len(items) >= least or repeats > MAX_REPEATS:
                    break
                self._left = left
            else:
                items.append(item)
        return items

    def _integer(self, schema: Json) -> int:
        lows = [math.ceil(bound) for bound in _numbers(schema, "minimum")]
        lows += [math.floor(bound) + 1 for bound in _numbers(schema, "exclusiveMinimum")]
        highs = [math.floor(bound) for bound in _numbers(schema, "maximum")]
        highs += [math.ceil(bound) - 1 for bound in _numbers(schema, "exclusiveMaximum")]
        step = max(1, math.ceil(_number(schema, "multipleOf", 1)))
        low = max(lows) if lows else min([0, *(high - 9 * step for high in highs)])
        least = -(-low // step)
        most = max(least, min([least + 9, *(high // step for high in highs)]))
        return self._rng.randint(least, most) * step

    def _fraction(self, schema: Json) -> float:
        lows = _numbers(schema, "minimum", "exclusiveMinimum")
        highs = _numbers(schema, "maximum", "exclusiveMaximum")
        low: float = max(lows) if lows else min([0, *(high - 10 for high in highs)])
        if steps := _numbers(schema, "multipleOf"):
            high: float = min(highs, default=math.inf)
            # Zero and doublings divide again exactly; other multiples may not, in binary.
            multiples = [steps[0] * 2**power for power in range(64)]
            candidates = (*multiples, 0, *(-multiple for multiple in multiples))
            return next((multiple for multiple in candidates if low < multiple < high), low)
        high = min(highs, default=low + 10)
        return low + (high - low) * self._rng.randint(1, 7) / 8

    def _string(self, schema: Json) -> str:
        text = FORMATS.get(str(schema.get("format")), "")
        if not text:
            words = min(len(self._words), self._rng.randint(1, 3))
            text = " ".join(self._rng.sample(self._words, words))
        least = min(_number(schema, "minLength", 0), MAX_LENGTH)
        most = min(_number(schema, "maxLength", math.inf), MAX_LENGTH)
        while len(text) < least:
            text += " " + self._rng.choice(self._words)
        return text[: int(most)]


def _type(schema: Json) -> str:
    """The type to make: the first that is not null, or what the other keywords are about."""
    given = schema.get("type")
    if isinstance(given, list):
        given = next((one for one in given if one != "null"), "null")
    if isinstance(given, str):
        return given
    about = {
        "object": ("properties", "required", "additionalProperties", "minProperties"),
        "array": ("items", "prefixItems", "minItems"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
    return next((one for one, keys in about.items() if any(k in schema for k in keys)), "string")


def _both(one: Json, other: Json) -> Json:
    """A schema for what is valid against both, as far as that is easily said."""
    merged = {**other, **one}
    for key in one.keys() & other.keys():
        mine, theirs = one[key], other[key]
        if key == "properties" and isinstance(mine, dict) and isinstance(theirs, dict):
            shared = {name: {"allOf": [mine[name], theirs[name]]} for name in mine.keys() & theirs}
            merged[key] = {**theirs, **mine, **shared}
        elif key == "required":
            merged[key] = list(dict.fromkeys([*_list(mine), *_list(theirs)]))
        elif key == "enum":
            merged[key] = [option for option in _list(mine) if option in _list(theirs)]
        elif key in _LOWER and _is_number(mine) and _is_number(theirs):
            merged[key] = max(mine, theirs)
        elif key in _UPPER and _is_number(mine) and _is_number(theirs):
            merged[key] = min(mine, theirs)
    return merged


_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def _numbers(schema: Json, *keys: str) -> list[float]:
    """The bounds among ``keys`` that the schema has."""
    return [schema[key] for key in keys if _is_number(schema.get(key))]


def _number(schema: Json, key: str, default: float) -> float:
    return next(iter(_numbers(schema, key)), default)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_leaf(schema: Any) -> bool:
    nested = ("$ref", "allOf", "anyOf", "oneOf", "properties", "items")
    return isinstance(schema, dict) and not any(key in schema for key in nested)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
