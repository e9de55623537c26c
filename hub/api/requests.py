"""What a client asked for, whatever the dialect, and what an engine is asked in turn.

A ``Request`` is made by a dialect's parser and never changes. A ``Generation`` is what is left of
it for an engine: chat messages, or a raw prompt, and sampling parameters in the spelling of Chat
Completions, which every model server speaks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from hub.api.early_stop import EarlyStop
from hub.errors import HubError

Json = dict[str, Any]
"""A JSON object."""

MAX_DEPTH = 64
"""How deeply a request may nest. orjson reads deeper JSON than it writes: a request that could not
be written again must be refused before anything is promised."""
MAX_CONTAINERS = 100_000
"""How many objects and arrays a request may have: items, messages, parts and tools are some."""
_STRING_OR_CONTAINERS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]++', re.DOTALL)
CONTAINER = 400
"""About how many bytes one of them takes in memory."""


@dataclass(frozen=True, slots=True)
class ContextFile:
    """Another file than the one that is completed, for the model to draw on."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine is asked: one conversation to continue, or one raw text."""

    model: str
    """The model's name as the client wrote it; empty for the engine's default."""
    messages: Sequence[Json]
    """Chat Completions messages, oldest first."""
    prompt: str | None = None
    """Raw text to go on from, instead of messages: no chat template, and neither tools nor
    ``response_format``."""
    suffix: str | None = None
    """What is behind the gap that the ``prompt`` ends at: fill in the middle. Empty where the text
    ends there; ``None`` for a text that has no gap."""
    files: Sequence[ContextFile] = ()
    """What else to draw on for filling in the middle, the most relevant last."""
    tools: Sequence[Json] = ()
    """Chat Completions tools: ``{"type": "function", "function": {name, parameters, …}}``."""
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    max_tokens: int | None = None
    """The most tokens to generate; ``None`` leaves it to the model server."""
    stop: Sequence[str] = ()
    """Strings that end the text; they are not part of it."""
    top_logprobs: int | None = None
    """How many alternatives to report per token; ``None`` for no log probabilities at all."""
    continues: bool = False
    """The last message is the assistant's and unfinished: go on from its last character."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further parameters as the client gave them (``temperature``, ``seed``, …)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response, as the engine counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def responses(self) -> Json:
        """The ``usage`` of a Response object."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }

    def chat(self) -> Json:
        """The ``usage`` of a Chat Completion, and of a Completion."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for.

    A Responses request has ``items`` (and possibly a parent); a Chat Completions request has
    ``messages``, kept as they came so that no vendor field is lost; a Completions request has the
    generation's ``prompt``.
    """

    model: str
    generation: Generation
    """Everything that an engine needs but the messages, which depend on the chain."""
    items: Sequence[Json] = ()
    instructions: str | None = None
    previous_response_id: str | None = None
    echo: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the response object that only repeat the request."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The request as it came, to be kept with a response that is stored."""
    stream: bool = False
    background: bool = False
    store: bool = True
    asked_by: str = "max_tokens"
    """What the dialect calls ``generation.max_tokens``; empty if hub has chosen that itself."""
    generate: bool = True
    """False for a warm-up: the response completes at once, without output."""
    flex: bool = False
    """It can wait for those who cannot (``service_tier``)."""
    early_stop: EarlyStop | None = None
    """The rules by which hub ends the text itself."""
    ahead: bool = False
    """Nobody waits for it yet: a speculative request, or a warm-up."""
    include_usage: bool = False
    """Chat Completions and Completions only: send the usage chunk at the end of a stream."""


class Fields:
    """Typed reading of a JSON object; a wrong type is an error that names the parameter.

    ``null`` counts as absent, as it does for the SDKs of these protocols.
    """

    __slots__ = ("_body", "_prefix")

    def __init__(self, body: Json, prefix: str = "") -> None:
        self._body = body
        self._prefix = prefix

    def _get(self, name: str, kind: str, *types: type) -> Any:
        value = self._body.get(name)
        if value is None:
            return None
        # bool is an int in Python, not in JSON.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self.wrong_type(name, kind)
        return value

    def param(self, name: str) -> str:
        """The full name of a field, for an error's ``param``."""
        return self._prefix + name

    def wrong_type(self, name: str, kind: str) -> HubError:
        """The error for a field that has another type than ``kind``."""
        param = self.param(name)
        given = json_type(self._body.get(name))
        return HubError(
            "invalid_type", f"'{param}' must be {kind}, but it is {given}.", param=param
        )

    def wrong_value(self, name: str, why: str) -> HubError:
        """The error for a field of the right type whose value is out of its range."""
        param = self.param(name)
        return HubError("invalid_value", f"'{param}' {why}.", param=param)

    def missing(self, name: str) -> HubError:
        """The error for a field that must be there and is not."""
        param = self.param(name)
        return HubError("missing_required_parameter", f"'{param}' is required.", param=param)

    def raw(self, name: str) -> Any:
        return self._body.get(name)

    def text(self, name: str) -> str | None:
        # Not by ``_get``: a request of many small items asks for little else.
        value = self._body.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong_type(name, "a string")

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, "a boolean", bool)
        return default if value is None else bool(value)

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        value: int | None = self._get(name, "an integer", int)
        if value is not None and (value < low or (high is not None and value > high)):
            bound = f"at least {low}" if high is None else f"between {low} and {high}"
            raise self.wrong_value(name, f"must be {bound}, but it is {value}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value: float | None = self._get(name, "a number", int, float)
        if value is not None and not low <= value <= high:
            raise self.wrong_value(name, f"must be between {low} and {high}, but it is {value}")
        return value

    def object(self, name: str) -> Json | None:
        value: Json | None = self._get(name, "an object", dict)
        return value

    def array(self, name: str) -> list[Any] | None:
        value: list[Any] | None = self._get(name, "an array", list)
        return value

    def objects(self, name: str) -> list[Json]:
        """An array of objects; empty if it is absent."""
        values = self.array(name) or []
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                at = f"{self.param(name)}[{index}]"
                given = json_type(value)
                raise HubError(
                    "invalid_type", f"'{at}' must be an object, but it is {given}.", param=at
                )
        return values

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            quoted = ", ".join(f"'{one}'" for one in allowed)
            raise self.wrong_value(name, f"must be one of {quoted}, but it is '{value[:64]}'")
        return value


SAMPLING = (
    ("temperature", 0.0, 2.0),
    ("top_p", 0.0, 1.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
)
"""Sampling parameters that every dialect and every model server has, with their range."""


def sampling(fields: Fields) -> Json:
    """Those of ``SAMPLING`` that were given."""
    given = {name: fields.number(name, low, high) for name, low, high in SAMPLING}
    return {name: value for name, value in given.items() if value is not None}


def json_type(value: Any) -> str:
    """The name that JSON has for a value's type, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def check_containers(data: bytes) -> None:
    """Refuse JSON with more than ``MAX_CONTAINERS`` before it is read: a megabyte of them takes a
    tenth of a second, in one call, in which no other thread has its turn."""
    if data.count(b"[") + data.count(b"{") <= MAX_CONTAINERS:
        return
    # Those in strings are none. Slower than reading it, but other threads have their turns.
    count = 0
    for found in _STRING_OR_CONTAINERS.finditer(data):
        if data[found.start()] != 0x22:
            count += found.end() - found.start()
            if count > MAX_CONTAINERS:
                raise _too_many()


def _too_many() -> HubError:
    return HubError(
        "invalid_value", f"The request has more than {MAX_CONTAINERS} objects and arrays."
    )


def check_depth(value: Json | list[Any], limit: int = MAX_DEPTH) -> None:
    """Refuse JSON that nests deeper than ``limit``, or has more than ``MAX_CONTAINERS``. Iterative,
    so that it cannot overflow."""
    level: list[Any] = [value]
    count = 0
    for _ in range(limit):
        count += len(level)
        if count > MAX_CONTAINERS:
            raise _too_many()
        # One comprehension per level, not per container: 3 times as fast on many small ones.
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise HubError("invalid_value", f"The request nests deeper than {limit} levels.")


def memory_of(request: Request) -> int:
    """About how many bytes a request takes in memory, rather more than fewer: its text, which is
    the same as it came and as an engine gets it, and ``CONTAINER`` for every bracket of both."""
    generation = request.generation
    asked = (
        generation.messages,
        (generation.prompt, generation.suffix, [file.text for file in generation.files]),
        (generation.tools, generation.response_format, dict(generation.extra)),
    )
    both = [orjson.dumps(one, default=list) for one in (dict(request.body), asked)]
    brackets = sum(one.count(b"{") + one.count(b"[") for one in both)
    return max(map(len, both)) + CONTAINER * brackets


def estimate_tokens(messages: Sequence[Json]) -> int:
    """A cheap guess of a prompt's tokens: four characters each, and four per message."""
    characters = 0
    for content in [message.get("content") for message in messages]:
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    characters += len(part["text"])
    return 4 * len(messages) + characters // 4
