"""Compaction: what is asked of the model, and what its client gets to go on from."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.compaction import ASK, compacted, parse_compact
from hub.api.items import parse_input, to_messages
from hub.api.prompt import with_messages
from hub.api.requests import Json, Request, Usage
from hub.errors import HubError
from tests.api.anyjson import attempt, changed, paths, values
from tests.api.openapi import check_compaction
from tests.api.speech import no_deadline

texts = st.text(max_size=9)
parts: st.SearchStrategy[Json] = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_text", "output_text", "text"]), "text": texts},
        optional={"annotations": st.none() | st.just([])},
    ),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": texts}),
    st.fixed_dictionaries(
        {"type": st.just("input_image"), "image_url": texts},
        optional={"detail": st.none() | st.sampled_from(["low", "high", "auto"])},
    ),
)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "developer"]),
        "content": texts | st.lists(parts, max_size=3),
    },
    optional={
        "type": st.just("message"),
        "id": st.none() | st.just("msg_given") | st.integers(),
        "status": st.none() | st.just("in_progress"),
    },
)
calls: list[Json] = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
    {"type": "reasoning", "summary": []},
]
conversations = (st.lists(messages | st.sampled_from(calls), max_size=6) | texts).map(parse_input)
usages = st.none() | st.builds(Usage, st.integers(0, 99), st.integers(0, 99))


def user_content(items: list[Json]) -> list[Any]:
    """What the user said in them, as a model is told it."""
    said = []
    for item in items:
        if item.get("role") == "user":
            content = to_messages([item])[0]["content"]
            for part in content if isinstance(content, list) else []:
                if part["type"] == "image_url":
                    # The default, and an answer has to spell it out.
                    part["image_url"].setdefault("detail", "auto")
            said.append(content)
    return said


# What is asked.


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "model"),
        ({"model": None}, "missing_required_parameter", "model"),
        ({"model": "", "input": "Hi"}, "missing_required_parameter", "model"),
        ({"model": 1}, "invalid_type", "model"),
        ({"model": "m", "input": 1}, "invalid_type", "input"),
        ({"model": "m", "instructions": []}, "invalid_type", "instructions"),
        ({"model": "m", "previous_response_id": 1}, "invalid_type", "previous_response_id"),
        ([], "invalid_type", None),
        (None, "invalid_type", None),
    ],
)
def test_errors_name_the_code_and_the_field(body: Any, code: str, param: str | None) -> None:
    with pytest.raises(HubError) as caught:
        parse_compact(body)
    assert (caught.value.code, caught.value.param) == (code, param)


BODY: Json = {
    "model": "m",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, *calls],
    "previous_response_id": "resp_0",
    "instructions": "Be brief.",
    "prompt_cache_key": "k",
}


@given(values | st.builds(changed, st.just(BODY), st.sampled_from([*paths(BODY)]), values))
def test_any_json_is_a_request_or_an_error(body: Any) -> None:
    """No input crashes the parser; whatever is not understood is a typed error of the client's."""
    asked = attempt(parse_compact, body)
    if isinstance(asked, HubError):
        assert asked.status == 400
    else:
        assert not asked.store


@given(st.dictionaries(st.sampled_from(["store", "stream", "tools", "background", "x"]), values))
def test_only_the_fields_of_a_compaction_count(more: Json) -> None:
    """What a create knows beside them is nothing to a compaction: it is never stored and runs at
    once."""
    asked = parse_compact({**more, **BODY})
    assert asked == parse_compact(BODY)
    assert (asked.store, asked.background, asked.stream) == (False, False, False)
    assert asked.echo["store"] is False
    assert (asked.model, asked.previous_response_id) == ("m", "resp_0")


@given(conversations, conversations)
def test_a_model_is_asked_for_a_summary_of_everything(
    context: list[Json], items: list[Json]
) -> None:
    """The model gets the chain, the request's items and its instructions, and the question for a
    summary last."""
    asked: Request = parse_compact({"model": "m", "instructions": "Be brief.", "input": items})
    told = with_messages(asked, [*calls, *context]).generation.messages
    assert told[-1] == {"role": "user", "content": ASK}
    assert told[:-1] == to_messages([*calls, *context, *items], "Be brief.")


# What comes back.


@no_deadline
@given(conversations, st.text(), usages, st.floats(0, 2e9))
def test_the_answer_is_valid_input_that_holds_everything(
    items: list[Json], summary: str, usage: Usage | None, now: float
) -> None:
    """The answer is what the protocol says; its output is valid input again, in which the model
    finds the user's own messages as they were, and the summary in its system message."""
    answer = orjson.loads(orjson.dumps(compacted(items, summary, usage, now)))
    check_compaction(answer)
    assert answer["created_at"] == int(now)
    assert answer["usage"] == (usage or Usage()).responses()
    again = parse_input(answer["output"])
    assert user_content(again) == user_content(items)
    assert [item["type"] for item in again[:-1]] == ["message"] * (len(again) - 1)
    assert again[-1]["type"] == "compaction"
    system = to_messages(again)[0]
    assert system["role"] == "system"
    assert system["content"].endswith(f"\n{summary}")


def test_ids_are_kept_where_there_are_some() -> None:
    """A message keeps the id that it has; one without gets one, like everything new."""
    items = parse_input([{"role": "user", "content": "a", "id": "msg_given"}, BODY["input"][0]])
    first, second = (compacted(items, "s", None, 0.0) for _ in range(2))
    given, fresh, summary = (item["id"] for item in first["output"])
    assert given == "msg_given"
    assert fresh.startswith("msg_")
    assert summary.startswith("cmp_")
    assert first["id"].startswith("resp_")
    assert {first["id"], fresh, summary}.isdisjoint(
        {second["id"], *(item["id"] for item in second["output"][1:])}
    )


def test_a_compaction_can_be_compacted() -> None:
    """What was summarised before goes into the next summary: the model is told of it."""
    once = compacted(parse_input("Hi"), "They greeted.", None, 0.0)
    asked = parse_compact({"model": "m", "input": once["output"]})
    told = with_messages(asked, []).generation.messages
    assert "They greeted." in told[0]["content"]
    twice = compacted(asked.items[:-1], "They did.", None, 0.0)
    assert [item["type"] for item in twice["output"]] == ["message", "compaction"]
