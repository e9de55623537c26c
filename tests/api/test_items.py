"""Input items: what is accepted, and the chat messages that they become."""

import base64
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.items import check_call_ids, parse_input, to_messages
from hub.api.requests import Json
from hub.api.responses import parse_create
from hub.api.summary import summary_content
from hub.errors import HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.speech import (
    REASONS,
    Call,
    meaning,
    meaning_of_output,
    no_deadline,
    play,
    recorder,
    speeches,
)

SUMMARY = {"type": "compaction", "id": "cmp_1", "encrypted_content": summary_content("A cat.")}
DAMAGED = "hub1." + base64.urlsafe_b64encode(b'{"summary":5}').decode()
PNG = "data:image/png;base64,iVBORw0KGgo="


def text(role: str, said: Any, kind: str = "input_text") -> Json:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": said}]}


def call(call_id: Any, name: Any = "f", arguments: Any = "{}") -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, said: Any) -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def refused(value: Any) -> HubError:
    with pytest.raises(HubError) as raised:
        parse_input(value)
    return raised.value


# What is accepted.


def test_a_string_is_one_user_message() -> None:
    assert parse_input("Hi") == [text("user", "Hi")]
    assert parse_input("") == [text("user", "")]
    assert parse_input(None) == parse_input([]) == []


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_easy_messages_of_the_sdks(role: str) -> None:
    kind = "output_text" if role == "assistant" else "input_text"
    assert parse_input([{"role": role, "content": "Hi"}]) == [text(role, "Hi", kind)]
    assert parse_input([{"role": role, "content": [], "type": None}]) == [
        {"type": "message", "role": role, "content": []}
    ]


ITEMS = [
    {"role": "user", "content": "Hi", "id": None, "status": None},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is it?"},
            {"type": "text", "text": "This."},
            {"type": "input_image", "image_url": PNG, "detail": "low"},
        ],
    },
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "phase": "commentary",
        "content": [
            {"type": "output_text", "text": "A cat.", "annotations": [], "logprobs": None},
            {"type": "refusal", "refusal": "No."},
        ],
    },
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [], "encrypted_content": None},
    SUMMARY,
    call("call_1"),
    output("call_1", "42"),
    call("call_2"),
    output("call_2", [{"type": "input_text", "text": "42"}, {"type": "output_text", "text": ""}]),
]


def test_items_are_kept_as_they_came() -> None:
    assert parse_input(ITEMS)[1:] == ITEMS[1:]


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        (5, "invalid_type", ""),
        (None, "invalid_type", ""),
        ({}, "missing_required_parameter", ".type"),
        ({"type": 5}, "invalid_type", ".type"),
        ({"type": "web_search_call"}, "unsupported_value", ".type"),
        ({"type": "compaction"}, "missing_required_parameter", ".encrypted_content"),
        *(
            ({"type": "compaction", "encrypted_content": c}, "invalid_value", ".encrypted_content")
            for c in ("", "gAAAA", "hub1.!", "hub1.é", "hub1.e30=", "hub1.W10=", DAMAGED)
        ),
        ({"type": "item_reference", "id": "msg_1"}, "invalid_value", ""),
        ({"type": "message"}, "missing_required_parameter", ".role"),
        ({"role": None}, "missing_required_parameter", ".role"),
        ({"role": "tool", "content": ""}, "invalid_value", ".role"),
        ({"role": "user"}, "invalid_type", ".content"),
        ({"role": "user", "content": {}}, "invalid_type", ".content"),
        ({"role": "user", "content": ["Hi"]}, "invalid_type", ".content[0]"),
        ({"role": "user", "content": [{}]}, "missing_required_parameter", ".content[0].type"),
        (text("user", 5), "invalid_type", ".content[0].text"),
        (text("user", None), "missing_required_parameter", ".content[0].text"),
        (text("user", "", "refusal"), "missing_required_parameter", ".content[0].refusal"),
        (text("user", "", "input_image"), "missing_required_parameter", ".content[0].image_url"),
        (text("user", "", "input_file"), "unsupported_value", ".content[0].type"),
        (
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": PNG, "detail": 5}],
            },
            "invalid_type",
            ".content[0].detail",
        ),
        (call(None), "missing_required_parameter", ".call_id"),
        (call("c", None), "missing_required_parameter", ".name"),
        (call("c", "f", None), "missing_required_parameter", ".arguments"),
        (call("c", "f", {}), "invalid_type", ".arguments"),
        (output("", "42"), "missing_required_parameter", ".call_id"),
        (output("c", None), "invalid_type", ".output"),
        (output("c", 42), "invalid_type", ".output"),
        (output("c", [42]), "invalid_type", ".output[0]"),
        (output("c", [{"type": "input_file"}]), "unsupported_value", ".output[0].type"),
    ],
)
def test_what_is_refused(item: Any, code: str, param: str) -> None:
    error = refused([{"role": "user", "content": "Hi"}, item])
    assert (error.code, error.param, error.status) == (code, f"input[1]{param}", 400)


@pytest.mark.parametrize("value", [5, True, {}, 0.5])
def test_input_is_a_string_or_an_array(value: Any) -> None:
    assert (refused(value).code, refused(value).param) == ("invalid_type", "input")


def checked(given: Any) -> list[Json]:
    items = parse_input(given)
    check_call_ids([], items)
    return items


@settings(no_deadline, max_examples=300)
@given(st.sampled_from(list(paths(ITEMS))), values)
def test_any_json_at_any_field_is_an_item_or_a_typed_error(path: Path, value: Any) -> None:
    """Items that are accepted become messages; all others are refused by name, never by a crash."""
    given = changed(ITEMS, path, value)
    items = attempt(checked, given)
    if isinstance(items, HubError):
        assert items.status == 400
        assert items.param is not None
        assert items.param.startswith("input[")
    else:
        assert orjson.loads(orjson.dumps(to_messages(items)))
        assert parse_input(items) == items, "a chain's items are read again"


# Calls and outputs.


def test_an_output_belongs_to_a_call_before_it() -> None:
    check_call_ids([], [call("a"), output("a", "1"), output("a", "2")])
    check_call_ids([text("user", "Hi"), call("a")], [output("a", "1")])
    for context, items in (
        ([], [output("a", "1")]),
        ([call("b")], [output("a", "1")]),
        ([output("a", "1")], [output("a", "1")]),
        ([], [output("a", "1"), call("a")]),
    ):
        with pytest.raises(HubError) as raised:
            check_call_ids(context, items)
        assert (raised.value.code, raised.value.param) == ("invalid_value", "input[0].call_id")


# Messages.


def test_instructions_and_system_messages_are_one_message_at_the_front() -> None:
    items = parse_input(
        [
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": [{"type": "input_text", "text": "Be "}] * 2},
            {"role": "user", "content": "Hi"},
            {"role": "developer", "content": "Be quick."},
        ]
    )
    rest = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be quick."}]
    assert to_messages(items, "Be brief.") == [
        {"role": "system", "content": "Be brief.\n\nBe kind.\n\nBe Be "},
        *rest,
    ]
    assert to_messages(items, None) == to_messages(items, "")
    assert to_messages(items) == [{"role": "system", "content": "Be kind.\n\nBe Be "}, *rest]


def test_a_compaction_is_told_at_the_front() -> None:
    assert to_messages(parse_input([{"role": "user", "content": "Hi"}, SUMMARY]), "Be brief.") == [
        {
            "role": "system",
            "content": "Be brief.\n\nSummary of the conversation before this:\nA cat.",
        },
        {"role": "user", "content": "Hi"},
    ]


def test_no_instructions_no_system_message() -> None:
    assert to_messages(parse_input("Hi")) == [{"role": "user", "content": "Hi"}]
    assert to_messages([]) == []


def test_a_turn_of_the_assistant_is_one_message_and_outputs_follow_it() -> None:
    items = [
        text("user", "Hi"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
        text("assistant", "Let me see.", "output_text"),
        call("a", "f", '{"x":1}'),
        {"type": "reasoning", "id": "rs_2", "summary": []},
        call("b", "g"),
        text("assistant", "Wait.", "output_text"),
        output("a", "1"),
        output("b", [{"type": "input_text", "text": "2"}]),
        call("c", "h"),
        text("assistant", "Done.", "output_text"),
        output("c", ""),
    ]

    def chat_call(id: str, name: str, arguments: str = "{}") -> Json:
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    assert to_messages(items) == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me see.\n\nWait.",
            "tool_calls": [chat_call("a", "f", '{"x":1}'), chat_call("b", "g")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "assistant", "content": "Done.", "tool_calls": [chat_call("c", "h")]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]


def test_images_make_content_a_list() -> None:
    image = {"type": "input_image", "image_url": PNG}
    parts = [
        {"type": "input_text", "text": "What?"},
        image,
        {**image, "detail": "high"},
        {"type": "refusal", "refusal": "No."},
    ]
    content = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
        {"type": "text", "text": "No."},
    ]
    message = {"type": "message", "role": "user", "content": parts}
    assert to_messages([message]) == [{"role": "user", "content": content}]
    assert to_messages([call("a"), output("a", parts)])[1]["content"] == content


def test_text_of_all_kinds_is_joined() -> None:
    parts = [
        {"type": "output_text", "text": "I "},
        {"type": "refusal", "refusal": "won't", "text": ["not read"]},
        {"type": "text", "text": "."},
        {"type": "input_image", "image_url": PNG, "text": 5},
    ]
    message = {"type": "message", "role": "assistant", "content": parts}
    assert to_messages(parse_input([message])) == [{"role": "assistant", "content": "I won't."}]


# The compliance suite's inputs.


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            [
                {"type": "message", "role": "assistant", "content": "1", "phase": "commentary"},
                {"type": "message", "role": "assistant", "content": "2", "phase": "final_answer"},
                {"type": "message", "role": "user", "content": "3"},
            ],
            [{"role": "assistant", "content": "1\n\n2"}, {"role": "user", "content": "3"}],
        ),
        (
            [
                {"type": "message", "role": "system", "content": "You are a pirate."},
                {"type": "message", "role": "user", "content": "Hello."},
            ],
            [
                {"role": "system", "content": "You are a pirate."},
                {"role": "user", "content": "Hello."},
            ],
        ),
        (
            [
                {"type": "message", "role": "user", "content": "I am Alice."},
                {"type": "message", "role": "assistant", "content": "Hello, Alice."},
                {"type": "message", "role": "user", "content": "Who am I?"},
            ],
            [
                {"role": "user", "content": "I am Alice."},
                {"role": "assistant", "content": "Hello, Alice."},
                {"role": "user", "content": "Who am I?"},
            ],
        ),
        (
            [
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": PNG},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": PNG}},
                    ],
                }
            ],
        ),
    ],
    ids=["assistant-phase", "system-prompt", "multi-turn", "image-input"],
)
def test_inputs_of_the_compliance_suite(given: list[Json], messages: list[Json]) -> None:
    assert to_messages(parse_create({"model": "m", "input": given}).items) == messages


# Invariants.

# Without line breaks, which are what joined texts have between them.
_words = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=6)
_parts = st.lists(
    st.one_of(
        st.builds(lambda said: {"type": "input_text", "text": said}, _words),
        st.builds(lambda said: {"type": "output_text", "text": said}, _words),
        st.builds(lambda said: {"type": "refusal", "refusal": said}, _words),
    ),
    max_size=3,
)
_images = st.just([{"type": "input_image", "image_url": PNG}])
_items = st.one_of(
    st.builds(
        lambda role, content: {"type": "message", "role": role, "content": content},
        st.sampled_from(["user", "assistant", "system", "developer"]),
        _parts,
    ),
    st.builds(
        lambda before, image: {"type": "message", "role": "user", "content": before + image},
        _parts,
        _images,
    ),
    st.builds(call, _words, _words, _words),
    st.builds(output, _words, _words | _parts),
    st.just({"type": "reasoning", "summary": []}),
)


def said_in(content: Any) -> list[str]:
    """The texts of an item's content."""
    if isinstance(content, str):
        return [content]
    return [part.get("text", part.get("refusal", "")) for part in content or ()]


@no_deadline
@given(st.lists(_items, max_size=8), st.none() | _words)
def test_messages_hold_all_that_was_said(items: list[Json], instructions: str | None) -> None:
    """Every text reaches the model once, in order; so do images, calls and outputs."""
    messages = to_messages(items, instructions)
    given = [said for item in items for said in said_in(item.get("content", item.get("output")))]
    told = [said for message in messages for said in said_in(message["content"])]
    assert "".join(told).replace("\n\n", "") == (instructions or "") + "".join(given)

    calls = [call for message in messages for call in message.get("tool_calls", ())]
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        (item["call_id"], item["name"], item["arguments"])
        for item in items
        if item["type"] == "function_call"
    ]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == [
        item["call_id"] for item in items if item["type"] == "function_call_output"
    ]
    assert orjson.dumps(messages).count(PNG.encode()) == orjson.dumps(items).count(PNG.encode())


@no_deadline
@given(st.lists(_items, max_size=8), st.none() | _words)
def test_messages_are_what_templates_take(items: list[Json], instructions: str | None) -> None:
    """Roles are legal, the front holds one system message at most, a turn is one message."""
    messages = to_messages(items, instructions)
    roles = [message["role"] for message in messages]
    assert set(roles) <= {"system", "user", "assistant", "tool"}
    assert roles[:2] != ["system", "system"]
    assert ("assistant", "assistant") not in pairwise(roles)
    for message in messages:
        assert message["content"] is not None or message["tool_calls"]


@no_deadline
@given(speeches(), st.sampled_from(REASONS))
def test_a_responses_own_output_is_input(speech: list[Call], reason: str) -> None:
    """Output that is replayed verbatim is accepted as it is, and says the same to the model."""
    said = recorder(parse_create({"input": "Hi"}))
    play(said, *speech, ("finish", reason), ("complete", 2.0))
    items = parse_input([{"role": "user", "content": "Hi"}, *said.output])
    assert items[1:] == said.output
    assert meaning_of_output(items[1:]) == (meaning(speech) or [[("output_text", "")]])
    answers = [output(i["call_id"], "1") for i in items if i["type"] == "function_call"]
    check_call_ids(items, answers)
    roles = [message["role"] for message in to_messages([*items, *answers])]
    spoken = ["assistant"] if any(item["type"] != "reasoning" for item in said.output) else []
    assert roles == ["user", *spoken, *["tool"] * len(answers)]
