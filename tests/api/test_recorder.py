"""The recorder: the protocol's event sequences, its schemas, and what every client may rely on."""

from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from hub.api.recorder import FINISH, TERMINAL_EVENTS, Recorder
from hub.api.requests import Json, Usage
from hub.api.responses import parse_create
from hub.errors import HubError
from tests.api.openapi import EVENTS, check_event, check_response
from tests.api.speech import (
    Call,
    Client,
    ends,
    heard,
    meaning,
    meaning_of_output,
    no_deadline,
    play,
    recorder,
    speeches,
)

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
PLAIN = parse_create({"input": "Hi"})
REQUESTS = [
    PLAIN,
    parse_create(
        {
            "input": "Hi",
            "background": True,
            "instructions": "Be brief.",
            "max_output_tokens": 9,
            "max_tool_calls": 2,
            "metadata": {"k": "v"},
            "previous_response_id": "resp_0",
            "prompt_cache_key": "p",
            "reasoning": {"effort": "minimal", "summary": "auto"},
            "safety_identifier": "s",
            "temperature": 0,
            "text": {"format": {"type": "json_object"}, "verbosity": "low"},
            "tools": [TOOL],
            "tool_choice": {"type": "function", "name": "f"},
            "top_logprobs": 3,
            "truncation": "auto",
            "user": "u",
        }
    ),
    parse_create(
        {
            "store": False,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": None}},
            "tools": [{**TOOL, "strict": True, "description": "F."}],
            "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
        }
    ),
]
requests = st.sampled_from(REQUESTS)


def events(recorder: Recorder) -> list[Json]:
    return [heard(event) for event in recorder.log.read(-1)]


def outline(recorder: Recorder) -> list[str]:
    """The events in short: the type, and what is particular to it."""
    ids: dict[str, str] = {}
    lines: list[str] = []
    for event in events(recorder):
        line = event["type"].removeprefix("response.")
        if response := event.get("response"):
            line += f" {response['status']}, {len(response['output'])} items"
        if item := event.get("item"):
            ids.setdefault(item["id"], f"{item['id'].split('_')[0]}{len(ids)}")
            content = item.get("content", item.get("arguments"))
            line += f" {ids[item['id']]} {item.get('status')} {content!r}"
        if part := event.get("part"):
            line += f" {part!r}"
        if "item_id" in event:
            line += f" in {ids[event['item_id']]}"
        for name in ("delta", "text", "refusal", "arguments"):
            if name in event:
                line += f" {event[name]!r}"
        place = [event[name] for name in ("output_index", "content_index") if name in event]
        lines.append(f"{line} @{place}" if place else line)
    return lines


def record(*calls: Call, **options: str) -> Recorder:
    one = recorder(PLAIN, **options)
    play(one, *calls)
    return one


TEXT = {"type": "output_text", "text": "hi there", "annotations": [], "logprobs": []}
EMPTY = {**TEXT, "text": ""}


# Sequences, as the protocol's reference shows them.


def test_text() -> None:
    said = record(("text", "hi "), ("text", "there"), ("finish", "stop"), ("complete", 2.0))
    assert outline(said) == [
        "created in_progress, 0 items",
        "in_progress in_progress, 0 items",
        "output_item.added msg0 in_progress [] @[0]",
        f"content_part.added {EMPTY!r} in msg0 @[0, 0]",
        "output_text.delta in msg0 'hi ' @[0, 0]",
        "output_text.delta in msg0 'there' @[0, 0]",
        "output_text.done in msg0 'hi there' @[0, 0]",
        f"content_part.done {TEXT!r} in msg0 @[0, 0]",
        f"output_item.done msg0 completed {[TEXT]!r} @[0]",
        "completed completed, 1 items",
    ]


def test_a_function_call() -> None:
    said = record(
        ("tool_call", 0, "call_1", "get_weather", ""),
        ("tool_call", 0, None, None, '{"city"'),
        ("tool_call", 0, None, None, ":1}"),
        ("tool_call", 1, None, "now", "{}"),
        ("finish", "tool_calls"),
        ("complete", 2.0),
    )
    assert outline(said)[2:] == [
        "output_item.added fc0 in_progress '' @[0]",
        "function_call_arguments.delta in fc0 '{\"city\"' @[0]",
        "function_call_arguments.delta in fc0 ':1}' @[0]",
        "function_call_arguments.done in fc0 '{\"city\":1}' @[0]",
        "output_item.done fc0 completed '{\"city\":1}' @[0]",
        "output_item.added fc1 in_progress '' @[1]",
        "function_call_arguments.delta in fc1 '{}' @[1]",
        "function_call_arguments.done in fc1 '{}' @[1]",
        "output_item.done fc1 completed '{}' @[1]",
        "completed completed, 2 items",
    ]
    first, second = said.output
    assert (first["call_id"], first["name"]) == ("call_1", "get_weather")
    assert second["call_id"].startswith("call_"), "a call needs an id that its output can name"
    assert second["name"] == "now"


@pytest.mark.parametrize("name", ["reasoning_text", "reasoning"])
def test_reasoning_then_text(name: str) -> None:
    said = record(
        ("reasoning", "think"),
        ("reasoning", "ing"),
        ("text", "ok"),
        ("finish", "stop"),
        ("complete", 2.0),
        reasoning_events=name,
    )
    thought = {"type": "reasoning_text", "text": "thinking"}
    assert outline(said)[2:11] == [
        "output_item.added rs0 None [] @[0]",
        f"content_part.added { ({**thought, 'text': ''})!r} in rs0 @[0, 0]",
        f"{name}.delta in rs0 'think' @[0, 0]",
        f"{name}.delta in rs0 'ing' @[0, 0]",
        f"{name}.done in rs0 'thinking' @[0, 0]",
        f"content_part.done {thought!r} in rs0 @[0, 0]",
        f"output_item.done rs0 None {[thought]!r} @[0]",
        "output_item.added msg1 in_progress [] @[1]",
        f"content_part.added {EMPTY!r} in msg1 @[1, 0]",
    ]


def test_a_refusal_is_another_part_of_the_message() -> None:
    said = record(("text", "hi there"), ("refusal", "No."), ("finish", "stop"), ("complete", 2.0))
    refusal = {"type": "refusal", "refusal": "No."}
    assert outline(said)[5:] == [
        "output_text.done in msg0 'hi there' @[0, 0]",
        f"content_part.done {TEXT!r} in msg0 @[0, 0]",
        f"content_part.added { ({**refusal, 'refusal': ''})!r} in msg0 @[0, 1]",
        "refusal.delta in msg0 'No.' @[0, 1]",
        "refusal.done in msg0 'No.' @[0, 1]",
        f"content_part.done {refusal!r} in msg0 @[0, 1]",
        f"output_item.done msg0 completed {[TEXT, refusal]!r} @[0]",
        "completed completed, 1 items",
    ]


def test_logprobs_come_with_their_text_and_again_when_it_is_done() -> None:
    given = {"token": "hi there", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    said = record(("text", "hi there", [given]), ("finish", "stop"), ("complete", 2.0))
    told = [{**given, "bytes": []}]
    delta, done = [e for e in events(said) if e["type"].startswith("response.output_text.")]
    assert delta["logprobs"] == done["logprobs"] == told
    assert said.output[0]["content"] == [{**TEXT, "logprobs": told}]


def test_an_empty_answer_is_one_empty_message() -> None:
    said = record(("finish", "stop"), ("complete", 2.0))
    assert outline(said)[2:] == [
        "output_item.added msg0 in_progress [] @[0]",
        f"content_part.added {EMPTY!r} in msg0 @[0, 0]",
        "output_text.done in msg0 '' @[0, 0]",
        f"content_part.done {EMPTY!r} in msg0 @[0, 0]",
        f"output_item.done msg0 completed {[EMPTY]!r} @[0]",
        "completed completed, 1 items",
    ]


def test_a_warm_up_has_no_output() -> None:
    warm = recorder(parse_create({"generate": False}))
    warm.complete(2.0)
    assert outline(warm) == [
        "created in_progress, 0 items",
        "in_progress in_progress, 0 items",
        "completed completed, 0 items",
    ]


def test_a_background_response_is_queued_until_it_is_dispatched() -> None:
    one = recorder(parse_create({"input": "Hi", "background": True}))
    assert outline(one) == [
        "created queued, 0 items",
        "queued queued, 0 items",
        "in_progress in_progress, 0 items",
    ]


# Ends.


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_why_the_model_stopped(reason: str, status: str, details: Json | None) -> None:
    said = record(
        ("reasoning", "hm"),
        ("tool_call", 0, None, "f", "{}"),
        ("text", "hi"),
        ("usage", Usage(1, 2, 3, 4)),
        ("finish", reason),
        ("complete", 5.9),
    )
    last = events(said)[-1]
    assert last["type"] == f"response.{status}"
    response = last["response"]
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert response["completed_at"] == (5 if status == "completed" else None)
    assert response["usage"]["total_tokens"] == 3
    # Only the item that was cut off is incomplete.
    assert [item.get("status") for item in said.output] == [None, "completed", status]


def test_every_finish_reason_of_the_contract_is_known_and_no_other() -> None:
    assert sorted(FINISH) == ["content_filter", "length", "stop", "tool_calls"]
    with pytest.raises(AssertionError, match="eos"):
        record(("finish", "eos"))


def test_the_last_usage_wins() -> None:
    assert record().reported_usage is None
    said = record(("usage", Usage(1, 1)), ("usage", Usage(1, 2)))
    assert said.reported_usage == Usage(1, 2)


def test_an_engine_that_gives_no_reason_has_failed() -> None:
    said = record(("text", "hi"), ("complete", 2.0))
    assert said.status == "failed"
    assert said.error is not None
    assert said.error.code == "upstream_incomplete_stream"


def test_failing_leaves_the_open_item_without_done_events() -> None:
    said = record(("text", "hi"), ("fail", HubError("upstream_error", "It broke.")))
    assert outline(said)[4:] == ["output_text.delta in msg0 'hi' @[0, 0]", "failed failed, 1 items"]
    response = events(said)[-1]["response"]
    assert response["error"] == {"code": "upstream_error", "message": "It broke."}
    assert response["incomplete_details"] is None
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "hi"


def test_cancelling_keeps_what_was_said() -> None:
    said = record(("tool_call", 0, None, "f", "{"), ("cancel",))
    assert outline(said)[3:] == [
        "function_call_arguments.delta in fc0 '{' @[0]",
        "incomplete cancelled, 1 items",
    ]
    response = events(said)[-1]["response"]
    assert response["incomplete_details"] == {"reason": "cancelled"}
    assert response["error"] is None
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["arguments"] == "{"


def test_failing_before_anything_was_said() -> None:
    queued = Recorder(REQUESTS[1], id="resp_1", model="m", now=1.0)
    queued.created()
    queued.fail(HubError("rate_limit_exceeded", "Full."))
    assert outline(queued)[2:] == ["failed failed, 0 items"]


@pytest.mark.parametrize("between", [("tool_call", 1, None, "g", ""), ("text", "hi")])
def test_a_model_that_goes_back_to_a_call_breaks_the_protocol(between: Call) -> None:
    said = record(("tool_call", 0, None, "f", "{"), between)
    with pytest.raises(HubError) as raised:
        said.tool_call(0, None, None, "}")
    assert raised.value.code == "upstream_protocol_error"
    said.fail(raised.value)
    assert said.status == "failed"


def test_nothing_follows_the_end() -> None:
    said = record(("cancel",))
    for late in (("text", "hi"), ("cancel",), ("fail", HubError("server_error", ""))):
        with pytest.raises(AssertionError, match="after the end of the log"):
            play(said, late)


# Invariants.


@settings(no_deadline, max_examples=60)
@given(requests, speeches(), ends)
def test_every_event_and_snapshot_is_the_protocols(
    request: Any, speech: list[Call], end: list[Call]
) -> None:
    """Whatever is said, every event and every snapshot validates against Open Responses."""
    one = recorder(request, reasoning_events="reasoning")
    check_response(one.snapshot())
    for call in [*speech, *end]:
        play(one, call)
        check_response(one.snapshot())
    for event in events(one):
        check_event(event)


_SDK: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@settings(no_deadline, max_examples=40)
@given(requests, speeches(), st.sampled_from(["stop", "length"]))
def test_every_event_is_the_sdks(request: Any, speech: list[Call], reason: str) -> None:
    """Whatever is said, every event validates against the types of the openai SDK."""
    one = recorder(request)
    play(one, *speech, ("finish", reason), ("complete", 2.0))
    for event in events(one):
        _SDK.validate_python(event)


def test_only_the_names_of_the_reasoning_events_differ() -> None:
    ours, specs = (
        record(("reasoning", "hm"), ("finish", "stop"), ("complete", 2.0), reasoning_events=name)
        for name in ("reasoning_text", "reasoning")
    )
    renamed = [line.replace("reasoning_text.", "reasoning.") for line in outline(ours)]
    assert renamed == outline(specs)
    unknown = {event["type"] for event in events(ours)} - set(EVENTS)
    assert unknown == {"response.reasoning_text.delta", "response.reasoning_text.done"}


@no_deadline
@given(requests, speeches(), ends)
def test_numbers_and_the_terminal_event(request: Any, speech: list[Call], end: list[Call]) -> None:
    """Events are numbered from 0 without gaps, created first, exactly one terminal event, last."""
    one = recorder(request)
    play(one, *speech)
    assert not one.ended
    play(one, *end)
    assert one.ended
    told = events(one)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[0]["type"] == "response.created"
    terminal = [event["type"] in TERMINAL_EVENTS for event in told]
    assert terminal == [False] * (len(told) - 1) + [True]


@no_deadline
@given(speeches(), ends)
def test_the_output_is_what_was_said(speech: list[Call], end: list[Call]) -> None:
    """The output holds exactly what the model said, item by item, with an id for each."""
    one = record(*speech, *end)
    # An empty answer is one empty message.
    empty = [[("output_text", "")]] if end[0][0] == "finish" else []
    assert meaning_of_output(one.output) == (meaning(speech) or empty)
    ids = [item["id"] for item in one.output]
    assert len(set(ids)) == len(ids)
    prefixes = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
    assert all(item["id"].startswith(f"{prefixes[item['type']]}_") for item in one.output)


@no_deadline
@given(speeches(), ends)
def test_a_client_that_reads_along_has_the_snapshot(speech: list[Call], end: list[Call]) -> None:
    """Folding the events read so far gives the snapshot's output, at any time and at the end."""
    one, client = recorder(PLAIN), Client()
    for call in [*speech, *end]:
        play(one, call)
        client.feed(one.log.read(client.cursor))
        assert client.output == one.snapshot()["output"]
    assert client.response == one.snapshot()
    assert client.output == client.response["output"]


@no_deadline
@given(
    speeches(),
    ends,
    st.lists(st.none() | st.integers(1, 2000), min_size=1, max_size=8),
)
def test_a_client_that_lags_ends_with_the_same(
    speech: list[Call], end: list[Call], pace: list[int | None]
) -> None:
    """A client that reads merged events, when and as much as it can, ends with the same output."""
    one, client = recorder(PLAIN), Client()
    for call, budget in zip([*speech, *end], cycle(pace), strict=False):
        play(one, call)
        if budget is not None:
            client.feed(one.log.read(client.cursor, merge=True, budget=budget))
    client.feed(one.log.read(client.cursor, merge=True))
    assert client.cursor == one.log.last
    assert client.response == one.snapshot()
    assert client.output == one.output


@no_deadline
@given(speeches(), ends)
def test_merging_is_the_same_from_any_cursor(speech: list[Call], end: list[Call]) -> None:
    """From any cursor, what was read before and the merged rest make up the same output."""
    one = record(*speech, *end)
    whole = one.log.read(-1)
    for cursor in range(-1, len(whole)):
        client = Client()
        client.feed(whole[: cursor + 1])
        client.feed(one.log.read(cursor, merge=True))
        assert client.cursor == one.log.last
        assert client.output == one.output


@no_deadline
@given(speeches(), ends)
def test_what_was_told_never_changes(speech: list[Call], end: list[Call]) -> None:
    """An event's fields stay what its wire form says, whatever is said after it."""
    for event in record(*speech, *end).log.read(-1):
        if event.body:
            head = {"type": event.type, "sequence_number": event.seq}
            assert heard(event) == {**head, **event.body}


# Going on after a crash.


@pytest.mark.parametrize(
    ("calls", "unfinished"),
    [
        ([], ("", 0)),
        ([("text", "hi "), ("text", "there")], ("hi there", 2)),
        ([("reasoning", "hm"), ("text", "hi")], ("hi", 1)),
        ([("reasoning", "hm")], None),
        ([("refusal", "No.")], None),
        ([("refusal", "No."), ("text", "hi")], None),
        ([("tool_call", 0, None, "f", "{")], None),
        ([("tool_call", 0, None, "f", "{}"), ("text", "hi")], None),
        ([("text", "hi"), ("reasoning", "hm"), ("text", "there")], None),
        ([("text", "hi"), ("cancel",)], None),
    ],
)
def test_what_an_engine_may_go_on_with(
    calls: list[Call], unfinished: tuple[str, int] | None
) -> None:
    assert record(*calls).unfinished() == unfinished


# For Chat Completions.


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([("finish", "stop")], "stop"),
        ([("finish", "length")], "length"),
        ([("finish", "content_filter")], "content_filter"),
        ([("tool_call", 0, None, "f", ""), ("finish", "tool_calls")], "tool_calls"),
        # Some model servers say "stop" after tool calls; clients go by the reason.
        ([("tool_call", 0, None, "f", ""), ("finish", "stop")], "tool_calls"),
        ([("tool_call", 0, None, "f", ""), ("finish", "length")], "length"),
        ([], "stop"),
    ],
)
def test_chats_finish_reason(calls: list[Call], reason: str) -> None:
    assert record(*calls).finish_reason == reason


def test_created_at_is_whole_seconds() -> None:
    assert record().created_at == record().snapshot()["created_at"] == 1_800_000_000
