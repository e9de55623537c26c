"""Completions: what is asked, and the answer, streamed and whole."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion

from hub.api.chat import PASSED_ON
from hub.api.completions import (
    MAX_MEMBERS,
    MAX_N,
    MAX_SEED,
    CompletionStream,
    parse_completions,
    text_completion,
)
from hub.api.early_stop import EarlyStop
from hub.api.recorder import Recorder
from hub.api.requests import Generation, Json, Request, Usage
from hub.api.sse import SseParser
from hub.errors import HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.speech import REASONS, Call, ends, no_deadline, play, speeches

FULL: Json = {
    "model": "m",
    "prompt": ["Once", "Twice"],
    "suffix": None,
    "single_line": True,
    "n_indent": 4,
    "t_max_predict_ms": 250,
    "echo": False,
    "best_of": 1,
    "logprobs": None,
    "n": 2,
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "stop": ["a", "b"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "service_tier": "flex",
    **dict.fromkeys(PASSED_ON, 1),
}


# What is asked.


def parse_one(body: Json) -> Request:
    (request,) = parse_completions({"prompt": "Once", **body})
    return request


@pytest.mark.parametrize(
    ("body", "generation"),
    [
        ({}, {}),
        ({"model": "m"}, {"model": "m"}),
        ({"prompt": ""}, {"prompt": ""}),
        ({"prompt": ["Twice"]}, {"prompt": "Twice"}),
        ({"temperature": 0, "top_p": 1}, {"extra": {"temperature": 0, "top_p": 1}}),
        ({"presence_penalty": 1}, {"extra": {"presence_penalty": 1}}),
        ({"frequency_penalty": 1}, {"extra": {"frequency_penalty": 1}}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "", "b"]}, {"stop": ["a", "b"]}),
        ({"n": 1, "best_of": 1, "echo": False, "suffix": None, "logprobs": None}, {}),
        ({"suffix": "!"}, {"suffix": "!"}),
        ({"suffix": ""}, {"suffix": ""}),
        ({"prompt": ["Twice"], "suffix": "!"}, {"prompt": "Twice", "suffix": "!"}),
        ({"seed": -1}, {"extra": {"seed": -1}}),
    ],
)
def test_what_the_engine_is_asked(body: Json, generation: Json) -> None:
    nothing = Generation(model="", messages=(), prompt="Once", stop=[])
    assert parse_one(body).generation == replace(nothing, **generation)


def test_what_hub_goes_by() -> None:
    request = parse_one({})
    assert (request.stream, request.background, request.store) == (False, False, False)
    assert not request.include_usage
    assert request.generate
    assert not request.flex
    assert request.early_stop is None
    for request in parse_completions(FULL):
        assert request.stream
        assert request.flex
        assert request.include_usage
        assert request.model == request.generation.model == "m"


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ({"single_line": False, "n_indent": 0, "t_max_predict_ms": -1}, None),
        ({"single_line": True}, EarlyStop(single_line=True)),
        ({"n_indent": 4}, EarlyStop(indent=4)),
        ({"t_max_predict_ms": 250}, EarlyStop(budget=0.25)),
        ({"suffix": ""}, EarlyStop()),
        ({"suffix": ")\n"}, EarlyStop(suffix=")\n")),
    ],
)
def test_the_rules_of_its_early_end(body: Json, rules: EarlyStop | None) -> None:
    """A gap is always filled in by rules, a plain text only if they are asked for."""
    assert parse_one(body).early_stop == rules


@pytest.mark.parametrize("name", [name for name in PASSED_ON if name != "seed"])
def test_parameters_that_are_passed_on_as_they_are(name: str) -> None:
    for value in (0, "x", False, {"a": [1]}):
        assert parse_one({name: value}).generation.extra == {name: value}
    assert parse_one({name: None}).generation.extra == {}


UNKNOWN = st.text().filter(lambda name: name not in FULL) | st.sampled_from(
    ["id_slot", "n_predict"]
)


@given(UNKNOWN, values)
def test_unknown_parameters_are_ignored(name: str, value: Any) -> None:
    """A field that is not listed never reaches the model server."""
    assert parse_completions({**FULL, name: value}) == parse_completions(FULL)


@given(st.lists(st.text(max_size=3), min_size=1, max_size=9), st.integers(1, MAX_N))
def test_completion_k_of_prompt_i_has_the_index_that_servers_give_it(
    prompts: list[str], n: int
) -> None:
    if len(prompts) * n > MAX_MEMBERS:
        prompts = prompts[: MAX_MEMBERS // n]
    asked = parse_completions({"prompt": prompts, "n": n})
    assert len(asked) == len(prompts) * n
    for index, request in enumerate(asked):
        assert request.generation.prompt == prompts[index // n]


def test_the_completions_of_a_prompt_have_different_seeds() -> None:
    """Otherwise all of them would be the same text."""

    def seeds(seed: int) -> list[int]:
        asked = parse_completions({"prompt": ["a", "b"], "n": 3, "seed": seed})
        return [request.generation.extra["seed"] for request in asked]

    assert seeds(5) == [5, 6, 7] * 2
    assert seeds(0) == [0, 1, 2] * 2
    # "Any", for a model server.
    assert seeds(-1) == [-1] * 6
    assert orjson.dumps(seeds(MAX_SEED))


TOO_MANY = ["x"] * (MAX_MEMBERS + 1)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": {"prompt_string": "x"}}, "invalid_type", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": TOO_MANY}, "invalid_value", "prompt"),
        ({"prompt": ["x", None]}, "invalid_type", "prompt[1]"),
        ({"prompt": ["x", True]}, "invalid_type", "prompt[1]"),
        ({"prompt": ["x", {"prompt_string": "x"}]}, "invalid_type", "prompt[1]"),
        ({"prompt": [1, 2]}, "unsupported_value", "prompt"),
        ({"prompt": [1] * 1000}, "unsupported_value", "prompt"),
        ({"prompt": [[1, 2], [3]]}, "unsupported_value", "prompt"),
        ({"prompt": ["x", 1]}, "unsupported_value", "prompt"),
        ({"suffix": 5}, "invalid_type", "suffix"),
        ({"suffix": "", "prompt": ["x", "y"]}, "invalid_value", "suffix"),
        ({"single_line": 1}, "invalid_type", "single_line"),
        ({"n_indent": -1}, "invalid_value", "n_indent"),
        ({"t_max_predict_ms": "x"}, "invalid_type", "t_max_predict_ms"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": MAX_N + 1}, "invalid_value", "n"),
        ({"n": 2, "prompt": ["x"] * 65}, "invalid_value", "n"),
        ({"n": "2"}, "invalid_type", "n"),
        ({"model": 5}, "invalid_type", "model"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"max_tokens": -1}, "invalid_value", "max_tokens"),
        ({"max_tokens": "5"}, "invalid_type", "max_tokens"),
        ({"stop": 5}, "invalid_type", "stop"),
        ({"stop": ["a", 5]}, "invalid_type", "stop"),
        ({"seed": "x"}, "invalid_type", "seed"),
        ({"seed": MAX_SEED + 1}, "invalid_value", "seed"),
        ({"logprobs": 0}, "unsupported_parameter", "logprobs"),
        ({"logprobs": 5}, "unsupported_parameter", "logprobs"),
        ({"logprobs": 6}, "invalid_value", "logprobs"),
        ({"logprobs": True}, "invalid_type", "logprobs"),
        ({"echo": True}, "unsupported_parameter", "echo"),
        ({"echo": 1}, "invalid_type", "echo"),
        ({"best_of": 2}, "unsupported_value", "best_of"),
        ({"best_of": 0}, "invalid_value", "best_of"),
        ({"stream": 1}, "invalid_type", "stream"),
        ({"stream_options": True}, "invalid_type", "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "invalid_type", "stream_options.include_usage"),
    ],
)
def test_what_is_refused(body: Json, code: str, param: str) -> None:
    error = attempt(parse_completions, {"prompt": "Once", **body})
    assert isinstance(error, HubError)
    assert (error.code, error.param, error.status) == (code, param, 400)


def test_as_many_as_are_allowed() -> None:
    assert len(parse_completions({"prompt": ["x"] * MAX_MEMBERS})) == MAX_MEMBERS
    assert len(parse_completions({"prompt": ["x"] * 8, "n": MAX_N})) == MAX_MEMBERS


@pytest.mark.parametrize("body", [None, [], "Hi", 5])
def test_the_body_is_an_object(body: Any) -> None:
    error = attempt(parse_completions, body)
    assert isinstance(error, HubError)
    assert error.code == "invalid_type"


@settings(no_deadline, max_examples=300)
@given(st.sampled_from(list(paths(FULL))), values)
def test_any_json_at_any_field_is_requests_or_a_typed_error(path: Path, value: Any) -> None:
    """A body is requests that can be written, or an error that names its field."""
    asked = attempt(parse_completions, changed(FULL, path, value))
    if isinstance(asked, HubError):
        assert asked.status == 400
        assert asked.param is not None
        assert asked.param.split(".")[0].split("[")[0] in FULL
        return
    assert 1 <= len(asked) <= MAX_MEMBERS
    for request in asked:
        assert request.generation.prompt is not None
        assert orjson.dumps([request.generation.prompt, dict(request.generation.extra)])


# The answer.

STOP: list[Call] = [("finish", "stop"), ("complete", 2.0)]
FAILED = ("fail", HubError("upstream_error", "It broke."))


def recorders(count: int, *, usage: bool = False) -> list[Recorder]:
    """The recorders of one body's completions, all dispatched."""
    options = {"include_usage": usage}
    asked = parse_completions({"prompt": ["x"] * count, "stream": True, "stream_options": options})
    made = [
        Recorder(request, id=f"resp_{index}", model="m%d", now=1_800_000_000.9 + index)
        for index, request in enumerate(asked)
    ]
    for one in made:
        one.created()
        one.started()
    return made


def answered(*speeches: list[Call], usage: bool = False) -> list[Recorder]:
    """Completions in which this was said."""
    made = recorders(len(speeches), usage=usage)
    for one, calls in zip(made, speeches, strict=True):
        play(one, *calls)
    return made


def stream(made: list[Recorder], *, superseded: bool = False) -> list[Any]:
    """The chunks of a stream that is read one log after the other."""
    choices = CompletionStream(made, superseded=lambda: superseded).choices
    blocks = [
        choice.render(event)
        for one, choice in zip(made, choices, strict=True)
        for event in one.log.read(-1)
    ]
    *chunks, done = SseParser().feed(b"".join(blocks))
    assert done == b"[DONE]"
    return [orjson.loads(chunk) for chunk in chunks]


def test_a_stream_chunk_by_chunk() -> None:
    calls: list[Call] = [("reasoning", "hm"), ("text", "hi"), ("text", "!"), ("finish", "length")]
    chunks = stream(answered([*calls, ("complete", 2.0)], [("text", "ho"), *STOP]))
    head = {
        "id": "cmpl-0",
        "object": "text_completion",
        "created": 1_800_000_000,
        "model": "m%d",
    }
    choices = [(0, "hi", None), (0, "!", None), (0, "", "length"), (1, "ho", None), (1, "", "stop")]
    assert chunks == [
        {
            **head,
            "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}],
        }
        for index, text, reason in choices
    ]


def test_log_probabilities_that_nobody_asked_for_are_not_told() -> None:
    told = {"token": "hi", "logprob": -1.5, "bytes": [104, 105], "top_logprobs": []}
    said = answered([("text", "hi", [told]), *STOP])
    assert [chunk["choices"][0]["logprobs"] for chunk in stream(said)] == [None, None]


def test_a_whole_answer() -> None:
    hi: list[Call] = [("reasoning", "hm"), ("text", "hi"), ("text", "!"), ("finish", "length")]
    said = answered([*hi, ("complete", 2.0)], [("refusal", "No."), ("text", "ho"), *STOP], STOP)
    answer = text_completion(said)
    Completion.model_validate(answer)
    texts = [(0, "hi!", "length"), (1, "ho", "stop"), (2, "", "stop")]
    assert answer == {
        "id": "cmpl-0",
        "object": "text_completion",
        "created": 1_800_000_000,
        "model": "m%d",
        "choices": [
            {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            for index, text, reason in texts
        ],
    }


@pytest.mark.parametrize(
    ("said", "told"),
    [
        *((reason, reason) for reason in ("stop", "length", "content_filter")),
        ("tool_calls", "stop"),  # a raw text calls no tools, and this dialect has no such word
    ],
)
def test_finish_reasons(said: str, told: str) -> None:
    made = answered([("finish", said), ("complete", 2.0)])
    assert text_completion(made)["choices"][0]["finish_reason"] == told
    assert stream(made)[-1]["choices"][0]["finish_reason"] == told


def with_usage(*counts: Usage | None) -> list[list[Call]]:
    return [[("text", "x"), *([("usage", usage)] if usage else []), *STOP] for usage in counts]


def test_usage_is_the_sum() -> None:
    counts = [Usage(5, 3, 2, 1), Usage(7, 1)]
    total = Usage(12, 4, 2, 1).chat()
    assert text_completion(answered(*with_usage(*counts)))["usage"] == total
    *rest, last = stream(answered(*with_usage(*counts), usage=True))
    assert (last["choices"], last["usage"]) == ([], total)
    assert [chunk["usage"] for chunk in rest] == [None] * 4
    assert all("usage" not in chunk for chunk in stream(answered(*with_usage(*counts))))


def test_a_sum_that_lacks_one_is_not_told() -> None:
    partial = with_usage(Usage(5, 3), None)
    assert "usage" not in text_completion(answered(*partial))
    assert len(stream(answered(*partial, usage=True))) == 4


def test_usage_of_those_that_did_not_fail() -> None:
    said = answered([("text", "x"), FAILED], *with_usage(Usage(5, 3)), usage=True)
    assert stream(said)[-1]["usage"] == Usage(5, 3).chat()
    assert "error" in stream(answered([FAILED], usage=True))[-1]


def test_a_failure_is_an_event_with_its_index_and_the_others_go_on() -> None:
    first, error, second, end = stream(answered([("text", "a"), FAILED], [("text", "b"), *STOP]))
    assert first["choices"][0]["text"] == "a"
    assert error == {"index": 0, "error": HubError("upstream_error", "It broke.").body()}
    assert second["choices"][0]["text"] == "b"
    assert (end["choices"][0]["index"], end["choices"][0]["finish_reason"]) == (1, "stop")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ([FAILED], "upstream_error"),
        ([("complete", 2.0)], "upstream_incomplete_stream"),
        ([("cancel",)], "shutting_down"),
    ],
)
def test_one_that_is_not_whole_leaves_no_whole_answer(end: list[Call], code: str) -> None:
    said = answered([("text", "a"), *STOP], [("text", "half"), *end])
    assert [chunk["error"]["code"] for chunk in stream(said) if "error" in chunk] == [code]
    with pytest.raises(HubError) as raised:
        text_completion(said)
    assert raised.value.code == code


# Somebody who types does not wait for the answer to the last key.


def test_who_was_superseded_gets_an_empty_text_whatever_was_said() -> None:
    said = answered([("text", "half"), ("cancel",)], [("text", "whole"), *STOP])
    answer = text_completion(said, superseded=True)
    Completion.model_validate(answer)
    assert [(one["text"], one["finish_reason"]) for one in answer["choices"]] == [("", "stop")] * 2


def test_a_stream_that_was_superseded_ends_without_an_error() -> None:
    said = answered([("text", "half"), ("cancel",)], [("cancel",)])
    chunks = stream(said, superseded=True)
    assert [
        (chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks
    ] == [("half", None), ("", "stop"), ("", "stop")]


def test_only_what_was_cancelled_was_superseded() -> None:
    """A failure stays one, whatever was asked for since."""
    assert "error" in stream(answered([FAILED]), superseded=True)[0]


# Invariants.


@no_deadline
@given(
    st.lists(st.tuples(speeches(), st.sampled_from(REASONS)), min_size=1, max_size=4),
    st.booleans(),
    st.data(),
)
def test_streamed_and_whole_answers_say_the_same(
    said: list[tuple[list[Call], str]], usage: bool, data: st.DataObject
) -> None:
    """However the logs grow and are read, each index adds up to its own text."""
    made = recorders(len(said), usage=usage)
    choices = CompletionStream(made).choices
    left = [[*calls, ("finish", reason), ("complete", 2.0)] for calls, reason in said]
    cursors = [-1] * len(made)
    blocks = b""
    while any(left):
        index = data.draw(st.sampled_from([i for i, calls in enumerate(left) if calls]))
        play(made[index], left[index].pop(0))
        reader = data.draw(st.sampled_from([*range(len(made)), None]))
        for at in range(len(made)) if not any(left) else [reader]:
            if at is not None:
                for event in made[at].log.read(cursors[at], merge=True):
                    blocks += choices[at].render(event)
                    cursors[at] = event.seq
    *chunks, done = SseParser().feed(blocks)
    assert done == b"[DONE]"
    texts, reasons, told = [""] * len(made), [""] * len(made), None
    for chunk in map(orjson.loads, chunks):
        told = chunk.get("usage") or told
        for choice in chunk["choices"]:
            assert not reasons[choice["index"]], "news after the finish reason"
            texts[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"] or ""
    whole = text_completion(made)
    Completion.model_validate(whole)
    assert [choice["text"] for choice in whole["choices"]] == texts
    assert [choice["finish_reason"] for choice in whole["choices"]] == reasons
    assert told == (whole.get("usage") if usage else None)


@no_deadline
@given(st.lists(st.tuples(speeches(), ends), min_size=1, max_size=4))
def test_every_stream_ends(said: list[tuple[list[Call], list[Call]]]) -> None:
    """However the completions end, each has one finish reason or one error, and then it is done."""
    chunks = stream(answered(*([*speech, *end] for speech, end in said)))
    ended = [
        chunk["index"] if "error" in chunk else chunk["choices"][0]["index"]
        for chunk in chunks
        if "error" in chunk or chunk["choices"][0]["finish_reason"]
    ]
    assert ended == list(range(len(said)))
