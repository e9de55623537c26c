"""Quick ways for requests of many small things: the same answers, and no quadratic time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api import items
from hub.api.chat import parse_chat
from hub.api.items import parse_input, to_messages
from hub.api.requests import Generation
from hub.api.responses import parse_create
from hub.dispatch.route import SINGLE, Prefixes, prefixes_of
from hub.errors import HubError

ANY: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "message", "user", "assistant", "text", "input_text", 7, [], {}]
)
PART = st.one_of(
    st.fixed_dictionaries({}, optional={"type": ANY, "text": ANY, "refusal": ANY}),
    st.fixed_dictionaries({"type": st.just("input_text"), "text": st.text(max_size=3)}),
    ANY,
)
ITEM = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {},
        optional={
            "type": ANY,
            "role": st.one_of(ANY, st.sampled_from(items.ROLES)),
            "content": st.one_of(ANY, st.lists(PART, max_size=3)),
            "id": ANY,
        },
    ),
)


def outcome(parse: Any, *args: Any) -> Any:
    try:
        return parse(*args)
    except HubError as error:
        return error.code, error.param, error.message


@given(ITEM)
def test_the_quick_way_finds_what_the_careful_one_finds(item: Any) -> None:
    assert outcome(parse_input, [item]) == outcome(lambda one: [items._item(one, "input[0]")], item)


@pytest.mark.parametrize("texts", [[""], ["", "a"], ["a", "b", "c"]])
def test_the_texts_of_one_turn_are_joined(texts: list[str]) -> None:
    said = [{"role": "assistant", "content": text} for text in texts]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    (message,) = to_messages(parse_input([*said, call]))
    assert message["content"] == "\n\n".join(texts)
    (message,) = to_messages(parse_input([call]))
    assert message["content"] is None


def test_tools_are_offered_in_their_order_however_they_are_allowed() -> None:
    tools = [{"type": "function", "name": f"f{number}"} for number in range(5)]
    allowed = [{"type": "function", "name": name} for name in ("f3", "f1", "f3")]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
    request = parse_create({"input": "Hi", "tools": tools, "tool_choice": choice})
    assert [tool["function"]["name"] for tool in request.generation.tools] == ["f1", "f3"]
    assert request.echo["tool_choice"]["tools"] == allowed


def test_a_chat_message_is_checked_wherever_it_stands() -> None:
    good = [{"role": "user", "content": "Hi"}] * 3
    for bad in ({"role": "nobody", "content": "x"}, {"role": "user", "content": 7}, {}):
        with pytest.raises(HubError) as refused:
            parse_chat({"messages": [*good, bad]})
        assert (refused.value.param or "").startswith("messages[3].")


def test_a_long_prompt_has_few_beginnings_and_they_are_found_again() -> None:
    messages = [{"role": "user", "content": f"Part {number}"} for number in range(5000)]
    before = prefixes_of(Generation(model="", messages=messages))
    assert len(before) < SINGLE + 200
    seen = Prefixes()
    seen.note(before)
    assert seen.match(before) == 1.0
    more = [*messages, {"role": "user", "content": "And now?"}]
    assert seen.match(prefixes_of(Generation(model="", messages=more))) > 0.99
    other = [{"role": "user", "content": "Other"}, *messages]
    assert seen.match(prefixes_of(Generation(model="", messages=other))) == 0.0
