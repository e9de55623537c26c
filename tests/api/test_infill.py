"""llama.cpp's infill: what is asked, and the answers in its clients' words."""

from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.completions import MAX_N
from hub.api.early_stop import EarlyStop
from hub.api.infill import (
    InfillStream,
    Took,
    infill_answer,
    infill_error,
    parse_infill,
)
from hub.api.recorder import Recorder
from hub.api.requests import ContextFile, Generation, Json, Usage
from hub.api.sse import SseParser
from hub.errors import TABLE, HubError
from tests.api.anyjson import Path, attempt, changed, paths, values
from tests.api.speech import Call, ends, no_deadline, play, speeches

FIELDS = [
    "content",
    "timings/prompt_n",
    "timings/prompt_ms",
    "timings/prompt_per_token_ms",
    "timings/prompt_per_second",
    "timings/predicted_n",
    "timings/predicted_ms",
    "timings/predicted_per_token_ms",
    "timings/predicted_per_second",
    "truncated",
    "tokens_cached",
]

VIM: Json = {
    "id_slot": 0,
    "input_prefix": "import os\ndef add(a, b):\n",
    "prompt": "    return ",
    "input_suffix": "\n\n\ndef mul(a, b):\n",
    "input_extra": [{"text": "x = 1\n", "filename": "x.py", "time": 1.5}],
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "model": "",
    "response_fields": FIELDS,
}
"""What llama.vim sends."""

WARM_UP: Json = {
    "id_slot": 0,
    "input_prefix": "",
    "prompt": "",
    "input_suffix": "",
    "input_extra": [{"text": "x = 1\n", "filename": "x.py", "time": 1.5}],
    "n_predict": 0,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}

PLAIN: Json = {"input_prefix": "a", "input_suffix": "b"}

FULL: Json = {**VIM, "n_cmpl": 2, "n": 2, "max_tokens": 5, "seed": 5, "single_line": True,
              "temperature": 0.5, "lora": [{"id": 0}]}  # fmt: skip


# What is asked.


def test_what_llama_vim_asks() -> None:
    asked = parse_infill(VIM)
    (request,) = asked.requests
    assert request.generation == Generation(
        model="",
        messages=(),
        prompt="import os\ndef add(a, b):\n    return ",
        suffix="\n\n\ndef mul(a, b):\n",
        files=[ContextFile("x.py", "x = 1\n")],
        max_tokens=128,
        stop=[],
        extra={
            "n_indent": 4,
            "top_k": 40,
            "top_p": 0.9,
            "samplers": ["top_k", "top_p", "infill"],
            "cache_prompt": True,
            "t_max_prompt_ms": 500,
            "t_max_predict_ms": 250,
        },
    )
    assert request.early_stop == EarlyStop(indent=4, budget=0.25, suffix="\n\n\ndef mul(a, b):\n")
    assert (request.stream, request.store, request.background) == (False, False, False)
    assert (asked.kind, asked.stream, asked.array) == ("foreground", False, False)
    assert asked.response_fields == FIELDS


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (VIM, "foreground"),
        ({**VIM, "t_max_predict_ms": 1000}, "speculative"),
        (WARM_UP, "warmup"),
        (PLAIN, "foreground"),
        ({**PLAIN, "n_predict": 0}, "warmup"),
        ({**PLAIN, "samplers": []}, "warmup"),
        ({**PLAIN, "response_fields": [""]}, "warmup"),
        ({**PLAIN, "response_fields": []}, "foreground"),
        ({**PLAIN, "t_max_predict_ms": 500}, "foreground"),
    ],
)
def test_the_kinds_are_told_apart_by_the_fields(body: Json, kind: str) -> None:
    asked = parse_infill(body)
    assert asked.kind == kind
    if kind == "warmup":
        assert asked.requests[0].generation.max_tokens == 0


@pytest.mark.parametrize(
    ("body", "generation"),
    [
        ({}, {}),
        ({"model": "m"}, {"model": "m"}),
        ({"n_predict": -1}, {}),
        ({"n_predict": -2}, {}),
        ({"n_predict": 7, "max_tokens": 5}, {"max_tokens": 7}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"input_extra": [{"text": "x"}]}, {"files": [ContextFile("tmp", "x")]}),
        ({"stop": ["\n"]}, {"stop": ["\n"]}),
        ({"id_slot": 3, "n_cmpl": 1, "single_line": False}, {}),
        ({"lora": [{"id": 0}], "samplers": None}, {"extra": {"lora": [{"id": 0}]}}),
    ],
)
def test_what_the_engine_is_asked(body: Json, generation: Json) -> None:
    nothing = Generation(model="", messages=(), prompt="a", suffix="b", files=[], stop=[])
    (request,) = parse_infill({**PLAIN, **body}).requests
    assert request.generation == replace(nothing, **generation)


def test_several_completions_are_requests_with_different_seeds() -> None:
    asked = parse_infill({**PLAIN, "n_cmpl": 3, "seed": 5, "stream": True})
    assert [one.generation.extra["seed"] for one in asked.requests] == [5, 6, 7]
    assert (asked.array, asked.stream) == (True, True)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input_prefix": None}, "missing_required_parameter", "input_prefix"),
        ({"input_suffix": None}, "missing_required_parameter", "input_suffix"),
        ({"input_prefix": 5}, "invalid_type", "input_prefix"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": [1, 2]}, "unsupported_value", "prompt"),
        ({"input_extra": {}}, "invalid_type", "input_extra"),
        ({"input_extra": ["x"]}, "invalid_type", "input_extra[0]"),
        ({"input_extra": [{}]}, "missing_required_parameter", "input_extra[0].text"),
        ({"input_extra": [{"text": 5}]}, "invalid_type", "input_extra[0].text"),
        ({"n_predict": "5"}, "invalid_type", "n_predict"),
        ({"n_predict": -3}, "invalid_value", "n_predict"),
        ({"n_indent": "4"}, "invalid_type", "n_indent"),
        ({"t_max_predict_ms": 0.5}, "invalid_type", "t_max_predict_ms"),
        ({"n_cmpl": MAX_N + 1}, "invalid_value", "n_cmpl"),
        ({"response_fields": "content"}, "invalid_type", "response_fields"),
        ({"response_fields": ["content", 5]}, "invalid_type", "response_fields[1]"),
        ({"stream": 1}, "invalid_type", "stream"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"model": 5}, "invalid_type", "model"),
    ],
)
def test_what_is_refused(body: Json, code: str, param: str) -> None:
    error = attempt(parse_infill, {**PLAIN, **body})
    assert isinstance(error, HubError)
    assert (error.code, error.param) == (code, param)


@pytest.mark.parametrize("body", [None, [], "Hi", 5])
def test_the_body_is_an_object(body: Any) -> None:
    error = attempt(parse_infill, body)
    assert isinstance(error, HubError)
    assert error.code == "invalid_type"


@settings(no_deadline, max_examples=200)
@given(st.sampled_from(list(paths(FULL))), values)
def test_any_json_at_any_field_is_requests_or_a_typed_error(path: Path, value: Any) -> None:
    asked = attempt(parse_infill, changed(FULL, path, value))
    if isinstance(asked, HubError):
        assert asked.status == 400
        assert asked.param is not None
        assert asked.param.split(".")[0].split("[")[0] in FULL
        return
    for request in asked.requests:
        assert request.generation.suffix is not None
        assert "id_slot" not in request.generation.extra
        assert orjson.dumps(dict(request.generation.extra))


# The answer.

STOP: list[Call] = [("finish", "stop"), ("complete", 2.0)]
FAILED: Call = ("fail", HubError("upstream_error", "It broke."))


def answered(*calls: Call) -> Recorder:
    (request,) = parse_infill(PLAIN).requests
    made = Recorder(request, id="resp_0", model="m", now=1_800_000_000.9)
    made.created()
    made.started()
    play(made, *calls)
    return made


USED: Call = ("usage", Usage(1053, 20, 1000))


def test_the_answer_that_llama_vim_asks_for() -> None:
    """Flat, with slashes, in the order in which it was asked for."""
    said = answered(("text", "a "), ("text", "+ b"), USED, *STOP)
    answer = infill_answer(said, parse_infill(VIM), took=Took(prompt=0.1, predicted=0.25))
    assert orjson.dumps(answer) == (
        b'{"content":"a + b","timings/prompt_n":53,"timings/prompt_ms":100.0,'
        b'"timings/prompt_per_token_ms":1.887,"timings/prompt_per_second":530.0,'
        b'"timings/predicted_n":20,"timings/predicted_ms":250.0,'
        b'"timings/predicted_per_token_ms":12.5,"timings/predicted_per_second":80.0,'
        b'"truncated":false,"tokens_cached":1000}'
    )


def test_a_whole_answer() -> None:
    said = answered(("reasoning", "hm"), ("text", "a"), USED, ("finish", "length"), STOP[1])
    answer = infill_answer(said, parse_infill(PLAIN), index=1)
    assert answer.pop("timings")["cache_n"] == 1000
    assert answer == {
        "index": 1,
        "content": "a",
        "stop": True,
        "stop_type": "limit",
        "model": "m",
        "tokens_predicted": 20,
        "tokens_evaluated": 1053,
        "tokens_cached": 1000,
        "truncated": False,
    }


def test_what_nobody_has_counted_is_zero() -> None:
    answer = infill_answer(answered(("text", "a"), *STOP), parse_infill(PLAIN))
    assert set(answer["timings"].values()) == {0}
    assert answer["stop_type"] == "eos"


@pytest.mark.parametrize(
    ("fields", "picked"),
    [
        ([""], {}),
        (["content"], {"content": "a"}),
        (["timings/cache_n", "content/x", "nothing", "timings/"], {"timings/cache_n": 0}),
        (["stop", "stop"], {"stop": True}),
    ],
)
def test_fields_are_picked_by_path(fields: list[str], picked: Json) -> None:
    asked = parse_infill({**PLAIN, "response_fields": fields})
    assert infill_answer(answered(("text", "a"), *STOP), asked) == picked


def test_who_was_superseded_gets_nothing_that_a_client_would_remember() -> None:
    said = answered(("text", "half"), ("cancel",))
    assert infill_answer(said, parse_infill(VIM), superseded=True) == {}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (FAILED, "upstream_error"),
        (("complete", 2.0), "upstream_incomplete_stream"),
        (("cancel",), "shutting_down"),
    ],
)
def test_one_that_is_not_whole_leaves_no_whole_answer(end: Call, code: str) -> None:
    with pytest.raises(HubError) as raised:
        infill_answer(answered(("text", "half"), end), parse_infill(PLAIN))
    assert raised.value.code == code


def stream(
    said: Recorder, body: Json = PLAIN, *, index: int = 0, superseded: bool = False
) -> list[Any]:
    blocks = InfillStream(
        said,
        parse_infill(body),
        index=index,
        took=lambda: Took(0.1, 0.25),
        superseded=lambda: superseded,
    )
    payloads = SseParser().feed(b"".join(blocks.render(event) for event in said.log.read(-1)))
    return [orjson.loads(payload) for payload in payloads]


def test_a_stream_block_by_block() -> None:
    said = answered(("reasoning", "hm"), ("text", "a\n"), ("text", "b"), USED, *STOP)
    first, second, last = stream(said, index=1)
    assert first == {"index": 1, "content": "a\n", "stop": False}
    assert second == {"index": 1, "content": "b", "stop": False}
    assert last["timings"]["predicted_ms"] == 250.0
    whole = infill_answer(said, parse_infill(PLAIN), index=1, took=Took(0.1, 0.25))
    assert last == {**whole, "content": ""}


def test_the_last_block_of_a_stream_has_what_was_asked_for() -> None:
    *_, last = stream(answered(("text", "a"), *STOP), {**PLAIN, "response_fields": ["truncated"]})
    assert last == {"truncated": False}


def test_a_stream_that_was_superseded_ends_without_an_error() -> None:
    said = answered(("text", "half"), ("cancel",))
    assert stream(said, superseded=True)[1:] == [{"index": 0, "content": "", "stop": True}]


@settings(no_deadline, max_examples=50)
@given(speeches(), ends)
def test_every_stream_says_what_the_whole_answer_says(said: list[Call], end: list[Call]) -> None:
    """It adds up to the same text and ends once, or both have the same error."""
    made = answered(*said, *end)
    *blocks, last = stream(made)
    whole = attempt(partial(infill_answer, asked=parse_infill(PLAIN)), made)
    assert not any(block["stop"] for block in blocks)
    if isinstance(whole, HubError):
        assert last == {**infill_error(whole), "index": 0}
    else:
        assert last["stop"]
        assert "".join(block["content"] for block in blocks) == whole["content"]


@pytest.mark.parametrize(
    ("code", "status", "type"),
    [
        ("invalid_type", 400, "invalid_request_error"),
        ("context_length_exceeded", 400, "exceed_context_size_error"),
        ("model_not_found", 404, "not_found_error"),
        ("rate_limit_exceeded", 429, "invalid_request_error"),
        ("fim_not_supported", 501, "not_supported_error"),
        ("upstream_error", 502, "server_error"),
        ("upstream_overloaded", 503, "unavailable_error"),
        ("origin_not_allowed", 403, "permission_error"),
    ],
)
def test_errors_have_llama_cpps_shape(code: str, status: int, type: str) -> None:
    assert infill_error(HubError(code, "No.")) == {
        "error": {"code": status, "message": "No.", "type": type}
    }


def test_every_error_can_be_told() -> None:
    for code, row in TABLE.items():
        assert infill_error(HubError(code, "No."))["error"]["code"] == row.status
