"""The sink that ends a text before its model does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.early_stop import EarlyStop
from hub.api.recorder import Recorder
from hub.api.requests import Generation, Request, Usage
from hub.api.stopping import Stopping
from tests.api.speech import Call, no_deadline, recorder

LOGPROBS: list[Any] = [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}]
ASKED = Request(model="", generation=Generation(model="", messages=(), prompt=""), store=False)


def played(rules: EarlyStop, *calls: Call) -> tuple[Recorder, Stopping, list[str]]:
    """A recorder to which this was said, and what it had told when it was stopped."""
    inner = recorder(ASKED)
    told: list[str] = []
    sink = Stopping(
        inner, rules, clock=lambda: 0.0, on_stop=lambda: told.append(inner.finished or "not yet")
    )
    for name, *arguments in calls:
        getattr(sink, name)(*arguments)
    return inner, sink, told


def text(said: Recorder) -> str:
    return "".join(event.delta for event in said.log.read(-1))


def test_a_rule_ends_the_response_and_then_its_engine() -> None:
    said, sink, told = played(EarlyStop(single_line=True), ("text", "a"), ("text", "b\nc"))
    assert (text(said), sink.reason) == ("ab", "line")
    assert told == ["stop"]


LATE: list[Call] = [
    ("text", "x"),
    ("reasoning", "x"),
    ("refusal", "x"),
    ("tool_call", 0, "id", "f", "{}"),
    ("finish", "length"),
]


@pytest.mark.parametrize("late", LATE, ids=lambda call: str(call[0]))
def test_after_the_end_the_engine_is_not_heard(late: Call) -> None:
    said, _, told = played(EarlyStop(single_line=True), ("text", "a\n"), late)
    assert text(said) == "a"
    assert told == ["stop"]
    assert said.finish_reason == "stop"


def test_usage_is_heard_even_late() -> None:
    said, _, _ = played(EarlyStop(single_line=True), ("text", "a\n"), ("usage", Usage(5, 3)))
    assert said.reported_usage == Usage(5, 3)


def test_everything_else_passes_as_it_is() -> None:
    calls: list[Call] = [
        ("reasoning", "hm"),
        ("text", "a", LOGPROBS),
        ("refusal", "no"),
        ("tool_call", 0, "id", "f", "{}"),
        ("finish", "length"),
    ]
    said, sink, told = played(EarlyStop(indent=4), *calls)
    plain = recorder(ASKED)
    for name, *arguments in calls:
        getattr(plain, name)(*arguments)
    assert [(event.type, event.delta) for event in said.log.read(-1)] == [
        (event.type, event.delta) for event in plain.log.read(-1)
    ]
    assert (said.finished, sink.reason, told) == ("length", None, [])


def test_log_probabilities_are_those_of_what_is_said() -> None:
    """They would tell what was cut off."""
    rules = EarlyStop(indent=4)
    said, _, _ = played(rules, ("text", "a", LOGPROBS), ("text", "b\nc", LOGPROBS))
    (message,) = said.snapshot()["output"]
    (part,) = message["content"]
    assert (part["text"], len(part["logprobs"])) == ("ab", 1)


def test_what_was_held_back_is_said_at_the_end() -> None:
    said, sink, told = played(EarlyStop(indent=4), ("text", "a\n  "), ("finish", "length"))
    assert (text(said), said.finished) == ("a\n  ", "length")
    assert (sink.reason, told) == (None, [])


def test_an_end_that_only_repeats_the_suffix_is_not_said() -> None:
    """The engine has ended by itself: there is nothing to stop."""
    said, sink, told = played(EarlyStop(suffix="\n}"), ("text", "a\n}"), ("finish", "stop"))
    assert (text(said), sink.reason, told) == ("a", "suffix", [])


@no_deadline
@given(
    st.lists(st.text(st.sampled_from("a \n"), min_size=1, max_size=4), max_size=6),
    st.sampled_from(["stop", "length"]),
)
def test_the_response_ends_once(deltas: list[str], reason: str) -> None:
    """However it ends, it has a reason, and its engine is stopped only where that had not ended."""
    calls: list[Call] = [("text", delta) for delta in deltas]
    said, sink, told = played(EarlyStop(indent=1), *calls, ("finish", reason))
    assert said.finished == ("stop" if told else reason)
    assert told == (["stop"] if sink.reason else [])
