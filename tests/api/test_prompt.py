"""A request with the messages that an engine is asked to go on from."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.items import parse_input
from hub.api.prompt import with_messages
from hub.api.requests import Generation, Json, Request
from hub.api.responses import parse_create
from hub.errors import HubError

texts = st.text(min_size=1, max_size=9)
turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), max_size=5)


def items(turns: list[tuple[str, str]]) -> list[Json]:
    return parse_input([{"role": role, "content": text} for role, text in turns])


def told(request: Request) -> str:
    """All that its engine is told, in order."""
    return "".join(message["content"] for message in request.generation.messages)


@given(turns, turns.filter(bool), st.none() | texts)
def test_the_chain_comes_before_the_requests_own_items(
    context: list[tuple[str, str]], own: list[tuple[str, str]], instructions: str | None
) -> None:
    """The instructions, then the items of the chain, then the request's own; nothing else of the
    request changes."""
    request = parse_create({"instructions": instructions, "input": items(own), "temperature": 1})
    asked = with_messages(request, items(context))
    expected = [instructions or "", *(text for _, text in [*context, *own])]
    assert told(asked).replace("\n\n", "") == "".join(expected).replace("\n\n", "")
    roles = [message["role"] for message in asked.generation.messages]
    assert roles[0] == ("system" if instructions else [*context, *own][0][0])
    bare = replace(asked, generation=replace(asked.generation, messages=()))
    assert bare == request


def test_the_messages_of_a_chat_request_stay_as_they_came() -> None:
    """A dialect that has messages brings them along."""
    messages = [{"role": "user", "content": "Hi", "vendor": 1}]
    request = Request("", Generation("", messages))
    assert with_messages(request, []) is request


def test_a_raw_prompt_gets_no_messages() -> None:
    """Not even an empty one: it is text to go on from, and nobody's turn."""
    for prompt in ("Once upon a time", ""):
        request = Request("", Generation("", (), prompt=prompt))
        assert with_messages(request, []) is request


def call(call_id: str) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str) -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": "1"}


ids = st.sampled_from(["a", "b", "c"])
tool_items = st.lists(st.builds(call, ids) | st.builds(output, ids), min_size=1, max_size=4)


@given(st.lists(st.builds(call, ids), max_size=2), tool_items)
def test_a_tools_output_needs_its_call_before_it(context: list[Json], own: list[Json]) -> None:
    """The output of a call that is nowhere before it, in the chain or in the request, is refused,
    and the first such is named."""
    request = parse_create({"input": own})
    known = {item["call_id"] for item in context}
    lost = None
    for index, item in enumerate(own):
        if item["type"] == "function_call":
            known.add(item["call_id"])
        elif item["call_id"] not in known and lost is None:
            lost = f"input[{index}].call_id"
    if lost is None:
        assert with_messages(request, context).generation.messages
    else:
        with pytest.raises(HubError) as caught:
            with_messages(request, context)
        assert (caught.value.code, caught.value.param) == ("invalid_value", lost)


def test_there_must_be_something_to_answer() -> None:
    """Without a chain there must be an input, unless nothing is to be generated."""
    with pytest.raises(HubError) as caught:
        with_messages(parse_create({}), [])
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "input")
    context = items([("user", "Hi")])
    assert told(with_messages(parse_create({}), context)) == "Hi"
    assert told(with_messages(parse_create({"generate": False}), [])) == ""
